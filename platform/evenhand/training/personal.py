"""Parts of an adapter that stay at their hospital (`federation.local_parts`).

The shared part travels and is put together. Each hospital trains its own part beside it, keeps
that with what its optimiser remembers (`evenhand.training.moments`), and predicts with both
(FedBN, Li 2021, where it is the scales and shifts of norms; FedPer, Arivazhagan 2019, where it is
the last layers).
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING, TypeVar

from evenhand.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["as_kept", "own_part", "shared_part", "stays"]

_KIND = "own"
"""What is kept of a tensor's name, see `evenhand.training.moments`."""

Value = TypeVar("Value")


def stays(name: str, local_parts: Sequence[str]) -> bool:
    """Whether an adapter tensor stays at its hospital."""
    return any(fnmatch(name, pattern) for pattern in local_parts)


def shared_part(state: Mapping[str, Value], local_parts: Sequence[str]) -> dict[str, Value]:
    """What travels.

    Raises:
        AdapterError: nothing would travel, or a pattern names no tensor.
    """
    for pattern in local_parts:
        if not any(fnmatch(name, pattern) for name in state):
            raise AdapterError(
                f"No adapter tensor matches '{pattern}' of federation.local_parts; names are such "
                f"as '{min(state)}'."
            )
    shared = {name: one for name, one in state.items() if not stays(name, local_parts)}
    if local_parts and not shared:
        raise AdapterError("federation.local_parts names all of the adapter: nothing is shared.")
    return shared


def as_kept(state: Mapping[str, "Tensor"], local_parts: Sequence[str]) -> dict[str, "Tensor"]:
    """What stays, as it is kept between rounds."""
    return {f"{name}/{_KIND}": one for name, one in state.items() if stays(name, local_parts)}


def own_part(kept: Mapping[str, "Tensor"] | None) -> dict[str, "Tensor"]:
    """What stays, by name of tensor; empty where nothing was kept yet."""
    return {
        name.removesuffix(f"/{_KIND}"): one
        for name, one in (kept or {}).items()
        if name.endswith(f"/{_KIND}")
    }
