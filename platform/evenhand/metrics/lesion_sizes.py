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

__all__ = ["LesionSize", "measure_lesions"]

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


def measure_lesions(mask: NDArray[np.uint8], affine: Affine) -> list[LesionSize]:
    """Measure each lesion of a mask (i, j, k), the largest first."""
    labelled, count = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    places = ndimage.find_objects(labelled)
    found = [_measure(labelled[place] == n + 1, place, affine) for n, place in enumerate(places)]
    assert len(found) == count  # noqa: S101 - each label has its place
    return sorted(found, key=lambda one: -one.volume_mm3)


def _measure(lesion: NDArray[np.bool_], place: tuple[slice, ...], affine: Affine) -> LesionSize:
    # Millimetres within the slice, whose axes may lie anywhere in space and may shear.
    in_plane = np.linalg.qr(affine.ras_from_voxel[:3, :2]).R
    best = (-1.0, -1.0, 0)
    for k in range(lesion.shape[2]):
        voxels = np.argwhere(lesion[:, :, k])
        if len(voxels):
            edges = (voxels[:, None] + _HALF_STEPS).reshape(-1, 2)
            long_axis, short_axis = _axes(edges @ in_plane.T)
            if _before((long_axis, short_axis), best[:2]):
                best = (long_axis, short_axis, place[2].start + k)
    return LesionSize(
        volume_mm3=float(np.count_nonzero(lesion)) * affine.voxel_volume_mm3,
        long_axis_mm=best[0],
        short_axis_mm=best[1],
        slice_k=best[2],
    )


def _before(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether axes are longer than others or, where both are equally long, wider."""
    return one[0] > other[0] + _SAME_MM or (one[0] > other[0] - _SAME_MM and one[1] > other[1])


def _axes(points: NDArray[np.float64]) -> tuple[float, float]:
    """Greatest distance between points (n, 2), and the longest chord across it."""
    outline = points[ConvexHull(points).vertices]  # in order, around
    distances = squareform(pdist(outline))
    longest = float(distances.max())
    ends = np.argwhere(np.triu(distances > longest - _SAME_MM, k=1))
    return longest, max(_chord(outline, outline[one], outline[two]) for one, two in ends)


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
