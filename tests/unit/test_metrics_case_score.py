"""Dice, HD95 and NSD against a slow oracle, by hand, and at empty masks."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from evenhand.artifacts import OPTIONAL_COLUMNS, PREDICTION_COLUMNS
from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.metrics import count_lesions, dice_of, score_case
from evenhand.metrics.surfaces import edge_voxels

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
    # HD95 takes MONAI's rank in single precision: beside a step from 0 that is an absolute error.
    wanted = pytest.approx((dice, hd95, nsd), rel=1e-5, abs=1e-5)
    assert dice_of(*masks) == score.dice
    assert (score.dice, score.hd95, score.nsd) == wanted


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
    dice, hd95, nsd = oracle(predicted, reference, spacing, 2.0)
    assert (score.dice, score.hd95, score.nsd) == pytest.approx((dice, hd95, nsd), rel=1e-6)


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


def test_a_sheared_grid_is_measured_where_its_voxels_lie():
    """Tilted gantry: distances, volume and diagonal are those of the voxels' places in the patient.

    Columns of the affine: i = (1, 0, 0), j = (0, 1, 0), k = (0, 1, 1). From voxel (1, 2, 1) to
    (1, 1, 2) it is -j + k = (0, 0, 1), 1 mm; right angles would make it sqrt(1 + 2).
    """
    affine = Affine(np.array([[1, 0, 0, 5], [0, 1, 1, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]]))
    masks = np.zeros((2, 3, 4, 4), dtype=np.uint8)
    masks[0, 1, 2, 1] = masks[1, 1, 1, 2] = 1
    score = score_case(masks[0], masks[1], spacing=affine, nsd_tolerance=1.0)
    assert (score.hd95, score.nsd) == (pytest.approx(1.0), 1.0)
    assert score.volume_reference == pytest.approx(1.0)
    square = score_case(masks[0], masks[1], spacing=affine.spacing_mm, nsd_tolerance=1.0)
    assert square.hd95 == pytest.approx(math.sqrt(3))
    empty = score_case(0 * masks[0], masks[1], spacing=affine, nsd_tolerance=1.0)
    # The farther corners: 3 i + 4 j + 4 k = (3, 8, 4).
    assert empty.hd95 == pytest.approx(math.hypot(3, 8, 4))


def test_a_straight_affine_is_its_spacing():
    """Where axes stand at right angles, turned or mirrored, the affine changes no bit."""
    chance = np.random.default_rng(0)
    masks = chance.random((2, 9, 8, 7)) > 0.6
    turned = Affine(np.array([[0, -2, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]]))
    given = {"nsd_tolerance": 2.0}
    assert score_case(*masks, spacing=turned, **given) == score_case(
        *masks, spacing=turned.spacing_mm, **given
    )


@pytest.mark.parametrize(
    ("shape", "value", "spacing", "tolerance", "said"),
    [
        ((3, 3), 1, (1, 1, 1), 1.0, "one shape"),
        ((3, 3, 3), 1, (1, 1), 1.0, "Spacing must be 3"),
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


def test_a_picture_is_scored_in_its_plane():
    """In 2-D an edge is a pixel with a side outside, not every pixel of a one-slice volume."""
    mask = np.zeros((9, 9), dtype=bool)
    mask[2:7, 2:7] = True
    assert int(edge_voxels(mask).sum()) == 16
    moved = np.roll(mask, 1, axis=0)
    score = score_case(moved, mask, spacing=(2.0, 1.0), nsd_tolerance=1.0)
    assert (score.dice, score.iou, score.hd95) == (0.8, 20 / 30, 2.0)
    assert score.volume_reference == 50.0


def test_volume_difference_has_a_sign():
    """Too small a proposal is negative, by the volume that is missing."""
    reference, predicted = np.zeros((2, 5, 5, 5), dtype=np.uint8)
    reference[1:4, 1, 1] = predicted[1, 1, 1] = 1
    score = score_case(predicted, reference, spacing=(1.0, 1.0, 2.0), nsd_tolerance=1.0)
    assert score.volume_difference == -4.0
    assert set(score.as_row()) <= {*PREDICTION_COLUMNS, *OPTIONAL_COLUMNS}


class TestLesions:
    """Lesions are found, or missed, one by one."""

    def masks(self):
        """Three lesions: one covered, one touched at a corner voxel, one missed; one false find."""
        reference, predicted = np.zeros((2, 20, 20, 6), dtype=bool)
        reference[1:4, 1:4, 1] = predicted[1:4, 1:4, 1] = True
        reference[8:11, 8:11, 2] = predicted[10, 10, 2] = True
        reference[16, 16, 4] = predicted[1, 16, 4] = True
        return predicted, reference

    def test_counts_by_hand(self):
        """Two of three are found, two of three findings are true; F1 is their harmonic mean."""
        lesions = count_lesions(*self.masks())
        assert (lesions.reference, lesions.found) == (3, 2)
        assert (lesions.predicted, lesions.predicted_true) == (3, 2)
        assert (lesions.sensitivity, lesions.precision) == (2 / 3, 2 / 3)
        assert lesions.f1 == pytest.approx(2 / 3)

    def test_the_overlap_rule_can_be_stricter(self):
        """With half of a lesion wanted, one voxel of nine does not find it."""
        lesions = count_lesions(*self.masks(), overlap=0.5)
        assert (lesions.found, lesions.predicted_true) == (1, 2)

    def test_voxels_that_touch_at_a_corner_are_one_lesion(self):
        """26 neighbours: the usual rule for tumours, and not that of MONAI's face neighbours."""
        mask = np.zeros((4, 4, 4), dtype=bool)
        mask[1, 1, 1] = mask[2, 2, 2] = True
        assert count_lesions(mask, mask).reference == 1

    def test_without_lesions_a_ratio_has_no_value(self):
        """0 of 0 is neither good nor bad; the counts say what there was."""
        nothing = np.zeros((3, 3, 3), dtype=bool)
        lesions = count_lesions(nothing, nothing)
        assert (lesions.sensitivity, lesions.precision, lesions.f1) == (None, None, None)


class TestCalibration:
    """Probabilities are held to what is found."""

    def score(self, probability):
        """Calibration error of a fixed mask of half the volume, by its probabilities."""
        reference = np.zeros((4, 4, 4), dtype=np.uint8)
        reference[:2] = 1
        return score_case(
            reference, reference, spacing=(1, 1, 1), nsd_tolerance=1.0, probability=probability
        ).calibration_error

    def test_by_hand(self):
        """Certain and right is 0; 0.5 everywhere over half a volume is 0; 0.9 everywhere is 0.4."""
        certain = np.zeros((4, 4, 4))
        certain[:2] = 1.0
        assert self.score(certain) == 0.0
        assert self.score(np.full((4, 4, 4), 0.5)) == 0.0
        assert self.score(np.full((4, 4, 4), 0.9)) == pytest.approx(0.4)

    def test_empty_air_does_not_make_a_model_look_calibrated(self):
        """Voxels far from both masks do not count."""
        reference = np.zeros((64, 8, 8), dtype=np.uint8)
        reference[:4] = 1
        probability = np.where(reference == 1, 0.6, 0.0)
        score = score_case(
            reference, reference, spacing=(1, 1, 1), nsd_tolerance=1.0, probability=probability
        )
        # The box is slices 0 to 4 with its margin, the window ten slices more.
        assert score.calibration_error == pytest.approx(0.4 * 4 / 15)

    @pytest.mark.parametrize("wrong", [np.full((4, 4, 4), 3.0), np.full((4, 4, 4), np.nan)])
    def test_logits_are_refused(self, wrong):
        """Numbers that are no probabilities are named as such."""
        with pytest.raises(DataError, match="not logits"):
            self.score(wrong)


def test_dice_alone_at_empty_masks():
    """Two empty masks agree, one does not with a tumour, and shapes must be one."""
    empty, full = np.zeros((2, 3, 4), dtype=np.uint8), np.ones((2, 3, 4), dtype=np.uint8)
    assert (dice_of(empty, empty), dice_of(empty, full)) == (1.0, 0.0)
    with pytest.raises(DataError, match="one shape"):
        dice_of(empty, full[:1])
