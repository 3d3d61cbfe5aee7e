"""What a draw takes of a patient: a bounded number of own slices, all of a slice moved together."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import HEAD_SIZE, IMAGE_SIZE, small_model
from torch.nn import functional as F

from evenhand.cases.records import Patient
from evenhand.cases.store import CaseStore
from evenhand.config import TrainingConfig
from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.model.preprocessing import Letterbox, display_range
from evenhand.model.prompts import tight_boxes
from evenhand.training.data import Batch, TrainingCase, TrainingPatient, draw, load_patients

SIDE, SQUARE, GRID = 16, 32, 4
PLAIN = TrainingConfig(
    intensity_jitter=0, box_jitter=0, box_slices=2, rotation_degrees=0, scale_jitter=0
)


def coded_case(number, depth, tumours, mirror=None):
    """A case whose every tensor tells which slice it is and where the tumour lies.

    Channel 0 of the cached activations is 100 number + z, channel 1 the mask on the
    coarse grid; pixels are (z + 1) / 64 outside the tumour and 0.5 more inside.
    """
    masks = torch.zeros(depth, SIDE, SIDE, dtype=torch.uint8)
    for z in tumours:
        masks[z, 4 : 8 + z % 4, 8 : 12 + z % 3] = 1  # neither centred nor square
    coarse = F.avg_pool2d(masks.float(), SIDE // GRID)
    codes = torch.full((depth, GRID, GRID), 100.0 * number)
    codes += torch.arange(depth)[:, None, None]
    slices = (torch.arange(depth) + 1)[:, None, None] / 64 + 0.5 * masks
    return TrainingCase(
        hidden=torch.stack([codes, coarse], 1).half().numpy().astype(np.float16),
        slices=slices[:, None].half(),
        masks=masks,
        pixel=SQUARE / SIDE,
        mirror=mirror,
    )


def taken(batch):
    """Codes of the slices in a batch."""
    return batch.hidden[:, 0, 0, 0].round().int().tolist()


def drawn(patient, seed=0, config=PLAIN, **bounds):
    """One draw."""
    generator = torch.Generator().manual_seed(seed)
    return draw(patient, config, generator, image_size=SQUARE, **bounds)


cases = st.lists(
    st.integers(1, 6).flatmap(
        lambda depth: st.tuples(st.just(depth), st.sets(st.integers(0, depth - 1)))
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60)
@given(
    cases=cases,
    wanted=st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(0, 3)),
    bound=st.none() | st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_a_draw_keeps_its_bounds(cases, wanted, bound, seed):
    """Own slices only, each once, no more of a kind than wanted, within the bound, never none."""
    tumour, other, boxed = wanted
    patient = TrainingPatient(
        "p", tuple(coded_case(n + 1, depth, tumours) for n, (depth, tumours) in enumerate(cases))
    )
    config = PLAIN.model_copy(
        update={"tumour_slices": tumour, "other_slices": other, "box_slices": boxed}
    )
    batch = drawn(patient, seed, config, slices_at_most=bound)
    codes = taken(batch)
    with_tumour = {100 * (n + 1) + z for n, (_, zs) in enumerate(cases) for z in zs}
    own = {100 * (n + 1) + z for n, (depth, _) in enumerate(cases) for z in range(depth)}
    assert len(set(codes)) == len(codes)
    assert set(codes) <= own
    assert 1 <= len(codes) <= (bound or 100)
    sick = [code for code in codes if code in with_tumour]
    assert len(sick) <= (tumour if bound is None else bound - bound // 2)
    assert len(codes) - len(sick) <= max(other if bound is None else bound // 2, 1)
    if with_tumour:
        assert sick
    assert len(batch.boxed) == len(batch.boxes) <= boxed
    assert set(batch.boxed.tolist()) <= {n for n, code in enumerate(codes) if code in with_tumour}


def test_a_bound_is_used_up_by_both_kinds():
    """A private step takes as many slices as it may, whatever other steps would take."""
    patient = TrainingPatient("p", (coded_case(1, 40, tuple(range(20))),))
    config = PLAIN.model_copy(update={"tumour_slices": 1, "other_slices": 0})
    codes = taken(drawn(patient, 0, config, slices_at_most=7))
    assert sum(code - 100 < 20 for code in codes) == 4
    assert len(codes) == 7


def test_every_slice_gets_its_turn():
    """Which slices are drawn is random, over all cases."""
    patient = TrainingPatient("p", (coded_case(1, 8, (2, 3, 4)), coded_case(2, 8, (5,))))
    config = PLAIN.model_copy(update={"tumour_slices": 1, "other_slices": 2})
    seen = {code for seed in range(150) for code in taken(drawn(patient, seed, config))}
    assert seen == {100 * case + z for case in (1, 2) for z in range(8)}


@pytest.mark.parametrize("mirror", [None, -1, -2])
def test_pixels_masks_activations_and_boxes_are_mirrored_together(mirror):
    """Whatever way a slice is turned, its box is around its mask, its tumour under its mask."""
    patient = TrainingPatient("p", (coded_case(1, 6, (1, 2, 3, 4), mirror),))
    case = patient.cases[0]
    turned = 0
    for seed in range(40):
        batch = drawn(patient, seed)
        coarse = F.avg_pool2d(batch.masks, SIDE // GRID)
        torch.testing.assert_close(batch.hidden[:, 1], coarse, atol=1e-3, rtol=0)
        bright = batch.slices[:, 1] - batch.slices[:, 1].amin((1, 2), keepdim=True)
        assert torch.equal((bright > 0.25).float(), batch.masks)
        tight = tight_boxes(batch.masks[batch.boxed]) * (SQUARE / SIDE)
        torch.testing.assert_close(batch.boxes, tight)
        original = case.masks[[code - 100 for code in taken(batch)]].float()
        for mask, as_it_was in zip(batch.masks, original, strict=True):
            if not torch.equal(mask, as_it_was):
                turned += 1
                assert torch.equal(mask, as_it_was.flip(mirror))
    assert turned == 0 if mirror is None else 40 < turned < 120


def test_neighbours_stay_around_their_slice():
    """The channels are z-1, z, z+1 of the same case, at the ends the slice itself."""
    case = coded_case(1, 5, ())
    patient = TrainingPatient("p", (case, coded_case(2, 3, ())))
    config = PLAIN.model_copy(update={"other_slices": 8})
    batch = drawn(patient, 0, config)
    for code, slices in zip(taken(batch), batch.slices, strict=True):
        z, last = code % 100, 4 if code < 200 else 2
        wanted = [max(z - 1, 0) + 1, z + 1, min(z + 1, last) + 1]
        assert (slices[:, 0, 0] * 64).tolist() == pytest.approx(wanted, rel=1e-3)


def test_a_turned_slice_is_turned_as_a_whole():
    """Activations, picture and mask stay on one another, whatever the turn and the size."""
    patient = TrainingPatient("p", (coded_case(1, 6, (1, 2, 3, 4), -1),))
    config = PLAIN.model_copy(update={"rotation_degrees": 90.0, "scale_jitter": 0.5})
    overlaps, changed = [], 0
    for seed in range(40):
        batch = drawn(patient, seed, config)
        bright = (batch.slices[:, 1] > 0.3).float()
        coarse = F.interpolate(batch.hidden[:, 1:2], SIDE, mode="bilinear")[:, 0]
        for mask, seen, felt in zip(batch.masks, bright, coarse, strict=True):
            if mask.any():
                overlaps.append([(mask * x).sum() / mask.sum() for x in (seen, felt > 0.25)])
        areas = batch.masks.flatten(1).sum(1)
        changed += int((areas[areas > 0] - 20).abs().max() > 8)
        x = tight_boxes(batch.masks[batch.boxed]) * (SQUARE / SIDE)
        torch.testing.assert_close(batch.boxes, x)
    assert np.mean(overlaps, axis=0).min() > 0.8
    assert changed > 20


def test_a_share_of_draws_trains_on_boxes():
    """One in four here: the decoder is dear, and the head does not wait for it."""
    patient = TrainingPatient("p", (coded_case(1, 6, (1, 2, 3)),))
    config = PLAIN.model_copy(update={"box_share": 0.25})
    boxed = [len(drawn(patient, seed, config).boxed) for seed in range(200)]
    assert set(boxed) == {0, 2}
    assert 30 < np.count_nonzero(boxed) < 70


def test_boxes_are_jittered_in_pixels_of_the_original_slice():
    """By 3 pixels at scale 2: up to 6 in the square, and the square's border is kept."""
    patient = TrainingPatient("p", (coded_case(1, 2, (0,)),))
    config = PLAIN.model_copy(update={"box_jitter": 3})
    box = tight_boxes(patient.cases[0].masks)[:1] * (SQUARE / SIDE)
    moves = torch.cat([drawn(patient, seed, config).boxes - box for seed in range(300)])
    assert moves.abs().amax(0).tolist() == [6, 6, 6, 6]


def test_intensities_vary_and_stay_in_the_display_range():
    """Gain and gamma change what is bright; black stays black, and nothing exceeds 1."""
    patient = TrainingPatient("p", (coded_case(1, 2, (0,)),))
    patient.cases[0].slices[:, :, :4] = 0
    patient.cases[0].slices[:, :, -1] = 1
    config = PLAIN.model_copy(update={"intensity_jitter": 0.5})
    shown = torch.stack([drawn(patient, seed, config).slices for seed in range(30)])
    assert shown[..., :4, :].max() < 1e-3  # moving a slice interpolates
    assert shown.max() <= 1
    assert shown[:, 0, 1, 5, 9].std() > 0.02


def test_one_seed_one_draw():
    """Everything of a draw comes from its generator."""
    patient = TrainingPatient("p", (coded_case(1, 9, (1, 2, 3), -1),))
    config = PLAIN.model_copy(update={"box_jitter": 3, "intensity_jitter": 0.2})
    first, second, other = (drawn(patient, seed, config) for seed in (4, 4, 5))
    for field in ("hidden", "slices", "masks", "boxed", "boxes"):
        assert torch.equal(getattr(first, field), getattr(second, field))
    assert not torch.equal(first.slices, other.slices)


def test_joined_batches_keep_boxes_with_their_slices():
    """Positions of boxed slices count from the start of the joined batch."""
    patients = [TrainingPatient("p", (coded_case(n, 6, (n, 3)),)) for n in (1, 2)]
    parts = [drawn(patient, seed=3) for patient in patients]
    batch = Batch.join(parts)
    assert taken(batch) == taken(parts[0]) + taken(parts[1])
    assert len(batch.boxed) == 4
    tight = tight_boxes(batch.masks[batch.boxed]) * (SQUARE / SIDE)
    torch.testing.assert_close(batch.boxes, tight)


@pytest.fixture(scope="module")
def model():
    """Sizes come from its config."""
    return small_model(encoder_lora_rank=0)


class TestLoading:
    """From a store to what is drawn from."""

    @staticmethod
    def cache_of(case_ids):
        """A cache that gives each case activations of its own."""
        return SimpleNamespace(
            sequence="FLAIR",
            read=lambda case: np.full((case.shape[2], 1, 2, 2), case_ids.index(case.case_id)),
        )

    def test_named_patients_are_loaded_in_order(self, model, tiny_store):
        """Those of the split and no others, whatever order they are named in."""
        cache = self.cache_of(tiny_store.case_ids())
        everybody = sorted({case.patient.patient_id for case in tiny_store})
        wanted = [everybody[2], everybody[0]]
        patients = load_patients(tiny_store, cache, wanted, model)
        assert [patient.patient_id for patient in patients] == sorted(wanted)

    def test_a_case_keeps_its_geometry(self, model, tmp_path):
        """A slice that is not square is letterboxed alike with its mask; boxes fit both."""
        image = np.zeros((20, 30, 4), np.float32)
        image[2:18, 3:27] = np.random.default_rng(0).uniform(50, 60, (16, 24, 4))
        mask = np.zeros((20, 30, 4), np.uint8)
        mask[5:9, 12:24, 2] = 1
        image[mask == 1] = 100
        store = CaseStore.create(tmp_path / "store", "north")
        patient = Patient(patient_id="p1", hospital="north")
        store.add(
            case_id="c1",
            patient=patient,
            affine=Affine(np.eye(4)),
            images={"FLAIR": image},
            mask=mask,
            source="test",
        )
        (loaded,) = load_patients(store, self.cache_of(["c1"]), ["p1"], model)
        (case,) = loaded.cases
        assert case.slices.shape == (4, 1, HEAD_SIZE, HEAD_SIZE)
        assert case.masks.shape == (4, HEAD_SIZE, HEAD_SIZE)
        assert (case.pixel, case.head_pixel) == (IMAGE_SIZE / 30, HEAD_SIZE / 30)
        assert not case.masks[[0, 1, 3]].any()
        box = (tight_boxes(case.masks)[2] * (IMAGE_SIZE / HEAD_SIZE)).tolist()
        wanted = [side * case.pixel for side in (12, 5, 24, 9)]
        assert box == pytest.approx(wanted, abs=IMAGE_SIZE / HEAD_SIZE)
        wanted = Letterbox(20, 30, HEAD_SIZE).apply(display_range(image)[:, None])
        torch.testing.assert_close(case.slices.float(), wanted, atol=1e-3, rtol=0)

    def test_a_sequence_that_a_case_lacks_is_empty(self, tmp_path):
        """The head then sees nothing there; the other sequences keep their places."""
        model = small_model()
        model.sequences = ("FLAIR", "T1w", "T2w")
        rng = np.random.default_rng(0)
        images = {
            name: rng.uniform(1, 9, (8, 8, 3)).astype(np.float32) for name in ("FLAIR", "T2w")
        }
        store = CaseStore.create(tmp_path / "store", "north")
        store.add(
            case_id="c1",
            patient=Patient(patient_id="p1", hospital="north"),
            affine=Affine(np.eye(4)),
            images=images,
            mask=np.zeros((8, 8, 3), np.uint8),
            source="test",
        )
        (loaded,) = load_patients(store, self.cache_of(["c1"]), ["p1"], model)
        flair, lacking, last = loaded.cases[0].slices.float().unbind(1)
        assert not lacking.any()
        square = Letterbox(8, 8, HEAD_SIZE)
        for shown, name in ((flair, "FLAIR"), (last, "T2w")):
            wanted = square.apply(display_range(images[name])[:, None])[:, 0]
            torch.testing.assert_close(shown, wanted, atol=1e-3, rtol=0)

    @pytest.mark.parametrize(
        ("axes", "mirror"), [((0, 1, 2), -2), ((1, 0, 2), -1), ((2, 1, 0), None)]
    )
    def test_slices_are_mirrored_left_to_right_only(self, model, tmp_path, axes, mirror):
        """The patient's sides are told by the affine: i runs down a slice, j along it."""
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[list(axes)]
        store = CaseStore.create(tmp_path / "store", "north")
        store.add(
            case_id="c1",
            patient=Patient(patient_id="p1", hospital="north"),
            affine=Affine(affine),
            images={"FLAIR": np.ones((4, 4, 3), np.float32)},
            mask=np.zeros((4, 4, 3), np.uint8),
            source="test",
        )
        (loaded,) = load_patients(store, self.cache_of(["c1"]), ["p1"], model)
        assert loaded.cases[0].mirror == mirror

    def test_a_case_without_a_mask_cannot_be_trained_on(self, model, tmp_path):
        """The sentence says what to do and does not name the patient."""
        store = CaseStore.create(tmp_path / "store", "north")
        store.add(
            case_id="c1",
            patient=Patient(patient_id="secret", hospital="north"),
            affine=Affine(np.eye(4)),
            images={"FLAIR": np.ones((4, 4, 3), np.float32)},
            mask=None,
            source="test",
        )
        with pytest.raises(DataError, match="no reference mask") as caught:
            load_patients(store, self.cache_of(["c1"]), ["secret"], model)
        assert "secret" not in str(caught.value)
