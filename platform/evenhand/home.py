"""Where a hospital keeps what must outlive runs and stores: ledger, policy, keys."""

import os
from pathlib import Path

__all__ = ["HOME_VARIABLE", "evenhand_home"]

HOME_VARIABLE = "EVENHAND_HOME"
"""Names the folder in which hospitals have their places."""


def evenhand_home() -> Path:
    """Where hospitals keep what must outlive a run."""
    own = os.environ.get(HOME_VARIABLE)
    if own:
        return Path(own)
    users = os.environ.get("XDG_DATA_HOME")
    return (Path(users) if users else Path.home() / ".local" / "share") / "evenhand"
