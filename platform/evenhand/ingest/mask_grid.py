"""Lay a mask onto another grid whose voxels coincide with its own: copies, never resamples."""

import itertools

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError
from evenhand.geometry import Affine

__all__ = ["on_grid", "union_grid"]

TURN_TOLERANCE = 1e-3
"""How far an axis may differ from another grid's axis, as a fraction of a voxel per voxel."""

SHIFT_TOLERANCE = 0.05
"""How far voxel centres may lie apart, in voxels."""

Mask = NDArray[np.bool_]
Whole = NDArray[np.int64]
Grid = tuple[Affine, tuple[int, ...]]


def on_grid(
    mask: Mask, own: Affine, grid: Affine, shape: tuple[int, ...], *, names: tuple[str, str]
) -> Mask:
    """Copy a mask onto a grid; what the mask does not reach is background.

    Args:
        mask: (i, j, k) on the grid of `own`.
        own: of the mask.
        grid: of the result.
        shape: of the result.
        names: of the mask's file and of the grid's, for errors.

    Raises:
        DataError: voxels do not coincide, or the mask holds voxels outside the grid.
    """
    turned, start = _turned(mask, *_steps(own, grid, names))
    out = np.zeros(shape, dtype=bool)
    source, target = [], []
    for offset, length, size in zip(start, turned.shape, shape, strict=True):
        first, last = max(int(offset), 0), min(int(offset) + length, size)
        target.append(slice(first, max(last, first)))
        source.append(slice(first - int(offset), max(last, first) - int(offset)))
    inside = turned[tuple(source)]
    if np.count_nonzero(inside) != np.count_nonzero(turned):
        raise DataError(
            f"'{names[0]}' marks voxels outside the volume of '{names[1]}', so they are not of one "
            "image. Check that both belong to the same series."
        )
    out[tuple(target)] = inside
    return out


def union_grid(first: Grid, second: Grid, *, names: tuple[str, str]) -> Grid:
    """Smallest grid along the first's axes that holds both.

    Raises:
        DataError: voxels do not coincide.
    """
    affine, shape = first
    turn, shift = _steps(second[0], affine, (names[1], names[0]))
    ends = itertools.product(*((0, size - 1) for size in second[1]))
    corners = np.array([turn @ np.array(end) + shift for end in ends])
    low = np.minimum(corners.min(axis=0), 0)
    high = np.maximum(corners.max(axis=0) + 1, shape)
    moved = affine.ras_from_voxel.copy()
    moved[:3, 3] += moved[:3, :3] @ low
    return Affine(moved), tuple(int(size) for size in high - low)


def _steps(own: Affine, grid: Affine, names: tuple[str, str]) -> tuple[Whole, Whole]:
    """Signed permutation and shift, in whole voxels, that take own indices to the grid's."""
    between = np.linalg.inv(grid.ras_from_voxel) @ own.ras_from_voxel
    turn, shift = np.rint(between[:3, :3]), np.rint(between[:3, 3])
    is_turn = (np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all()
    near = (
        np.abs(between[:3, :3] - turn).max() < TURN_TOLERANCE
        and np.abs(between[:3, 3] - shift).max() < SHIFT_TOLERANCE
    )
    if not (is_turn and near):
        raise DataError(
            f"The voxels of '{names[0]}' and '{names[1]}' do not coincide (spacing, direction or "
            "position differ). Resample one onto the other."
        )
    return turn.astype(np.int64), shift.astype(np.int64)


def _turned(mask: Mask, turn: Whole, shift: Whole) -> tuple[Mask, Whole]:
    """The mask along the grid's axes, and where its first voxel then lies."""
    order = np.abs(turn).argmax(axis=1)
    turned, start = mask.transpose(order), shift.copy()
    for axis, source in enumerate(order):
        if turn[axis, source] < 0:
            turned = np.flip(turned, axis)
            start[axis] -= turned.shape[axis] - 1
    return turned, start
