"""Our metrics against other people's: equal where definitions coincide, explained where not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from monai_oracle import monai_scores
from scipy import ndimage

from evenhand.metrics import count_lesions, score_case
from evenhand.metrics.calibration import CALIBRATION_BINS, expected_calibration_error
from evenhand.metrics.surfaces import surface_distances

SPACINGS = st.tuples(*[st.sampled_from((0.5, 0.7, 1.0, 3.0))] * 3)


def blobs(seed, shape=(40, 36, 14), shift=2):
    """Two rough blobs that overlap, and a false finding."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    reference = field > np.quantile(field, 0.9)
    field = np.roll(field, shift, axis=0) + 0.2 * ndimage.gaussian_filter(rng.normal(size=shape), 3)
    predicted = field > np.quantile(field, 0.9)
    predicted[1, 1, 1] = True
    return predicted, reference


@settings(max_examples=40)
@given(data=st.data(), spacing=SPACINGS, tolerance=st.sampled_from((0.7, 1.0, 2.1, 3.0)))
def test_any_masks_score_as_in_monai(data, spacing, tolerance):
    """Dice, IoU, HD95 and NSD equal MONAI's to 1e-6, tolerances on the grid of distances too."""
    shape = data.draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))
    masks = [data.draw(arrays(np.uint8, shape, elements=st.integers(0, 1))) for _ in range(2)]
    for mask in masks:
        mask[tuple(data.draw(st.integers(0, size - 1)) for size in shape)] = 1
    score = score_case(*masks, spacing=spacing, nsd_tolerance=tolerance)
    ours = (score.dice, score.iou, score.hd95, score.nsd)
    assert ours == pytest.approx(monai_scores(*masks, spacing, tolerance), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_larger_masks_score_as_in_monai(seed):
    """The same on masks of a size at which the KD-tree has branches."""
    predicted, reference = blobs(seed)
    score = score_case(predicted, reference, spacing=(0.9, 0.9, 3.0), nsd_tolerance=2.0)
    ours = (score.dice, score.iou, score.hd95, score.nsd)
    expected = monai_scores(predicted, reference, (0.9, 0.9, 3.0), 2.0)
    assert ours == pytest.approx(expected, rel=1e-6)


def test_pictures_score_as_in_monai():
    """In two dimensions too."""
    predicted, reference = (mask[..., 7] for mask in blobs(1))
    score = score_case(predicted, reference, spacing=(0.5, 0.8), nsd_tolerance=1.0)
    ours = (score.dice, score.iou, score.hd95, score.nsd)
    assert ours == pytest.approx(monai_scores(predicted, reference, (0.5, 0.8), 1.0), rel=1e-6)


def test_calibration_bins_as_in_monai():
    """The calibration error is the weighted mean over MONAI's own bins."""
    torch = pytest.importorskip("torch")
    from monai.metrics import calibration_binning

    rng = np.random.default_rng(0)
    probability = rng.uniform(size=(12, 10, 8))
    reference = rng.uniform(size=probability.shape) < probability**2
    stated, found, voxels = calibration_binning(
        torch.from_numpy(probability)[None, None],
        torch.from_numpy(reference.astype(float))[None, None],
        num_bins=CALIBRATION_BINS,
        right=True,
    )
    error = torch.nansum((stated - found).abs() * voxels) / voxels.sum()
    ours = expected_calibration_error(probability, reference)
    assert ours == pytest.approx(float(error), abs=1e-6)


class TestMedPy:
    """MedPy pools the distances of both directions, MONAI and we take the worse direction."""

    @pytest.mark.parametrize("seed", range(3))
    def test_overlap_and_pooled_distances(self, seed):
        """Dice and Jaccard coincide, HD95 once pooled as MedPy does, which is never larger."""
        medpy = pytest.importorskip("medpy.metric")
        predicted, reference = blobs(seed)
        spacing = (0.9, 0.9, 3.0)
        score = score_case(predicted, reference, spacing=spacing, nsd_tolerance=1.0)
        theirs = medpy.dc(predicted, reference), medpy.jc(predicted, reference)
        assert (score.dice, score.iou) == pytest.approx(theirs, abs=1e-6)
        distances = surface_distances(predicted, reference, spacing)
        pooled = np.concatenate([distances.from_predicted, distances.from_reference])
        hd95 = medpy.hd95(predicted, reference, voxelspacing=spacing)
        assert np.percentile(pooled, 95) == pytest.approx(hd95, rel=1e-6)
        assert hd95 <= score.hd95 * (1 + 1e-6)


@pytest.mark.filterwarnings(
    "ignore:.*scipy.ndimage.(filters|morphology). namespace:DeprecationWarning"
)
class TestSurfaceDistance:
    """DeepMind's surface-distance weighs surface elements by area, on a grid of half voxels."""

    def test_dice_coincides(self):
        """Dice is one definition everywhere."""
        theirs = pytest.importorskip("surface_distance")
        predicted, reference = blobs(2)
        score = score_case(predicted, reference, spacing=(1, 1, 1), nsd_tolerance=1.0)
        dice = theirs.compute_dice_coefficient(reference, predicted)
        assert score.dice == pytest.approx(dice, abs=1e-6)

    def test_shifted_plates_are_as_far_apart_in_both(self):
        """Where all of a surface is equally far, weights do not matter: HD95 coincides."""
        theirs = pytest.importorskip("surface_distance")
        reference, predicted = np.zeros((2, 16, 24, 24), dtype=bool)
        reference[4, 2:22, 2:22] = predicted[9, 2:22, 2:22] = True
        spacing = (2.0, 1.0, 1.0)
        score = score_case(predicted, reference, spacing=spacing, nsd_tolerance=1.0)
        distances = theirs.compute_surface_distances(reference, predicted, spacing)
        assert score.hd95 == theirs.compute_robust_hausdorff(distances, 95) == 10.0

    def test_elsewhere_they_differ_by_less_than_a_voxel(self):
        """On rough masks the definitions part, within the diagonal of a voxel; both are named."""
        theirs = pytest.importorskip("surface_distance")
        predicted, reference = blobs(0)
        spacing = (1.0, 1.0, 1.0)
        score = score_case(predicted, reference, spacing=spacing, nsd_tolerance=1.0)
        distances = theirs.compute_surface_distances(reference, predicted, spacing)
        hd95 = theirs.compute_robust_hausdorff(distances, 95)
        assert score.hd95 != pytest.approx(hd95, rel=1e-6)
        assert abs(score.hd95 - hd95) < 3**0.5


class TestAuditTools:
    """The packages that auditors use today."""

    @pytest.mark.parametrize("seed", range(2))
    def test_fairmedfm_gives_the_same_dice(self, seed):
        """FairMedFM's Dice from masks is ours."""
        fairmedfm = pytest.importorskip("fairmedfm._inputs")
        predicted, reference = blobs(seed)
        score = score_case(predicted, reference, spacing=(1, 1, 1), nsd_tolerance=1.0)
        theirs = fairmedfm.dice_scores([predicted], [reference])[0]
        assert score.dice == pytest.approx(theirs, abs=1e-6)

    @pytest.mark.parametrize("seed", range(2))
    def test_segauge_gives_the_same_overlap(self, seed):
        """Segauge's Dice and IoU are ours; its surfaces are meshes, so its distances are not."""
        segauge = pytest.importorskip("segauge.metrics.overlap")
        predicted, reference = blobs(seed)
        score = score_case(predicted, reference, spacing=(1, 1, 1), nsd_tolerance=1.0)
        theirs = segauge.dice(predicted, reference), segauge.iou(predicted, reference)
        assert (score.dice, score.iou) == pytest.approx(theirs, abs=1e-6)

    def test_segauge_finds_the_same_lesions_where_each_has_one_partner(self):
        """One to one, matching and overlap agree on who was found; only splits part them."""
        segauge = pytest.importorskip("segauge.metrics.detection")
        reference, predicted = np.zeros((2, 30, 12, 12), dtype=bool)
        reference[2:6, 2:6, 2:6] = predicted[3:7, 2:6, 2:6] = True
        reference[12:15, 2:6, 2:6] = predicted[22:25, 2:6, 2:6] = True
        ours = count_lesions(predicted, reference)
        theirs = segauge.detection_scores(predicted, reference, iou_threshold=0.01, connectivity=3)
        assert (ours.found, ours.reference) == (theirs.tp, theirs.tp + theirs.fn) == (1, 2)
        assert ours.predicted - ours.predicted_true == theirs.fp == 1
