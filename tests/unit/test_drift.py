"""The correction of drift: worked out by hand, and on a problem where the mean alone ends wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import small_model, toy_patients
from torch import nn

from evenhand.config import TrainingConfig
from evenhand.training import drift as drifting
from evenhand.training.drift import as_kept, correct, learn
from evenhand.training.loop import Schedule, train

CONFIG = TrainingConfig(patients_per_step=2, tumour_slices=2, other_slices=1, box_slices=1)


def test_by_hand():
    """0.5 was steered, 3 was sent, 1 came, the mean rate doubles: (0.5 + 1 - 3) x 2."""
    kept = as_kept({"w": torch.tensor([0.5])}, {"w": torch.tensor([3.0])}, 1.0)
    came = {"w": torch.tensor([1.0])}
    assert learn(kept, came, steady=2, mean_rate=2.0)["w"].tolist() == [-3.0]
    assert learn(kept, came, steady=1, mean_rate=2.0)["w"].tolist() == [-4.0]
    assert learn(kept, came, steady=0, mean_rate=2.0)["w"].tolist() == [0.0]
    assert learn(None, came, steady=2, mean_rate=2.0)["w"].tolist() == [0.0]
    other = {"w/step": torch.tensor(1.0)}  # kept by another strategy
    assert learn(other, came, steady=2, mean_rate=2.0)["w"].tolist() == [0.0]


def federated(hospitals, *, rounds, corrects=True):
    """Gradient descent on a/2 (w - t)^2 at each hospital, averaged by weight.

    Args:
        hospitals: weight, steps a round, a and t of each.
        rounds: of one schedule from warm-up to the end.
        corrects: whether drift is.

    Returns:
        The common w, each round's weighted sum of the drifts, and the largest distance of a
        hospital from the common w after the last round.
    """
    common, sums, apart = torch.zeros(1, dtype=torch.float64), [], 0.0
    kept: list[dict[str, torch.Tensor] | None] = [None] * len(hospitals)
    for number in range(rounds):
        schedule = Schedule(0.05, start=number / rounds, end=(number + 1) / rounds)
        sent, total = [], torch.zeros(1, dtype=torch.float64)
        for place, (weight, steps, steep, target) in enumerate(hospitals):
            parameter = nn.Parameter(common.clone())
            drift = learn(kept[place], {"w": common}, steady=2, mean_rate=schedule.mean())
            rates = [schedule.at(step / steps) for step in range(steps)]
            for rate in rates:
                with torch.no_grad():
                    parameter -= rate * steep * (parameter - target)
                if corrects:
                    correct({"w": parameter}, drift, rate / sum(rates))
            sent.append(parameter.detach())
            kept[place] = as_kept(drift, {"w": sent[-1]}, schedule.mean())
            total += weight * drift["w"]
        sums.append(abs(total.item()))
        common = sum(one[0] * y for one, y in zip(hospitals, sent, strict=True))
        apart = max(abs((y - common).item()) for y in sent)
    return common.item(), sums, apart


@given(
    steps=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    rounds=st.integers(2, 12),
)
@settings(deadline=None, max_examples=30)
def test_it_pushes_the_mean_nowhere(steps, rounds):
    """Weighted over hospitals all corrections together are zero, in each round of a schedule.

    Also in the first, while the rate rises, and where hospitals take unlike numbers of steps.
    """
    hospitals = [(1 / len(steps), one, 1.0 + place, place) for place, one in enumerate(steps)]
    _, sums, _ = federated(hospitals, rounds=rounds)
    assert max(sums) < 1e-9


def test_unlike_hospitals_with_unlike_steps():
    """4 steps and 16, a/2 (w - t)^2 with a = 1, t = 0 and a = 3, t = 4.

    They end together: the drift goes to zero. And where patients times steps weigh the two:
    (1/2 x 4 x 1 x 0 + 1/2 x 16 x 3 x 4) / (1/2 x 4 x 1 + 1/2 x 16 x 3) = 96 / 26.
    """
    hospitals = [(0.5, 4, 1.0, 0.0), (0.5, 16, 3.0, 4.0)]
    common, sums, apart = federated(hospitals, rounds=400)
    assert common == pytest.approx(96 / 26, abs=1e-2)
    assert apart < 1e-3
    assert max(sums) < 1e-9


@pytest.mark.parametrize(("corrects", "near"), [(True, True), (False, False)])
def test_unlike_hospitals_end_where_pooled_data_would(corrects, near):
    """With steps alike a = 1, t = 0 and a = 3, t = 4 have their least at 12 / 4 = 3."""
    hospitals = [(0.5, 20, 1.0, 0.0), (0.5, 20, 3.0, 4.0)]
    common, _, _ = federated(hospitals, rounds=200, corrects=corrects)
    assert (abs(common - 3) < 1e-3) == near


def test_the_loop_steers(monkeypatch):
    """No correction and one of zeros are the same training, bit for bit; another one is not.

    The steps of a piece take the whole of it.
    """
    ends, parts = [], []
    monkeypatch.setattr(
        drifting, "correct", lambda *given: (parts.append(given[2]), correct(*given))
    )
    for amount in (None, 0.0, 0.1):
        model = small_model(encoder_lora_rank=0)
        drift = amount
        if amount is not None:
            drift = {name: torch.full_like(one, amount) for name, one in model.adapter().items()}
        report = train(
            model,
            toy_patients(model, 2),
            CONFIG,
            epochs=2,
            schedule=Schedule(1e-3),
            seed=0,
            drift=drift,
        )
        assert len(parts) == (report.steps if amount is not None else 0)
        assert not parts or sum(parts) == pytest.approx(1)
        parts.clear()
        ends.append(model.adapter_state())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not all(torch.equal(ends[0][name], ends[2][name]) for name in ends[0])
