"""Volume, long and short axis of lesions, against figures by hand."""

import numpy as np
import pytest

from evenhand.geometry import Affine
from evenhand.metrics.lesion_sizes import measure_lesions

SPACED = Affine(np.diag([2.0, 1.0, 5.0, 1.0]))


def blank():
    """An empty mask."""
    return np.zeros((20, 20, 6), dtype=np.uint8)


def test_block():
    """4 x 4 voxels of 2 x 1 mm on two slices: centres 6 and 3 mm apart.

    Long axis: the diagonal, sqrt(45). Short axis: both other corners lie 6 * 3 / sqrt(45) off it,
    one on each side. Volume: 32 voxels of 10 mm3.
    """
    mask = blank()
    mask[2:6, 3:7, 1:3] = 1
    (size,) = measure_lesions(mask, SPACED)
    assert size.volume_mm3 == pytest.approx(320)
    assert size.long_axis_mm == pytest.approx(45**0.5)
    assert size.short_axis_mm == pytest.approx(2 * 18 / 45**0.5)


def test_line_and_point():
    """Ten voxels in a row: 9 steps of 2 mm, and nothing across. One voxel: nothing at all."""
    mask = blank()
    mask[3:13, 4, 2] = 1
    mask[18, 18, 5] = 1
    line, point = measure_lesions(mask, SPACED)
    assert (line.long_axis_mm, line.short_axis_mm, line.slice_k) == (18.0, 0.0, 2)
    assert (point.long_axis_mm, point.volume_mm3) == (0.0, pytest.approx(10))


def test_largest_first_and_widest_slice():
    """Lesions come by volume, and axes from the slice where the lesion is longest."""
    mask = blank()
    mask[0:2, 0:2, 0] = 1
    mask[5:8, 5:8, 1:5] = 1
    mask[5:15, 6, 3] = 1
    large, small = measure_lesions(mask, Affine(np.eye(4)))
    assert large.slice_k == 3
    assert large.long_axis_mm == pytest.approx((9**2 + 1) ** 0.5)
    assert small.volume_mm3 == 4


def test_turned_in_the_scanner():
    """Millimetres are those of the patient, however the slices are turned."""
    mask = blank()
    mask[2:6, 3:7, 1:3] = 1
    angle = np.radians(25)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    (size,) = measure_lesions(mask, Affine(turn @ np.diag([2.0, 1.0, 5.0, 1.0])))
    assert size.long_axis_mm == pytest.approx(45**0.5)


def test_empty():
    """Where there is no tumour there is no lesion."""
    assert measure_lesions(blank(), SPACED) == []
