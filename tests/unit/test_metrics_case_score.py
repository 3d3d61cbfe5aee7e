"""Dice, HD95 and NSD against a slow oracle, by hand, and at empty masks."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from evenhand.errors import DataError
from evenhand.metrics import score_case
from evenhand.metrics.case_score import _monai_scores

SPACINGS = st.tuples(*[st.sampled_from((0.5, 1.0, 1.25, 3.0))] * 3)


def edge_points(mask, spacing):
    """Voxels of a mask with a 6-neighbour outside it, the world beyond the volume being outside."""
    points = []
    for index in zip(*np.nonzero(mask), strict=True):
        for axis, step in itertools.product(range(3), (-1, 1)):
            near = list(index)
            near[axis] += step
            inside = all(0 <= value < size for value, size in zip(near, mask.shape, strict=True))
            if not inside or not mask[tuple(near)]:
                points.append([i * s for i, s in zip(index, spacing, strict=True)])
                break
    return points


def oracle(predicted, reference, spacing, tolerance):
    """Dice, HD95, NSD by definition, every pair of edge voxels measured."""
    both = np.logical_and(predicted, reference).sum()
    dice = 2 * both / (predicted.sum() + reference.sum())
    p, r = edge_points(predicted, spacing), edge_points(reference, spacing)
    p_to_r = [min(math.dist(a, b) for b in r) for a in p]
    r_to_p = [min(math.dist(a, b) for b in p) for a in r]
    hd95 = max(np.percentile(p_to_r, 95), np.percentile(r_to_p, 95))
    near = sum(distance <= tolerance for distance in p_to_r + r_to_p)
    return dice, hd95, near / len(p_to_r + r_to_p)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), spacing=SPACINGS)
def test_scores_equal_the_definitions(data, spacing):
    """Any two masks that hold voxels get the Dice, HD95 and NSD of the written definitions."""
    shape = data.draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))
    masks = [data.draw(arrays(np.uint8, shape, elements=st.integers(0, 1))) for _ in range(2)]
    for mask in masks:
        mask[tuple(data.draw(st.integers(0, size - 1)) for size in shape)] = 1
    # Off the grid of possible distances, where rounding could go either way.
    tolerance = 1.1
    score = score_case(masks[0], masks[1], spacing=spacing, nsd_tolerance=tolerance)
    dice, hd95, nsd = oracle(*masks, spacing, tolerance)
    assert (score.dice, score.hd95, score.nsd) == pytest.approx((dice, hd95, nsd), rel=1e-5)


@pytest.mark.parametrize("corner", [(0, 0, 0), (20, 24, 9), (40, 50, 16)])
def test_cropping_changes_nothing(corner):
    """The crop for speed gives exactly what the whole volume gives, also at the volume's border."""
    rng = np.random.default_rng(3)
    predicted, reference = np.zeros((2, 48, 56, 20), dtype=np.uint8)
    window = tuple(slice(start, start + 8) for start in corner)
    reference[window] = rng.integers(0, 2, reference[window].shape)
    predicted[window] = rng.integers(0, 2, reference[window].shape)
    spacing = (1.0, 0.8, 2.5)
    score = score_case(predicted, reference, spacing=spacing, nsd_tolerance=2.0)
    whole = _monai_scores(predicted, reference, spacing, 2.0)
    assert (score.dice, score.hd95, score.nsd) == whole


def test_two_voxels_by_hand():
    """One voxel each, three voxels of 2 mm apart: no overlap, 6 mm, near only within 6 mm."""
    predicted, reference = np.zeros((2, 6, 3, 3), dtype=np.uint8)
    predicted[1, 1, 1] = reference[4, 1, 1] = 1
    close = score_case(predicted, reference, spacing=(2.0, 1.0, 1.0), nsd_tolerance=5.9)
    assert (close.dice, close.hd95, close.nsd) == (0.0, 6.0, 0.0)
    wide = score_case(predicted, reference, spacing=(2.0, 1.0, 1.0), nsd_tolerance=6.0)
    assert (wide.nsd, wide.nsd_tolerance, wide.empty) == (1.0, 6.0, "none")


def test_volumes_are_in_the_cube_of_the_spacing():
    """Two voxels of 1 x 2 x 3 mm are 12 mm3; in voxel units they are 2."""
    mask = np.zeros((4, 4, 4), dtype=np.uint8)
    mask[1, 1, 1:3] = 1
    millimetres = score_case(mask, mask, spacing=(1.0, 2.0, 3.0), nsd_tolerance=1.0)
    voxels = score_case(mask, mask, spacing=(1.0, 1.0, 1.0), nsd_tolerance=1.0)
    assert (millimetres.volume_reference, voxels.volume_predicted) == (12.0, 2.0)
    assert (millimetres.dice, millimetres.hd95, millimetres.nsd) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("predicted", "reference", "empty", "expected"),
    [
        (0, 0, "both", (1.0, 0.0, 1.0)),
        (0, 1, "prediction", (0.0, 13.0, 0.0)),
        (1, 0, "reference", (0.0, 13.0, 0.0)),
    ],
)
def test_empty_masks_follow_the_rule(predicted, reference, empty, expected):
    """Both empty is perfect; one empty is the worst, with the diagonal (3, 4, 12 -> 13) as HD95."""
    masks = np.zeros((2, 3, 2, 4), dtype=np.uint8)
    masks[0, 0, 0, 0], masks[1, 0, 0, 0] = predicted, reference
    score = score_case(masks[0], masks[1], spacing=(1.0, 2.0, 3.0), nsd_tolerance=2.0)
    assert (score.dice, score.hd95, score.nsd) == expected
    assert score.empty == empty


@pytest.mark.parametrize(
    ("shape", "value", "spacing", "tolerance", "said"),
    [
        ((3, 3), 1, (1, 1, 1), 1.0, "one shape"),
        ((3, 3, 3), 2, (1, 1, 1), 1.0, "0 and 1 only"),
        ((3, 3, 3), 1, (1, 0, 1), 1.0, "Spacing"),
        ((3, 3, 3), 1, (1, 1, math.nan), 1.0, "Spacing"),
        ((3, 3, 3), 1, (1, 1, 1), 0.0, "tolerance"),
    ],
)
def test_bad_masks_are_refused(shape, value, spacing, tolerance, said):
    """Each kind of unusable input is one sentence that names it."""
    predicted = np.full(shape, value, dtype=np.uint8)
    with pytest.raises(DataError, match=said):
        score_case(
            predicted, np.ones((3, 3, 3), np.uint8), spacing=spacing, nsd_tolerance=tolerance
        )
