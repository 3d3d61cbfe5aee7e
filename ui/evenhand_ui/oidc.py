"""Login by OIDC through Streamlit: its settings, whom it names, until when, and in which browser.

Streamlit keeps a login in a signed cookie for 30 days. Here it counts for a working day, and a
ticket for the routes counts only in the browser whose page it was issued to: who logs out takes
its tickets along.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evenhand.errors import UsageError

__all__ = ["browser_of", "check_settings", "is_over", "login_from"]

_COOKIE = "_streamlit_user"
"""In which Streamlit keeps who is logged in; a long one goes on in `_streamlit_user__1`, ..."""

_SETTINGS = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")
_CALLBACK = "/oauth2callback"
_COOKIE_SECRET_MIN = 32


def login_from(user: Mapping[str, object], claim: str) -> str:
    """Return what a login says of itself; empty: nothing that may be believed.

    Some providers let people write any e-mail; only one that they have verified counts.
    """
    if claim == "email" and user.get("email_verified") is not True:
        return ""
    return str(user.get(claim) or "")


def is_over(user: Mapping[str, object], *, hours: float, now_s: float) -> bool:
    """Whether a login is older than a number of hours, or does not say how old it is (`iat`)."""
    issued = user.get("iat")
    if isinstance(issued, bool) or not isinstance(issued, int | float):
        return True
    return now_s - issued > hours * 3600


def browser_of(cookies: Mapping[str, str]) -> str:
    """Return a hash of the cookies that keep the login; empty: there is none."""
    own = sorted(
        (name, value)
        for name, value in cookies.items()
        if name == _COOKIE or name.startswith(f"{_COOKIE}__")
    )
    return hashlib.sha256(repr(own).encode()).hexdigest() if own else ""


def check_settings() -> None:
    """Refuse to start a page that nobody could log in to.

    Raises:
        UsageError: the package is missing, or Streamlit's secrets.toml, or something in it.
    """
    if find_spec("authlib") is None:
        raise UsageError(
            "The rules want a login by OIDC, which needs the package Authlib; install it with "
            "`pip install 'evenhand[oidc]'`."
        )
    import streamlit as st

    paths = [Path(name) for name in st.get_option("secrets.files") if name.endswith(".toml")]
    auth: Any = {}
    for path in paths:  # a later one counts more, as for Streamlit
        auth = _read(path).get("auth", auth)
    where = " or ".join(f"'{path}'" for path in paths)
    if not auth:
        raise UsageError(
            f"The rules want a login by OIDC, whose settings are missing: write {where} with a "
            f"part [auth] that has {', '.join(_SETTINGS)}."
        )
    missing = [name for name in _SETTINGS if not _has(auth, name)]
    if missing:
        raise UsageError(f"The part [auth] in {where} lacks {', '.join(missing)}.")
    if not auth["redirect_uri"].endswith(_CALLBACK):
        raise UsageError(
            f"redirect_uri in {where} must be this page's address with {_CALLBACK} at its end."
        )
    if len(auth["cookie_secret"]) < _COOKIE_SECRET_MIN:
        raise UsageError(
            f"cookie_secret in {where} must have {_COOKIE_SECRET_MIN} characters or more; make one "
            "with `openssl rand -hex 32`."
        )


def _has(auth: Any, name: str) -> bool:
    return isinstance(auth, dict) and isinstance(auth.get(name), str) and bool(auth[name])


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no TOML"
        raise UsageError(
            f"The settings of the login by OIDC in '{path}' cannot be read: {why}."
        ) from None
