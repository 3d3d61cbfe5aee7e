"""Filling polygons on a pixel grid, by one stated rule.

A pixel is inside if its centre is: if a ray from the centre towards larger
columns crosses the outlines an odd number of times (even-odd rule, over all
polygons of a slice together, so that a polygon within another is a hole). An
edge counts for the rows y with `low <= y < high` and for columns x < crossing,
so neighbours that share an edge share no pixel and leave none between them.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["fill_polygons"]


def fill_polygons(
    polygons: Iterable[NDArray[np.float64]], columns: int, rows: int
) -> NDArray[np.uint8]:
    """Fill closed polygons; return 0 and 1 as (columns, rows).

    Args:
        polygons: each (n, 2): x along columns, y along rows, in pixels, where
            (0, 0) is the centre of the first pixel.
        columns: of the grid.
        rows: of the grid.
    """
    flips = np.zeros((rows, columns + 1), np.int64)
    for polygon in polygons:
        for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            _flip(flips, start, end, columns)
    right = flips[:, ::-1].cumsum(axis=1)[:, ::-1]  # at a: how many crossings lie at a or beyond
    return (right[:, 1:] % 2).astype(np.uint8).T


def _flip(
    flips: NDArray[np.int64], start: NDArray[np.float64], end: NDArray[np.float64], columns: int
) -> None:
    """Count, for each row that an edge crosses, the pixels to the left of the crossing."""
    low, high = (start, end) if start[1] <= end[1] else (end, start)
    first = max(int(np.ceil(low[1])), 0)
    last = min(int(np.ceil(high[1])), len(flips))  # not included
    if first >= last:
        return
    y = np.arange(first, last)
    crossing = low[0] + (y - low[1]) * (high[0] - low[0]) / (high[1] - low[1])
    left = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)  # pixels x < crossing
    np.add.at(flips, (y, left), 1)
