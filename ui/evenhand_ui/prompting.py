"""A prompt from the viewer on its way to the model, and the answer on its way back.

    GET   prompt   {"state": "absent" | "preparing" | "ready", "why": sentence}
    POST  prompt   {"slice": n, "box": [x0, y0, z0, x1, y1, z1] or null,
                    "points": [[x, y, z, inside], ...]}

Places are the viewer's, counted from the edge of the first voxel. Prompts lie on
a slice as it is stored (along `slice_axis`): that is what the model sees.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError
from evenhand_ui.drafts import Box
from evenhand_ui.volumes import Canonical

if TYPE_CHECKING:
    from evenhand.predict import SlicePrompt

__all__ = ["POINTS_LIMIT", "read_prompt", "turn_slice"]

POINTS_LIMIT = 64
"""Points in one prompt; nobody clicks more on a slice."""

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
