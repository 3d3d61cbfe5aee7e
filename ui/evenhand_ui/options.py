"""How Streamlit is set wherever the review page runs, and how the page learns its run.

`ui/.streamlit/config.toml` repeats these for `streamlit run ui/app.py`; a test
holds the two together.
"""

__all__ = [
    "ARM_VARIABLE",
    "COORDINATOR_VARIABLE",
    "DATABASE_VARIABLE",
    "RUN_VARIABLE",
    "STREAMLIT_OPTIONS",
    "UPLOAD_LIMIT_MIB",
]

UPLOAD_LIMIT_MIB = 64
"""Largest corrected mask that is taken, as uploaded, in MiB. A real one has under 1."""

RUN_VARIABLE = "EVENHAND_REVIEW_RUN"
"""Environment variable that names the run folder."""

ARM_VARIABLE = "EVENHAND_REVIEW_ARM"
"""Environment variable that names the arm; unset: the preferred one."""

COORDINATOR_VARIABLE = "EVENHAND_COORDINATOR"
"""Environment variable that names a coordinator's folder; unset: the one in $EVENHAND_HOME."""

DATABASE_VARIABLE = "EVENHAND_REVIEW_DATABASE"
"""Environment variable with the URL of the review database; unset: SQLite in the run folder."""

STREAMLIT_OPTIONS: dict[str, str | bool | int] = {
    # Nobody outside this machine: there is no login yet.
    "server.address": "127.0.0.1",
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.maxUploadSize": UPLOAD_LIMIT_MIB,
    # An unexpected error must show the reader neither values nor a link to a search engine.
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "viewer",
    "browser.gatherUsageStats": False,
    # Information about the web server is not for the person who started the page.
    "logger.level": "error",
    # Images are read in dim light.
    "theme.base": "dark",
    # Streamlit's red would say "stop" on the button that goes on.
    "theme.primaryColor": "#1f6fc4",
}
"""Streamlit options by name."""
