"""A prompt from the viewer on its way to the model, and the answer on its way back.

    GET   prompt   {"state": "absent" | "preparing" | "ready", "why": sentence}
                   ?slice=n: the one on the screen
    POST  prompt   {"slice": n, "box": [x0, y0, z0, x1, y1, z1] or null,
                    "points": [[x, y, z, inside], ...]}
    POST  carry    the mask of a slice, packed, with its box; the answer is one part for each slice
                   that it was carried on to, as soon as it is there, and one that says the end:
                   a line of JSON {"box": [...], "size": n} and n voxels, or {"end": sentence}

Places are the viewer's, counted from the edge of the first voxel. Prompts lie on
a slice as it is stored (along `slice_axis`): that is what the model sees.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError, EvenhandError
from evenhand_ui.drafts import Box
from evenhand_ui.volumes import Canonical, unpack

if TYPE_CHECKING:
    from evenhand.predict import SlicePrompt

__all__ = ["CARRY_LIMIT_S", "POINTS_LIMIT", "parts_of", "read_prompt", "read_seed", "turn_slice"]

POINTS_LIMIT = 64
"""Points in one prompt; nobody clicks more on a slice."""

CARRY_LIMIT_S = 60.0
"""After this no further slice is begun."""

_UNREADABLE = "This prompt cannot be read; reload the page."


def read_prompt(said: dict[str, Any], canonical: Canonical) -> "SlicePrompt":
    """Turn what the viewer sent to a prompt on a stored slice.

    Raises:
        DataError: it is no prompt, or points outside the case.
    """
    from evenhand.predict import SlicePrompt

    index, box, points = said.get("slice"), said.get("box"), said.get("points", [])
    axis = canonical.slice_axis
    if type(index) is not int or not 0 <= index < canonical.turned_shape[axis]:
        raise DataError("A prompt names a slice that the case does not have.")
    if not isinstance(points, list) or len(points) > POINTS_LIMIT:
        raise DataError(_UNREADABLE)
    corners = None
    if box is not None:
        if not isinstance(box, list):
            raise DataError(_UNREADABLE)
        first, second = (_place(part, canonical) for part in (box[:3], box[3:]))
        (i0, i1), (j0, j1) = (sorted(pair) for pair in zip(first[:2], second[:2], strict=True))
        corners = (j0, i0, j1, i1)
    return SlicePrompt(
        index=canonical.stored_slice(index),
        box=corners,
        points=tuple(_point(point, canonical) for point in points),
    )


def read_seed(body: bytes, box: Box, canonical: Canonical) -> tuple[NDArray[np.uint8], int]:
    """Turn the mask of a slice that the viewer sent to (i, j) of the stored slice, and its k.

    Raises:
        DataError: it is not one slice, or nothing is drawn on it.
    """
    axis = canonical.slice_axis
    if box.shape[axis] != 1:
        raise DataError("A mask is carried on from one slice.")
    voxels = unpack(body, box.shape)
    if not voxels.any():
        raise DataError("Nothing is drawn on this slice; draw first, or ask the model.")
    shape, place = list(canonical.turned_shape), list(box.slices)
    shape[axis], place[axis] = 1, slice(0, 1)
    thin = np.zeros(shape, dtype=np.uint8)
    thin[tuple(place)] = voxels
    return np.ascontiguousarray(canonical.back(thin)[:, :, 0]), canonical.stored_slice(
        box.start[axis]
    )


def parts_of(
    found: Iterable[tuple[int, NDArray[np.uint8]]], canonical: Canonical
) -> Iterator[bytes]:
    """Yield the parts of an answer to `carry`, each as soon as it is there.

    Args:
        found: stored slices k and their masks (i, j).
        canonical: of the case.
    """
    until = time.monotonic() + CARRY_LIMIT_S
    end = ""
    try:
        for index, mask in found:
            voxels, box = turn_slice(mask, index, canonical)
            plain = np.ascontiguousarray(voxels.transpose(2, 1, 0)).tobytes()
            yield _line(box=[int(n) for n in str(box).split(",")], size=len(plain)) + plain
            if time.monotonic() > until:
                end = f"Stopped after {CARRY_LIMIT_S:.0f} seconds; go on from the last slice."
                break
    except EvenhandError as error:
        end = str(error)
    yield _line(end=end)


def _line(**what: object) -> bytes:
    return json.dumps(what).encode() + b"\n"


def turn_slice(
    mask: NDArray[np.uint8], index: int, canonical: Canonical
) -> tuple[NDArray[np.uint8], Box]:
    """Turn the mask (i, j) of a stored slice to what the viewer draws.

    Args:
        mask: of 0 and 1.
        index: the slice, k.
        canonical: of the case.

    Returns:
        The voxels (x, y, z) of the smallest box that holds the mask, and that box.
    """
    turned = canonical.turn(mask[:, :, None])
    near = Box.around(turned)
    if not turned.any():
        return turned[near.slices], near
    axis, at = canonical.slice_axis, canonical.stored_slice(index)
    start, stop = list(near.start), list(near.stop)
    start[axis], stop[axis] = at, at + 1
    whole = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return turned[near.slices], whole


def _place(numbers: object, canonical: Canonical) -> tuple[float, float, float]:
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise DataError(_UNREADABLE)
    if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        raise DataError(_UNREADABLE)
    x, y, z = (
        min(max(float(one), 0.0), float(size))
        for one, size in zip(numbers, canonical.turned_shape, strict=True)
    )
    return canonical.stored_place((x, y, z))


def _point(point: object, canonical: Canonical) -> tuple[float, float, bool]:
    if not isinstance(point, list) or len(point) != 4 or type(point[3]) is not bool:
        raise DataError(_UNREADABLE)
    i, j, _ = _place(point[:3], canonical)
    return j, i, point[3]
