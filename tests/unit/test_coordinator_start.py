"""Where a study's adapter starts."""

import pytest
import torch

from evenhand.experiment import warm_start
from evenhand.experiment.layout import ArmFolder, build_model
from evenhand.model.backbones import Backbone
from evenhand_federated import coordinator_app
from tiny_experiment import config_of


@pytest.fixture
def small(monkeypatch):
    """A random backbone and small phantoms; return how often phantoms were trained on."""
    torch.manual_seed(0)
    backbone = Backbone("mobile-sam", 128, "0" * 64).requires_grad_(requires_grad=False).eval()
    monkeypatch.setattr("evenhand.model.backbones.load_backbone", lambda *_: backbone)
    monkeypatch.setattr(warm_start, "_SHAPE", (32, 32, 4))
    trained = []

    def watched(*args):
        trained.append(args)
        return warm_start.train_on_phantoms(*args)

    monkeypatch.setattr(coordinator_app, "train_on_phantoms", watched)
    return trained


def test_phantoms_are_trained_on_once(small, tmp_path):
    """A coordinator that is started again before its first round begins where it would have."""
    config = config_of(arms=["federated"], warm_start={"phantoms": 4, "epochs": 1})
    first, again = build_model(config), build_model(config)
    arm = ArmFolder(tmp_path)
    coordinator_app._start_from_phantoms(arm, config, first)
    coordinator_app._start_from_phantoms(arm, config, again)
    assert len(small) == 1
    fresh = build_model(config).adapter_state()
    learned = first.adapter_state()
    assert any(not torch.equal(one, fresh[name]) for name, one in learned.items())
    assert all(torch.equal(one, learned[name]) for name, one in again.adapter_state().items())


def test_a_study_without_phantoms_starts_at_random(small, tmp_path):
    """Nothing is made where the study does not say so, or says it of another arm."""
    for start in ({}, {"phantoms": 4, "arms": ["federated-private"]}):
        config = config_of(arms=["federated"], warm_start=start)
        coordinator_app._start_from_phantoms(ArmFolder(tmp_path), config, build_model(config))
    assert small == []
    assert list(tmp_path.iterdir()) == []
