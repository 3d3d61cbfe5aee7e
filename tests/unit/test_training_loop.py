"""Training without privacy: everything moves, losses fall, seeds repeat, rounds join up."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import small_model, toy_case, toy_patients

from evenhand.config import TrainingConfig
from evenhand.errors import DataError
from evenhand.training.data import Batch, TrainingPatient, draw
from evenhand.training.loop import Schedule, loss_of, train
from evenhand.training.loss import adapter_loss, mask_loss
from evenhand.training.moments import read_moments, write_moments
from evenhand.training.resume import KeptTraining

CONFIG = TrainingConfig(patients_per_step=2, tumour_slices=2, other_slices=1, box_slices=1)


@pytest.fixture(scope="module")
def patients():
    """Three toy patients for a model with everything. Read only."""
    return toy_patients(small_model(), 3)


def run(model, patients, *, epochs=1, rate=5e-3, seed=0, config=CONFIG, **more):
    """Train and return the report."""
    schedule = Schedule(rate)
    return train(model, patients, config, epochs=epochs, schedule=schedule, seed=seed, **more)


def test_every_trainable_tensor_moves_and_nothing_frozen_does(patients):
    """An adapter that silently does not train would look like a bad one."""
    model = small_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    run(model, patients, epochs=2)
    adapter = set(model.adapter())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in adapter), name
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())


def test_losses_fall_on_a_problem_that_can_be_learnt():
    """Bright boxes on dark ground: the last quarter is clearly better than the first."""
    model = small_model(encoder_lora_rank=0)
    report = run(model, toy_patients(model, 3), epochs=20)
    assert report.last_loss < 0.8 * report.first_loss
    assert (report.steps, report.patients) == (40, 3)


def test_one_seed_one_adapter(patients):
    """Twice the same training gives the same adapter bit for bit; another seed does not."""
    states = []
    for seed in (1, 1, 2):
        torch.rand(len(states))  # whatever was drawn elsewhere does not matter
        model = small_model()
        run(model, patients, seed=seed)
        states.append(model.adapter_state())
    first, second, other = states
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("count", "per_step", "steps"), [(1, 4, 1), (3, 2, 2), (5, 1, 5), (4, 4, 1)]
)
def test_every_epoch_sees_every_patient_once(monkeypatch, count, per_step, steps):
    """However patients divide into steps; progress is told step by step."""
    model = small_model()
    people = toy_patients(model, count)
    seen, told = [], []

    def spy(patient, *args, **kwargs):
        seen.append(patient.patient_id)
        return draw(patient, *args, **kwargs)

    monkeypatch.setattr("evenhand.training.loop.draw", spy)
    config = CONFIG.model_copy(update={"patients_per_step": per_step})
    report = run(model, people, epochs=2, config=config, advance=told.append)
    assert sorted(seen[:count]) == sorted(seen[count:]) == [p.patient_id for p in people]
    assert report.steps == 2 * steps
    assert told == [1] * (2 * steps)


def test_nobody_to_train_on_is_an_error():
    """The sentence names the key."""
    with pytest.raises(DataError, match=r"data\.test_fraction"):
        run(small_model(), [])


def test_the_model_is_ready_to_predict_afterwards(patients):
    """Dropout ends with training."""
    model = small_model()
    run(model, patients)
    assert not any(part.training for part in model.modules())


@pytest.mark.parametrize("changes", [{}, {"head": "none"}])
def test_patients_without_tumour_can_be_trained_on(changes):
    """No box and, without a head, nothing to learn: no crash, and nothing becomes NaN."""
    model = small_model(**changes)
    healthy = [TrainingPatient("p", (toy_case(model, 0, tumours=()),))]
    config = CONFIG.model_copy(update={"other_slices": 0})
    report = run(model, healthy, config=config)
    assert math.isfinite(report.last_loss)
    assert all(value.isfinite().all() for value in model.adapter_state().values())


class TestSchedule:
    """One curve for the whole training, however it is cut into rounds."""

    @given(rounds=st.integers(1, 12), fraction=st.floats(0, 1), rate=st.floats(1e-5, 1))
    def test_rounds_join_into_one_curve(self, rounds, fraction, rate):
        """Every point of every round lies on the curve of the training as a whole."""
        whole = Schedule(rate)
        for number in range(rounds):
            piece = Schedule(rate, start=number / rounds, end=(number + 1) / rounds)
            where = (number + fraction) / rounds
            assert piece.at(fraction) == pytest.approx(whole.at(where), rel=1e-6, abs=1e-12 * rate)

    def test_it_rises_and_falls(self):
        """Up over the first twentieth, down to nothing at the end, never negative or over."""
        rates = [Schedule(2.0).at(step / 1000) for step in range(1001)]
        top = int(np.argmax(rates))
        assert top == 50
        assert all(a <= b for a, b in pairwise(rates[: top + 1]))
        assert all(a > b for a, b in pairwise(rates[top:]))
        assert max(rates) == pytest.approx(2.0, rel=0.01)
        assert min(rates) >= 0
        assert rates[-1] == pytest.approx(0, abs=1e-9)
        assert rates[0] > 0  # the very first step does something


class TestLoss:
    """Cross-entropy and Dice over the batch, of both ways to ask."""

    @given(seed=st.integers(0, 50), share=st.sampled_from([0.0, 0.3, 1.0]))
    def test_mask_loss_equals_a_slow_sum(self, seed, share):
        """Pixel by pixel, by the definitions."""
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(2, 3, 4, generator=generator)
        masks = (torch.rand(2, 3, 4, generator=generator) < share).float()
        entropy = overlap = total = 0.0
        for logit, inside in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-logit))
            entropy -= math.log(p if inside else 1 - p) / logits.numel()
            overlap += p * inside
            total += p + inside
        wanted = entropy + 1 - (2 * overlap + 1) / (total + 1)
        assert mask_loss(logits, masks).item() == pytest.approx(wanted, rel=1e-4)

    def test_a_perfect_answer_costs_nothing(self):
        """Also where there is no tumour: an empty batch is no reason for a loss."""
        for masks in (torch.zeros(1, 4, 4), torch.eye(4)[None]):
            assert mask_loss(60 * (masks - 0.5), masks).item() == pytest.approx(0, abs=1e-5)

    def test_both_modes_count(self, patients):
        """With boxes the loss has a second part; it trains what the head does not use."""
        model = small_model()
        model.choose_trainable()
        batch = draw(patients[0], CONFIG, torch.Generator().manual_seed(0), image_size=128)
        assert len(batch.boxed) == 1
        unboxed = Batch(batch.hidden, batch.slices, batch.masks, batch.boxed[:0], batch.boxes[:0])
        automatic = mask_loss(model.propose(batch.slices, batch.hidden), batch.masks)
        torch.testing.assert_close(adapter_loss(model, unboxed), automatic)
        assert adapter_loss(model, batch) > automatic
        adapter_loss(model, unboxed).backward()
        decoder = [p for n, p in model.adapter().items() if "mask_decoder" in n]
        assert all(p.grad is None for p in decoder)
        adapter_loss(model, batch).backward()
        assert all(p.grad is not None for p in decoder)

    def test_low_precision_stays_close(self, patients):
        """bfloat16 is for speed: the loss is nearly the same, and its gradients are finite."""
        batch = draw(patients[0], CONFIG, torch.Generator().manual_seed(0), image_size=128)
        exact, rough = small_model(), small_model(precision="bfloat16")
        rough.choose_trainable()
        loss = loss_of(rough, batch)
        assert loss.dtype is torch.float32
        assert loss.item() == pytest.approx(loss_of(exact, batch).item(), rel=0.03)
        loss.backward()
        assert all(p.grad.isfinite().all() for p in rough.adapter().values())

    def test_training_may_be_exact_where_the_frozen_part_is_not(self, patients):
        """`model.training_precision` goes before `model.precision`, in training alone."""
        batch = draw(patients[0], CONFIG, torch.Generator().manual_seed(0), image_size=128)
        mixed = small_model(precision="bfloat16", training_precision="float32")
        assert mixed.precision is torch.bfloat16
        assert torch.equal(loss_of(mixed, batch), loss_of(small_model(), batch))


@pytest.mark.parametrize("stopped_at", [1, 3])
def test_a_kept_training_goes_on_bit_for_bit(patients, tmp_path, stopped_at):
    """Stopped within an epoch, it goes on from the one before, as if nothing had been."""
    per_epoch, epochs = 2, 3
    calm = small_model()
    undisturbed = run(calm, patients, epochs=epochs)
    kept, steps = KeptTraining(tmp_path / "kept", every_s=0), []

    def stop(step):
        steps.append(step)
        if sum(steps) == stopped_at * per_epoch - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small_model(), patients, epochs=epochs, kept=kept, advance=stop)
    assert kept.steps == (stopped_at - 1) * per_epoch
    torch.rand(5)
    model, told = small_model(), []
    report = run(model, patients, epochs=epochs, kept=kept, advance=told.append)
    before = (stopped_at - 1) * per_epoch
    assert told == [before] * (before > 0) + [1] * (per_epoch * epochs - before)
    assert report.steps == per_epoch * epochs
    assert (report.first_loss, report.last_loss) == (
        undisturbed.first_loss,
        undisturbed.last_loss,
    )
    for name, one in calm.adapter_state().items():
        assert torch.equal(one, model.adapter_state()[name]), name


@pytest.mark.parametrize("spoilt", ["adapter", "moments"])
def test_a_kept_training_of_another_model_names_its_file(patients, tmp_path, spoilt):
    """What does not fit is in that file, not in what a hospital keeps of its rounds."""
    kept = KeptTraining(tmp_path / "kept", every_s=0)
    run(small_model(), patients, kept=kept)
    content = read_moments(kept.path)
    name = next(one for one in content if one.startswith(spoilt) and not one.endswith("/step"))
    write_moments(kept.path, content | {name: torch.zeros(5)})
    with pytest.raises(DataError, match=rf"'{kept.path}' is of another model\. Delete that file"):
        run(small_model(), patients, kept=kept)


@pytest.mark.parametrize("lacking", ["generator", "dropout", "losses"])
def test_a_file_that_is_no_kept_training(patients, tmp_path, lacking):
    """Whatever it is, it is named, and nothing begins with it."""
    kept = KeptTraining(tmp_path / "kept", every_s=0)
    run(small_model(), patients, kept=kept)
    content = read_moments(kept.path)
    write_moments(kept.path, {name: one for name, one in content.items() if name != lacking})
    with pytest.raises(DataError, match=rf"'{kept.path}' is no training that was kept"):
        _ = kept.steps
    with pytest.raises(DataError, match="Delete that file"):
        run(small_model(), patients, kept=kept)


def test_a_training_is_not_kept_at_every_epoch(patients, tmp_path):
    """Epochs may take less time than writing them down."""
    kept = KeptTraining(tmp_path / "kept", every_s=1000)
    run(small_model(), patients, epochs=2, kept=kept)
    assert kept.steps == 0
