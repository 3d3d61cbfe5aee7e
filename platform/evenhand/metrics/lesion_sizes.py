"""How large each tumour of a mask is: volume, and the two diameters that radiologists measure.

A **lesion** is as in `evenhand.metrics.lesions`. The **long axis** is the greatest distance within
one slice (k) between the middles of outer voxel edges, over all slices; the **short axis** is the
longest chord at right angles to it, in the same slice, through the convex hull. A lesion of one
voxel is as long and wide as the voxel. Of axes that are equally long the one with the longer chord
counts. The review page measures in the same way (`evenhand_ui/viewer/lesions.js`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from evenhand.geometry import Affine

__all__ = ["FIGURES_LIMIT", "LesionSize", "lesion_figures", "measure_lesions"]

FIGURES_LIMIT = 100
"""Lesions that a record keeps the figures of; a mask of crumbs has thousands."""

_HALF_STEPS = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, -0.5], [0.0, 0.5]])
"""From the middle of a voxel to the middles of its edges."""
_SAME_MM = 1e-6
"""Lengths that differ by less are equal."""


@dataclass(frozen=True, kw_only=True)
class LesionSize:
    """One lesion: volume in mm3, axes in mm, and the slice k in which the axes lie."""

    volume_mm3: float
    long_axis_mm: float
    short_axis_mm: float
    slice_k: int


def measure_lesions(
    mask: NDArray[np.uint8], affine: Affine, *, limit: int | None = None
) -> list[LesionSize]:
    """Measure each lesion of a mask (i, j, k), the largest first.

    Args:
        mask: of 0 and others, which are tumour.
        affine: of its voxels, in millimetres.
        limit: how many are measured at most; None: all.
    """
    near = _near(mask)
    labelled, count = ndimage.label(mask[near], structure=np.ones((3, 3, 3), dtype=bool))
    voxels = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    chosen = np.argsort(-voxels, kind="stable")[:limit]
    places = ndimage.find_objects(labelled)
    return [
        _measure(labelled[places[n]] == n + 1, near[2].start + places[n][2].start, affine)
        for n in chosen
    ]


def lesion_figures(mask: NDArray[np.uint8], affine: Affine) -> list[dict[str, float | int]]:
    """Return what a record keeps of each lesion of a mask (i, j, k), the largest first.

    Args:
        mask: of 0 and others, which are tumour.
        affine: of its voxels, in millimetres.

    Returns:
        Of each of the `FIGURES_LIMIT` largest lesions `volume_ml`, `longest_diameter_mm`,
        `perpendicular_diameter_mm` (all to a thousandth) and `slice`, the k, from 0, in
        which the diameters lie; plain numbers, as JSON takes them.
    """
    return [
        {
            "volume_ml": round(one.volume_mm3 / 1000, 3),
            "longest_diameter_mm": round(one.long_axis_mm, 3),
            "perpendicular_diameter_mm": round(one.short_axis_mm, 3),
            "slice": one.slice_k,
        }
        for one in measure_lesions(mask, affine, limit=FIGURES_LIMIT)
    ]


def _near(mask: NDArray[np.uint8]) -> tuple[slice, slice, slice]:
    """The smallest box that holds what is drawn: a tumour is small in its volume."""
    sides = []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        sides.append(slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, 1))
    return sides[0], sides[1], sides[2]


def _measure(lesion: NDArray[np.bool_], first_k: int, affine: Affine) -> LesionSize:
    # Millimetres within the slice, whose axes may lie anywhere in space and may shear.
    in_plane = np.linalg.qr(affine.ras_from_voxel[:3, :2]).R
    outlines = [_outline(lesion[:, :, k], in_plane) for k in range(lesion.shape[2])]
    distances = [pdist(outline) for outline in outlines]
    longest = max(float(between.max()) for between in distances)
    short_axis, k = max(
        (_width(outlines[k], distances[k], longest), -k)
        for k in range(lesion.shape[2])
        if distances[k].max() > longest - _SAME_MM
    )
    return LesionSize(
        volume_mm3=float(np.count_nonzero(lesion)) * affine.voxel_volume_mm3,
        long_axis_mm=longest,
        short_axis_mm=short_axis,
        slice_k=first_k - k,
    )


def _outline(drawn: NDArray[np.bool_], in_plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners (n, 2), in mm and in order, of the convex hull of a lesion's slice (i, j)."""
    rows = np.flatnonzero(drawn.any(axis=1))
    first = drawn[rows].argmax(axis=1)
    last = drawn.shape[1] - 1 - drawn[rows, ::-1].argmax(axis=1)
    voxels = np.concatenate([np.stack([rows, first], 1), np.stack([rows, last], 1)])
    points = (voxels[:, None] + _HALF_STEPS).reshape(-1, 2) @ in_plane.T
    outline: NDArray[np.float64] = points[ConvexHull(points).vertices]
    return outline


def _width(outline: NDArray[np.float64], distances: NDArray[np.float64], longest: float) -> float:
    """Longest chord across one of the longest distances between corners (n, 2)."""
    ends = np.argwhere(np.triu(squareform(distances) > longest - _SAME_MM, k=1))
    return max(_chord(outline, outline[one], outline[two]) for one, two in ends)


def _chord(
    outline: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> float:
    """Longest chord at right angles to a line.

    It changes evenly between corners of the outline, so a corner has it.
    """
    along = (end - start) / np.linalg.norm(end - start)
    turned = outline @ np.array([along, [-along[1], along[0]]]).T
    longest = 0.0
    for at in turned[:, 0]:
        crossed = []
        for (u0, v0), (u1, v1) in zip(turned, np.roll(turned, -1, axis=0), strict=True):
            if min(u0, u1) <= at <= max(u0, u1):
                crossed += [v0, v1] if u0 == u1 else [v0 + (at - u0) / (u1 - u0) * (v1 - v0)]
        longest = max(longest, float(np.ptp(crossed)))
    return longest
