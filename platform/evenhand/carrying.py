"""A mask on one slice, carried on to the slices beside it for as long as the same thing is found.

A head that takes hints is told the mask of the slice before, as in
`evenhand.predict.predict_from_slice`, and ends by finding nothing. The mask decoder is given a box
around it instead, and finds something in any box: there, a slice ends the walk where what is
found lies elsewhere, is more than twice or less than a quarter as large, or stands out from its
surroundings less than `LEAST_CONTRAST` of how the first mask did.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from evenhand.model.adapted import AdaptedModel
from evenhand.predict import OpenCase, SlicePrompt, predict_hinted_slice, predict_prompt

__all__ = ["carry_on"]

LEAST_CONTRAST = 0.4
"""Share of the first mask's contrast that a slice must keep."""
MOST_PARTS = 8
"""Lesions of one slice that are carried on; a mask of crumbs has hundreds."""
_VISIBLE = 0.02
"""Contrast, in shares of the display range, under which it says nothing."""
_LARGEST, _SMALLEST, _SHARED = 2.0, 0.25, 0.5
"""Growth from slice to slice, and the share of the smaller mask that lies in the larger."""
_GROWTH = 0.1
"""By how much of its sides a box is larger than the mask that it is drawn around."""
_RING = 4
"""How wide the surroundings are, in pixels of the head's square."""


def carry_on(
    model: AdaptedModel,
    case: OpenCase,
    mask: NDArray[np.uint8],
    index: int,
    *,
    by_head: bool = False,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield slices k and their masks (i, j) of 0 and 1: nearest first, up and down in turns.

    Each slice is worked out when it is asked for; who does not ask any more ends it. The decoder is
    asked about each connected part of the mask by itself (the `MOST_PARTS` largest), so one slice
    may come once for each.

    Args:
        model: with or without a trained adapter.
        case: whose slices they are.
        mask: (i, j) of the slice to begin with; not empty.
        index: that slice, k.
        by_head: the prompt head takes hints; else the mask decoder is asked.
    """
    parts = [mask] if by_head else _parts(mask)
    ways = [
        _walk(model, case, part, index, step, by_head=by_head) for part in parts for step in (1, -1)
    ]
    while ways:
        for way in tuple(ways):
            found = next(way, None)
            if found is None:
                ways.remove(way)
            else:
                yield found


def _parts(mask: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Connected parts of a mask (i, j), the largest first."""
    labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
    each = [(labelled == number).astype(np.uint8) for number in range(1, count + 1)]
    return sorted(each, key=lambda part: -int(part.sum()))[:MOST_PARTS]


def _walk(
    model: AdaptedModel,
    case: OpenCase,
    mask: NDArray[np.uint8],
    index: int,
    step: int,
    *,
    by_head: bool,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    first, before = _contrast(case, mask, index), mask
    beyond = range(index + 1, case.depth) if step > 0 else range(index - 1, -1, -1)
    for at in beyond:
        if by_head:
            here = predict_hinted_slice(model, case, before, at)
        else:
            here = _touching(_in_box_around(model, case, before, at), before)
            if not _alike(before, here) or _faded(first, _contrast(case, here, at)):
                return
        if not here.any():
            return
        yield at, here
        before = here


def _in_box_around(
    model: AdaptedModel, case: OpenCase, mask: NDArray[np.uint8], index: int
) -> NDArray[np.uint8]:
    """What the mask decoder finds on a slice in a box around a mask (i, j) of the one beside it."""
    (i0, j0), (i1, j1) = (np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0) + 1)
    more_i, more_j = (max(1.0, _GROWTH * float(side)) for side in (i1 - i0, j1 - j0))
    rows, columns = mask.shape
    box = (
        max(0.0, float(j0) - more_j),
        max(0.0, float(i0) - more_i),
        min(float(columns), float(j1) + more_j),
        min(float(rows), float(i1) + more_i),
    )
    return predict_prompt(model, case, SlicePrompt(index=index, box=box))


def _touching(found: NDArray[np.uint8], before: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Drop parts of a mask (i, j) that lie beside, not on, the mask of the slice before."""
    labelled, _ = ndimage.label(found, structure=np.ones((3, 3)))
    kept = np.unique(labelled[before > 0])
    touching: NDArray[np.uint8] = np.isin(labelled, kept[kept > 0]).astype(np.uint8)
    return touching


def _alike(before: NDArray[np.uint8], here: NDArray[np.uint8]) -> bool:
    """Whether a mask (i, j) lies where the one before did, and is about as large."""
    old, new = int(before.sum()), int(here.sum())
    shared = int((before & here).sum())
    return _SMALLEST * old <= new <= _LARGEST * old and shared >= _SHARED * min(old, new)


def _contrast(case: OpenCase, mask: NDArray[np.uint8], index: int) -> float:
    """How much brighter a mask (i, j) is than what is around it, in shares of the display range."""
    drawn = case.square.apply(torch.from_numpy(mask)[None, None].float())[0, 0].numpy() >= 0.5
    if not drawn.any():  # smaller than a pixel of the square
        return 0.0
    ring = ndimage.binary_dilation(drawn, iterations=_RING) & ~ndimage.binary_dilation(drawn)
    pixels = case.slices[index, 0].numpy()
    return float(pixels[drawn].mean() - pixels[ring].mean()) if ring.any() else 0.0


def _faded(first: float, here: float) -> bool:
    return abs(first) >= _VISIBLE and here / first < LEAST_CONTRAST
