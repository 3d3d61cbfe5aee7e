"""The correction of drift: worked out by hand, and on a problem where the mean alone ends wrong."""

import pytest
import torch
from small_models import small_model, toy_patients
from torch import nn

from evenhand.config import TrainingConfig
from evenhand.training.drift import as_kept, correct, learn
from evenhand.training.loop import Schedule, train

CONFIG = TrainingConfig(patients_per_step=2, tumour_slices=2, other_slices=1, box_slices=1)


def test_by_hand():
    """0.5 was steered, 3 was sent, 1 came, the rates' sum was 2: 0.5 + (1 - 3) / 2."""
    kept = as_kept({"w": torch.tensor([0.5])}, {"w": torch.tensor([3.0])}, 2.0)
    came = {"w": torch.tensor([1.0])}
    assert learn(kept, came, steady=2)["w"].tolist() == [-0.5]
    assert learn(kept, came, steady=1)["w"].tolist() == [-1.0]
    assert learn(kept, came, steady=0)["w"].tolist() == [0.0]
    assert learn(None, came, steady=2)["w"].tolist() == [0.0]
    assert learn({"w/step": torch.tensor(1.0)}, came, steady=2)["w"].tolist() == [0.0]


def test_it_pushes_the_mean_nowhere():
    """Weighted over hospitals, what all corrections do together is zero."""
    weights, rates = (0.2, 0.3, 0.5), (1.0, 2.0, 0.5)
    sent = [torch.randn(5, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    mean = sum(weight * one for weight, one in zip(weights, sent, strict=True))
    total = torch.zeros(5)
    for weight, rate, one in zip(weights, rates, sent, strict=True):
        kept = as_kept({"w": torch.zeros(5)}, {"w": one}, rate)
        total += weight * rate * learn(kept, {"w": mean}, steady=2)["w"]
    assert total.abs().max() < 1e-6


@pytest.mark.parametrize(("corrects", "near"), [(True, True), (False, False)])
def test_unlike_hospitals_end_where_pooled_data_would(corrects, near):
    """a/2 (w - t)^2 with a = 1, t = 0 and a = 3, t = 4: together the least is at 12 / 4 = 3."""
    common, rate, steps = torch.zeros(1), 0.1, 20
    kept: list[dict[str, torch.Tensor] | None] = [None, None]
    for _ in range(200):
        sent = []
        for place, (steep, target) in enumerate(((1.0, 0.0), (3.0, 4.0))):
            parameter = nn.Parameter(common.clone())
            drift = learn(kept[place], {"w": common}, steady=2)
            for _ in range(steps):
                with torch.no_grad():
                    parameter -= rate * steep * (parameter - target)
                if corrects:
                    correct({"w": parameter}, drift, rate)
            sent.append(parameter.detach())
            kept[place] = as_kept(drift, {"w": sent[-1]}, rate * steps)
        common = torch.stack(sent).mean(0)
    assert (abs(common.item() - 3) < 1e-3) == near


def test_the_loop_steers():
    """No correction and one of zeros are the same training, bit for bit; another one is not."""
    ends = []
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
        rates = [Schedule(1e-3).at(step / report.steps) for step in range(report.steps)]
        assert report.rates == pytest.approx(sum(rates))
        ends.append(model.adapter_state())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not all(torch.equal(ends[0][name], ends[2][name]) for name in ends[0])
