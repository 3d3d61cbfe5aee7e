"""How Streamlit is set wherever the review page runs, and how the page learns its run.

`ui/.streamlit/config.toml` repeats these for `streamlit run ui/app.py`; a test
holds the two together.
"""

from evenhand_ui.masks import UPLOAD_LIMIT_MIB

__all__ = ["ARM_VARIABLE", "RUN_VARIABLE", "STREAMLIT_OPTIONS"]

RUN_VARIABLE = "EVENHAND_REVIEW_RUN"
"""Environment variable that names the run folder."""

ARM_VARIABLE = "EVENHAND_REVIEW_ARM"
"""Environment variable that names the arm; unset: the preferred one."""

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
    # Streamlit's red would say "stop" on the button that accepts.
    "theme.primaryColor": "#0b5cad",
}
"""Streamlit options by name."""
