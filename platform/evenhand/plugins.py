"""How the core reaches the rooms that stand on it, without importing them.

`evenhand_federated`, `evenhand_audit` and `evenhand_ui` announce themselves as
entry points in `pyproject.toml`; the core asks for one by group and name.
"""

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from evenhand.errors import ResourceError

__all__ = ["announced", "load"]


def announced(group: str) -> Iterator[EntryPoint]:
    """Yield the entry points of one group, sorted by name."""
    yield from sorted(entry_points(group=group), key=lambda point: point.name)


def load(group: str, name: str) -> Any:
    """Return the object that a room announced under `group` and `name`.

    Raises:
        ResourceError: nothing of that name is installed.
    """
    for point in announced(group):
        if point.name == name:
            return point.load()
    known = ", ".join(point.name for point in announced(group)) or "none"
    raise ResourceError(
        f"Nothing named '{name}' is installed for '{group}' (installed: {known}). "
        "Reinstall Evenhand with `make install`."
    )
