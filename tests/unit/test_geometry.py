"""Rules of evenhand.geometry."""

import dataclasses

import numpy as np
import pytest

from evenhand.errors import DataError
from evenhand.geometry import Affine


def test_spacing_is_the_length_of_each_column() -> None:
    """Spacing counts turned axes too: a quarter turn about k swaps no lengths."""
    turned = np.array([[0, -3.0, 0, 5], [2.0, 0, 0, 6], [0, 0, 4.0, 7], [0, 0, 0, 1]])
    assert Affine(turned).spacing_mm == (2.0, 3.0, 4.0)


def test_volume_of_a_sheared_voxel() -> None:
    """A tilted gantry leans the slices over: the volume is the determinant's, not the edges'."""
    straight = Affine(np.diag([-2.0, 3.0, 5.0, 1.0]))
    leaning = np.diag([-2.0, 3.0, 5.0, 1.0])
    leaning[1, 2] = 2.0
    assert straight.voxel_volume_mm3 == pytest.approx(30.0)
    assert Affine(leaning).voxel_volume_mm3 == pytest.approx(30.0)
    assert straight.is_rectangular
    assert not Affine(leaning).is_rectangular


def test_affine_is_a_frozen_copy() -> None:
    """Nobody can move a case's voxels after it was read."""
    mine = np.eye(4)
    affine = Affine(mine)
    mine[0, 3] = 9
    assert affine.ras_from_voxel[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        affine.ras_from_voxel[0, 3] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        affine.ras_from_voxel = mine  # type: ignore[misc]


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), np.diag([1.0, 1.0, 0.0, 1.0]), np.diag([1.0, np.nan, 1.0, 1.0])],
    ids=["3x3", "flat", "nan"],
)
def test_affine_that_places_nothing_is_refused(matrix: np.ndarray) -> None:
    """An affine is 4 x 4, finite and invertible by construction."""
    with pytest.raises(DataError, match="affine must be"):
        Affine(matrix)


def test_affines_are_close_within_a_micrometre_scale_tolerance() -> None:
    """Rounding in a header is no other place; a shift of 0.01 mm is."""
    moved = np.eye(4)
    moved[0, 3] = 5e-4
    assert Affine(np.eye(4)).is_close(Affine(moved))
    moved[0, 3] = 1e-2
    assert not Affine(np.eye(4)).is_close(Affine(moved))
