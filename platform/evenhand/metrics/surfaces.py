"""HD95 and NSD by MONAI's definitions, computed once for both and several times as fast.

MONAI 1.6 finds edges and distances anew for each of the two metrics. Here the masks are cropped to
their common box, edges are found by comparing shifted copies, a KD-tree answers only for edge
voxels that the two masks do not share (the others are at distance 0), and the distances serve
both metrics. `benchmarks/case_metrics.py` measures the ratio; a test holds the values to
those of MONAI.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

__all__ = ["SurfaceDistances", "crop_to_masks", "edge_voxels", "surface_distances"]

MARGIN_VOXELS = 1
"""Kept around both masks when cropping. Edges look one voxel far, so they stay as they are."""

QUANTILE = np.float32(0.95)
"""Of the distances in each direction, for HD95."""

LEAF_SIZE = 16
"""Points in a leaf of the KD-tree, which is built for one query and thrown away."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """From each edge voxel of one mask to the nearest edge voxel of the other."""

    from_predicted: NDArray[np.float32]
    from_reference: NDArray[np.float32]

    @property
    def hd95(self) -> float:
        """The 95th percentile in each direction, and of the two the larger."""
        return max(_quantile(self.from_predicted), _quantile(self.from_reference))

    def nsd(self, tolerance: float) -> float:
        """Share of edge voxels of both masks within `tolerance` of the other's edge."""
        # In single precision on both sides, as in MONAI: a distance that equals the tolerance
        # but for rounding is within it.
        limit = np.float32(tolerance)
        near = sum(
            int(np.count_nonzero(distances <= limit))
            for distances in (self.from_predicted, self.from_reference)
        )
        return near / (self.from_predicted.size + self.from_reference.size)


def crop_to_masks(*masks: NDArray[Any]) -> tuple[slice, ...]:
    """Box around all voxels of any of the masks plus one voxel, inside the volume.

    At least one mask holds a voxel.
    """
    shape = masks[0].shape
    window: list[slice] = []
    for axis, size in enumerate(shape):
        # Axes that were handled are cropped already, which leaves less to look at.
        crop = tuple(window)
        others = tuple(other for other in range(len(shape)) if other != axis)
        filled = np.zeros(size, dtype=bool)
        for mask in masks:
            filled |= mask[crop].any(axis=others)
        (where,) = np.nonzero(filled)
        first, last = int(where[0]), int(where[-1])
        window.append(slice(max(first - MARGIN_VOXELS, 0), min(last + 1 + MARGIN_VOXELS, size)))
    return tuple(window)


def edge_voxels(mask: Mask) -> Mask:
    """Voxels of a mask with a face neighbour outside it; beyond the volume is outside."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        low, high = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        inner[tuple(low)] &= mask[tuple(high)]
        inner[tuple(high)] &= mask[tuple(low)]
        for end in (0, -1):
            border = [slice(None)] * mask.ndim
            border[axis] = slice(end, None) if end else slice(0, 1)
            inner[tuple(border)] = False
    return mask & ~inner


def surface_distances(
    predicted: Mask, reference: Mask, spacing: tuple[float, ...] | NDArray[np.float64]
) -> SurfaceDistances:
    """Distances between the edges of two masks that both hold voxels.

    Args:
        predicted: (i, j, k), or (i, j) for a picture.
        reference: (i, j, k).
        spacing: distance between voxels along each axis; or, where axes do not stand at right
            angles, a matrix with the step along each of them as a column.
    """
    window = crop_to_masks(predicted, reference)
    edges = (edge_voxels(predicted[window]), edge_voxels(reference[window]))
    shared = edges[0] & edges[1]
    step = np.asarray(spacing, dtype=np.float64)
    places = [np.argwhere(edge).astype(np.float64) for edge in edges]
    points = [place * step if step.ndim == 1 else place @ step.T for place in places]
    return SurfaceDistances(
        from_predicted=_to_nearest(points[0], points[1], shared[edges[0]]),
        from_reference=_to_nearest(points[1], points[0], shared[edges[1]]),
    )


def _quantile(distances: NDArray[np.float32]) -> float:
    """Between the two distances next to the rank, linearly.

    The rank is computed in single precision, as MONAI (`torch.quantile`) does. Where neighbouring
    distances lie far apart this moves the last digits: by 3e-6 of the value where false findings
    are scattered, and values would not be equal to 1e-6 with an exact rank.
    """
    rank = QUANTILE * np.float32(distances.size - 1)
    below = int(rank)
    above = min(below + 1, distances.size - 1)
    low, high = np.partition(distances, (below, above))[[below, above]]
    return float(low + (rank - np.float32(below)) * (high - low))


def _to_nearest(
    points: NDArray[np.float64], others: NDArray[np.float64], shared: Mask
) -> NDArray[np.float32]:
    distances = np.zeros(len(points), dtype=np.float32)
    apart = ~shared
    if apart.any():
        tree = KDTree(others, leafsize=LEAF_SIZE, balanced_tree=False)
        distances[apart] = tree.query(points[apart])[0]
    return distances
