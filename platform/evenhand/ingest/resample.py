"""A volume onto another grid: copied where the grids agree but for order and extent."""

from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evenhand.geometry import Affine

__all__ = ["onto_grid"]

_WHOLE = 1e-3
"""How far from whole numbers a map between grids may be and still count as a copy, in voxels."""

Scalar = TypeVar("Scalar", bound=np.generic)


def onto_grid(
    voxels: NDArray[Scalar], affine: Affine, shape: tuple[int, int, int], onto: Affine
) -> tuple[NDArray[Scalar], bool]:
    """Put a volume onto the grid (`shape`, `onto`); outside of it there is 0.

    Where the map between the grids only permutes, flips and shifts by whole
    voxels, values are copied. Else they are sampled: images (floating point)
    linearly, masks (integers) from the nearest voxel.

    Returns:
        The volume on the new grid, and whether it was copied exactly.
    """
    source_from_target = np.linalg.inv(affine.ras_from_voxel) @ onto.ras_from_voxel
    whole = np.rint(source_from_target)
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.array(shape) - 1
    off = np.abs((source_from_target - whole) @ corners.T).max()
    if off < _WHOLE and (np.abs(whole[:3, :3]).sum(axis=0) == 1).all():
        return _copied(voxels, whole.astype(np.int64), shape), True
    order: Literal[0, 1] = 1 if voxels.dtype.kind == "f" else 0
    moved: NDArray[Any] = ndimage.affine_transform(
        voxels,
        source_from_target[:3, :3],
        source_from_target[:3, 3],
        output_shape=shape,
        order=order,
        mode="constant",
        cval=0,
    )
    return moved.astype(voxels.dtype, copy=False), False


def _copied(
    voxels: NDArray[Scalar], source_from_target: NDArray[np.int64], shape: tuple[int, int, int]
) -> NDArray[Scalar]:
    """Copy by a signed permutation and a shift."""
    turn, shift = source_from_target[:3, :3], source_from_target[:3, 3]
    result = np.zeros(shape, voxels.dtype)
    into: list[slice] = []
    indices: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * 3
    for axis in range(3):
        source_axis = int(np.abs(turn[:, axis]).argmax())
        places = np.arange(shape[axis]) * turn[source_axis, axis] + shift[source_axis]
        inside = np.flatnonzero((places >= 0) & (places < voxels.shape[source_axis]))
        if not len(inside):
            return result
        into.append(slice(int(inside[0]), int(inside[-1]) + 1))
        indices[source_axis] = places[inside]
    taken = voxels[np.ix_(*indices)]
    order = [int(np.abs(turn[:, axis]).argmax()) for axis in range(3)]
    result[tuple(into)] = taken.transpose(order)
    return result
