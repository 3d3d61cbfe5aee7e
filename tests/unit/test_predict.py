"""From a case to a mask on the case's own grid: axes, sizes, slices without a prompt."""

from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_models import IMAGE_SIZE, small_model
from torch.nn import functional as F

from evenhand.cases.records import Case, Patient
from evenhand.geometry import Affine
from evenhand.model.embeddings import EmbeddingCache
from evenhand.model.preprocessing import Letterbox, display_range, with_neighbours
from evenhand.predict import (
    OpenCase,
    Prediction,
    boxes_from_reference,
    predict_automatic,
    predict_boxes,
    predict_from_slice,
    predict_hinted_boxes,
    without_specks,
)

SHAPE = (40, 60, 11)
"""Neither square nor a whole number of batches deep."""


@pytest.fixture(scope="module")
def model():
    """Everything that an adapter can have; all parts of a mask are kept. Read only."""
    return small_model(smallest_component=0.0)


@pytest.fixture
def case():
    """A case of the shape above."""
    return Case(
        case_id="c1",
        patient=Patient(patient_id="p1", hospital="north"),
        shape=SHAPE,
        affine=Affine(np.eye(4)),
        sequences=MappingProxyType({"FLAIR": "0" * 64}),
        mask_sha256=None,
        source="test",
    )


@pytest.fixture
def cache():
    """Activations of the case, each slice's own."""
    hidden = np.random.default_rng(0).normal(size=(SHAPE[2], 320, 8, 8)).astype(np.float16)
    return SimpleNamespace(sequence="FLAIR", read=lambda _: hidden)


def store_of(volume):
    """A store that gives this volume."""
    images = MappingProxyType({"FLAIR": volume})
    return SimpleNamespace(volumes=lambda *_, **__: SimpleNamespace(images=images, mask=None))


def opened(model, cache, case, volume=None):
    """The case, open; bright everywhere unless a volume is given."""
    volume = np.ones(SHAPE, np.float32) if volume is None else volume
    return OpenCase.of(model, store_of(volume), cache, case)


def blob(where, shape=SHAPE):
    """A box-shaped mask: two voxels a slice stay inside whatever is lost at the border."""
    mask = np.zeros(shape, np.uint8)
    mask[where] = 1
    return mask


def dice(a, b):
    """Overlap of two masks."""
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_an_automatic_mask_lies_where_the_tumour_is(model, cache, case, monkeypatch):
    """If the head marks what is bright, the mask is what is bright: axes and slices fit."""
    mask = blob(np.s_[8:20, 30:52, 3:6])
    volume = (100 + 100 * mask).astype(np.float32)
    monkeypatch.setattr(model, "propose", lambda slices, _: 40 * (slices[:, 1] - 0.5))
    predicted = predict_automatic(model, opened(model, cache, case, volume))
    assert predicted.mask.shape == predicted.probability.shape == SHAPE
    assert predicted.mask.dtype == np.uint8
    assert dice(predicted.mask, mask) > 0.93
    assert not predicted.mask[:, :, [0, 1, 2, 6, 7, 8, 9, 10]].any()


@torch.inference_mode()
def test_automatic_prediction_equals_slice_by_slice(model, cache, case):
    """Batches are for speed: each slice with its own neighbours and its own activations."""
    volume = np.random.default_rng(1).uniform(1, 9, SHAPE).astype(np.float32)
    predicted = predict_automatic(model, opened(model, cache, case, volume))
    slices = display_range(volume)
    box = Letterbox(*SHAPE[:2], model.config.head_size)
    square = box.apply(slices[:, None])
    for z in range(SHAPE[2]):
        around = with_neighbours(square, torch.tensor([z]))
        hidden = torch.tensor(cache.read(case)[z : z + 1]).float()
        wanted = box.invert(model.propose(around, hidden))[0].sigmoid().numpy()
        np.testing.assert_allclose(predicted.probability[:, :, z], wanted, atol=2e-3)
    surely = np.abs(predicted.probability.astype(float) - 0.5) > 1e-2
    assert surely.any()
    assert ((predicted.probability > 0.5) == (predicted.mask == 1))[surely].all()


def paint_the_hints(slices, hidden, hints=None):
    """A head that marks what it is told, box or neighbour's mask, and nothing of its own."""
    assert len(hidden) == len(slices)
    return 20.0 * hints.amax(1) - 10


def test_a_hinted_box_lands_where_it_was_drawn(model, cache, case, monkeypatch):
    """Boxes go into the head's square and masks come back, slice by slice; others stay empty."""
    mask = blob(np.s_[8:20, 30:52, [0, 4, 9, 10]])
    boxes = boxes_from_reference(mask, jitter=0, seed=0)
    monkeypatch.setattr(model, "propose", paint_the_hints)
    predicted = predict_hinted_boxes(model, opened(model, cache, case), boxes)
    assert dice(predicted.mask, mask) > 0.9
    assert (predicted.mask.any((0, 1)) == mask.any((0, 1))).all()


class TestFromOneSlice:
    """A mask is carried through the volume until nothing is found."""

    @pytest.mark.parametrize("z", [0, 5, 10])
    def test_it_reaches_every_slice(self, model, cache, case, monkeypatch, z):
        """Up and down, from the middle and from either end."""
        monkeypatch.setattr(model, "propose", paint_the_hints)
        box = torch.tensor([30.0, 8, 52, 20])
        predicted = predict_from_slice(model, opened(model, cache, case), z=z, box=box)
        assert dice(predicted.mask, blob(np.s_[8:20, 30:52, :])) > 0.9

    def test_it_ends_where_the_tumour_ends(self, model, cache, case, monkeypatch):
        """Behind a slice without tumour nothing is asked, even where there is another tumour."""
        volume = np.ones(SHAPE, np.float32)
        volume[:, :, [4, 5, 6, 8]] = 9
        asked = []

        def while_bright(slices, hidden, hints):
            asked.append(int(hidden[0, 0, 0, 0] * 0) + 1)
            return paint_the_hints(slices, hidden, hints) - 40 * (slices[:, 1].amax((1, 2)) < 0.5)

        monkeypatch.setattr(model, "propose", while_bright)
        box = torch.tensor([30.0, 8, 52, 20])
        predicted = predict_from_slice(model, opened(model, cache, case, volume), z=5, box=box)
        assert np.flatnonzero(predicted.mask.any((0, 1))).tolist() == [4, 5, 6]
        assert len(asked) == 5  # and the two slices that ended it


def test_predicting_twice_gives_the_same(model, cache, case):
    """No dropout and no draw is left in prediction."""
    volume = np.random.default_rng(1).uniform(1, 9, SHAPE).astype(np.float32)
    first, second = (predict_automatic(model, opened(model, cache, case, volume)) for _ in range(2))
    assert np.array_equal(first.probability, second.probability)


def fill_the_box(_, boxes):
    """A decoder that answers every box with the box, on its coarse grid."""
    side = IMAGE_SIZE // 4
    centres = (torch.arange(side) + 0.5) * 4
    x0, y0, x1, y1 = boxes.T[:, :, None]
    columns = (centres > x0) & (centres < x1)
    rows = (centres > y0) & (centres < y1)
    return 20.0 * (rows[:, :, None] & columns[:, None, :]) - 10


def test_a_boxed_mask_lies_where_its_box_is(model, cache, case, monkeypatch):
    """Boxes go into the square and masks come back onto the case's grid, in place."""
    mask = blob(np.s_[8:20, 30:52, [0, 4, 9, 10]])
    boxes = boxes_from_reference(mask, jitter=0, seed=0)
    monkeypatch.setattr(model, "answer_boxes", fill_the_box)
    predicted = predict_boxes(model, opened(model, cache, case), boxes)
    assert predicted.mask.shape == SHAPE
    assert dice(predicted.mask, mask) > 0.9
    for z in range(SHAPE[2]):
        assert predicted.mask[:, :, z].any() == mask[:, :, z].any()


def test_each_box_goes_to_its_own_slice(model, cache, case, monkeypatch):
    """The activations that the decoder gets are those of the boxed slices, in order."""
    given = []

    def spy(hidden, boxes):
        given.extend(zip(hidden[:, 0, 0, 0].tolist(), boxes[:, 0].tolist(), strict=True))
        return fill_the_box(hidden, boxes)

    monkeypatch.setattr(model, "answer_boxes", spy)
    boxes = torch.full((SHAPE[2], 4), float("nan"))
    for z in (1, 7, 8, 10):  # on both sides of a batch's border
        boxes[z] = torch.tensor([z, 2.0, 30.0, 30.0])
    predict_boxes(model, opened(model, cache, case), boxes)
    scale = IMAGE_SIZE / 60
    hidden = cache.read(case)
    wanted = [(float(hidden[z, 0, 0, 0]), z * scale) for z in (1, 7, 8, 10)]
    np.testing.assert_allclose(given, wanted, rtol=1e-5)


def test_without_a_box_a_slice_stays_empty(model, cache, case):
    """No prompt, no mask: probability is next to nothing there."""
    boxes = torch.full((SHAPE[2], 4), float("nan"))
    predicted = predict_boxes(model, opened(model, cache, case), boxes)
    assert not predicted.mask.any()
    assert predicted.probability.max() < 1e-6


def test_real_caches_feed_the_prediction(tiny_store, tmp_path):
    """From a store through the cache to masks of the case's shape, in both modes."""
    model = small_model()
    cache = EmbeddingCache.of_model(tmp_path, model, "FLAIR")
    case = tiny_store.case(tiny_store.case_ids()[0])
    cache.fill(tiny_store, [case], lambda _: None)
    reference = tiny_store.volumes(case).mask
    boxes = boxes_from_reference(reference, jitter=2, seed=0)
    for predicted in (
        predict_automatic(model, OpenCase.of(model, tiny_store, cache, case)),
        predict_boxes(model, OpenCase.of(model, tiny_store, cache, case), boxes),
    ):
        assert predicted.mask.shape == case.shape
        assert set(np.unique(predicted.mask)) <= {0, 1}
        assert np.isfinite(predicted.probability).all()


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_the_threshold_is_a_probability(threshold):
    """A voxel belongs to the mask above it, axes as in the case."""
    logits = torch.linspace(-4, 4, 24).view(2, 3, 4)  # (k, i, j)
    predicted = Prediction.from_logits(logits, threshold=threshold)
    assert predicted.mask.shape == (3, 4, 2)
    for z in range(2):
        wanted = logits[z].sigmoid().numpy() > threshold
        assert np.array_equal(predicted.mask[:, :, z] == 1, wanted)


class TestBoxesFromReference:
    """Prompts for evaluation."""

    def test_without_jitter_they_are_tight(self):
        """Along j runs x, along i runs y; slices without tumour have none."""
        boxes = boxes_from_reference(blob(np.s_[8:20, 30:52, 4]), jitter=0, seed=0)
        assert boxes[4].tolist() == [30, 8, 52, 20]
        assert boxes[[n for n in range(11) if n != 4]].isnan().all()

    def test_jitter_is_bounded_and_repeats(self):
        """By up to 5 pixels a side, the same for the same seed, and never empty."""
        mask = blob(np.s_[8:20, 30:52, :])
        mask[:, :, 0] = 0
        mask[3, 3, 0] = 1
        boxes = boxes_from_reference(mask, jitter=5, seed=1)
        assert torch.equal(boxes, boxes_from_reference(mask, jitter=5, seed=1))
        assert not torch.equal(boxes, boxes_from_reference(mask, jitter=5, seed=2))
        moves = boxes[1:] - torch.tensor([30.0, 8, 52, 20])
        assert moves.abs().max() <= 5
        assert moves.abs().max() > 0
        assert (boxes[:, 2:] > boxes[:, :2]).all()

    def test_an_empty_reference_gives_no_box(self):
        """All NaN, no error."""
        assert boxes_from_reference(np.zeros((4, 5, 2), np.uint8), jitter=3, seed=0).isnan().all()


def slow_parts(mask):
    """Parts that hang together over faces, by walking."""
    left = {tuple(int(n) for n in voxel) for voxel in np.argwhere(mask)}
    parts = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            i, j, k = edge.pop()
            part.add((i, j, k))
            around = {(i + 1, j, k), (i - 1, j, k), (i, j + 1, k), (i, j - 1, k)}
            near = (around | {(i, j, k + 1), (i, j, k - 1)}) & left
            left -= near
            edge.extend(near)
        parts.append(part)
    return parts


@settings(max_examples=60)
@given(
    mask=arrays(np.uint8, (4, 4, 3), elements=st.sampled_from([0, 0, 1])),
    fraction=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_specks_are_dropped_as_a_slow_walk_says(mask, fraction):
    """Parts under the fraction of the largest go, all others stay, nothing is added."""
    before = mask.copy()
    parts = slow_parts(mask)
    wanted = np.zeros_like(mask)
    for part in parts:
        if len(part) >= fraction * max(len(other) for other in parts):
            for voxel in part:
                wanted[voxel] = 1
    cleaned = without_specks(mask, fraction)
    assert np.array_equal(cleaned, wanted)
    assert cleaned.dtype == np.uint8
    assert np.array_equal(mask, before)


def test_specks_are_dropped_from_automatic_masks_only(model, cache, case, monkeypatch):
    """Without a prompt a far small part is likelier wrong; a box was asked for by a person."""
    mask = blob(np.s_[8:20, 30:52, 3:6]) | blob(np.s_[30:36, 5:11, 9])
    monkeypatch.setattr(model, "propose", lambda slices, _: 40 * (slices[:, 1] - 0.5))
    monkeypatch.setattr(model, "answer_boxes", fill_the_box)
    monkeypatch.setattr(
        model, "config", model.config.model_copy(update={"smallest_component": 0.3})
    )
    volume = (100 + 100 * mask).astype(np.float32)
    automatic = predict_automatic(model, opened(model, cache, case, volume)).mask
    assert automatic[:, :, 3:6].any()
    assert not automatic[:, :, 9].any()
    boxed = predict_boxes(
        model, opened(model, cache, case), boxes_from_reference(mask, jitter=0, seed=0)
    ).mask
    assert boxed[:, :, 9].any()


def test_the_coarse_answer_of_the_fake_decoder_is_what_it_should_be():
    """The oracle of the tests above: a box of half the square fills a quarter of it."""
    answer = fill_the_box(None, torch.tensor([[0.0, 0, IMAGE_SIZE / 2, IMAGE_SIZE / 2]]))
    assert answer.shape == (1, IMAGE_SIZE // 4, IMAGE_SIZE // 4)
    full = F.interpolate((answer > 0).float()[None], IMAGE_SIZE)[0, 0]
    assert full.mean() == 0.25
    assert (full[: IMAGE_SIZE // 2, : IMAGE_SIZE // 2] == 1).all()
