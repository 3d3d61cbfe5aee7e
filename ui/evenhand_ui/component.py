"""The viewer as Streamlit mounts it: our own component, without a build step and without a CDN.

Its code is plain modules in `viewer/`, which this page's own route serves. A
Streamlit manifest would want them inside a package named like the distribution,
and `evenhand` is the core, which knows no page. So Streamlit is given one line
that fetches the first module; that one fetches the others.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import streamlit as st

from evenhand_ui.routes import viewer_sources, viewer_version

__all__ = ["mount_viewer"]

_LOADER = """
const main = new URL("/evenhand/viewer/{version}/main.js", location.origin).href;
const {{ default: mount }} = await import(main);
export default mount;
"""


@cache
def _component() -> Callable[..., Any]:
    return st.components.v2.component(
        "evenhand_viewer",
        html="<div data-evenhand></div>",
        css=viewer_sources()["style.css"].decode(),
        js=_LOADER.format(version=viewer_version()),
    )


def mount_viewer(key: str, data: dict[str, Any]) -> Any:
    """Mount the viewer; returns its triggers: `decided`, `renew`, `lost`, `again`.

    Args:
        key: must change with the case and with whatever replaces its masks.
        data: small and plain; voxels go by the routes.
    """
    return _component()(
        key=key,
        data=data,
        on_decided_change=_nothing,
        on_renew_change=_nothing,
        on_lost_change=_nothing,
        on_again_change=_nothing,
    )


def _nothing() -> None:
    """Let Streamlit know that a trigger is listened to."""
