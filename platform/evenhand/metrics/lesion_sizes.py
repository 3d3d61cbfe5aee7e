"""How large each tumour of a mask is: volume, and the two diameters that radiologists measure.

A **lesion** is as in `evenhand.metrics.lesions`. The **long axis** is the greatest
distance between two of its voxels within one slice (k), over all slices; the
**short axis** is its extent at right angles to that, in the same slice. Both run
between voxel centres: a lesion of one voxel has 0, and edge to edge would be up to
one voxel more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform

from evenhand.geometry import Affine

__all__ = ["LesionSize", "measure_lesions"]


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
    in_plane = affine.ras_from_voxel[:3, :2]  # millimetres along i and j, also where they shear
    best = (-1.0, 0.0, 0)
    for k in range(lesion.shape[2]):
        points = np.argwhere(lesion[:, :, k]) @ in_plane.T
        if len(points):
            best = max(best, (*_axes(points), place[2].start + k))
    return LesionSize(
        volume_mm3=float(np.count_nonzero(lesion)) * affine.voxel_volume_mm3,
        long_axis_mm=best[0],
        short_axis_mm=best[1],
        slice_k=best[2],
    )


def _axes(points: NDArray[np.float64]) -> tuple[float, float]:
    """Greatest distance between points (n, 3) of a plane, and their extent across it."""
    if len(points) < 2:
        return 0.0, 0.0
    centred = points - points.mean(axis=0)
    plane = np.linalg.svd(centred, full_matrices=False)[2][:2]
    flat = centred @ plane.T
    corners = flat[_hull(flat)]
    distances = squareform(pdist(corners))
    one, two = np.unravel_index(int(distances.argmax()), distances.shape)
    long_axis = float(distances[one, two])
    direction = (corners[two] - corners[one]) / long_axis
    across = corners @ np.array([-direction[1], direction[0]])
    return long_axis, float(np.ptp(across))


def _hull(flat: NDArray[np.float64]) -> NDArray[np.intp]:
    try:
        return np.asarray(ConvexHull(flat).vertices, dtype=np.intp)
    except QhullError:  # they lie on one line
        return np.arange(len(flat), dtype=np.intp)
