"""Where a study's adapter starts."""

import pytest
import torch

from evenhand.experiment import warm_start
from evenhand.experiment.layout import ArmFolder, build_model
from evenhand.model.backbones import Backbone
from evenhand.training.resume import KeptTraining
from evenhand_federated import coordinator_app
from evenhand_federated.checkpoint import kept_start, start_work
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


def test_killed_while_it_trains_on_phantoms(small, tmp_path, monkeypatch):
    """It goes on from the last epoch, ends where it would have, and what is kept only grows."""
    config = config_of(arms=["federated"], warm_start={"phantoms": 4, "epochs": 3})
    calm, first, again = (build_model(config) for _ in range(3))
    coordinator_app._start_from_phantoms(ArmFolder(tmp_path / "calm"), config, calm)
    arm, keep, work = ArmFolder(tmp_path / "killed"), KeptTraining.keep, []

    def killed_at_the_second(self, *state):
        self.every_s = 0
        work.append(start_work(arm))
        if len(work) == 2:
            raise KeyboardInterrupt
        keep(self, *state)

    monkeypatch.setattr(KeptTraining, "keep", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        coordinator_app._start_from_phantoms(arm, config, first)
    coordinator_app._start_from_phantoms(arm, config, again)
    assert len(work) == 2 + 2, "of three epochs the first was not trained again"
    work.append(start_work(arm))
    assert work == sorted(work)
    assert work[0] < work[1] == work[2] < work[3] < work[4]
    for name, one in calm.adapter_state().items():
        assert torch.equal(one, again.adapter_state()[name]), name


def test_a_training_whose_end_is_written_is_not_looked_at(small, tmp_path, monkeypatch):
    """It goes; one that a kill has left, damaged too, holds nothing up and goes as well."""
    config = config_of(arms=["federated"], warm_start={"phantoms": 4, "epochs": 1})
    arm, keep, written = ArmFolder(tmp_path), KeptTraining.keep, []

    def each_epoch(self, *state):
        self.every_s = 0
        keep(self, *state)
        written.append(kept_start(arm).exists())

    monkeypatch.setattr(KeptTraining, "keep", each_epoch)
    coordinator_app._start_from_phantoms(arm, config, build_model(config))
    assert written == [True]
    assert not kept_start(arm).exists()
    before = start_work(arm)
    kept_start(arm).write_bytes(b"rubbish")
    assert start_work(arm) == before
    coordinator_app._start_from_phantoms(arm, config, build_model(config))
    assert not kept_start(arm).exists()


def test_what_a_kill_leaves_of_a_file_is_no_progress(tmp_path):
    """Else a study that is killed at the same file over and over would never be given up."""
    arm = ArmFolder(tmp_path)
    folder = kept_start(arm).parent / "heads" / "source"
    folder.mkdir(parents=True)
    before = start_work(arm)
    (folder / ".scan.nii.gz.x1y2").write_bytes(b"half")
    (folder / ".source-x1y2").mkdir()
    (folder / ".source-x1y2" / "scan.nii.gz").write_bytes(b"whole, in a folder that is not")
    assert start_work(arm) == before
    (folder / "scan.nii.gz").write_bytes(b"whole")
    assert start_work(arm) == before + 1


def test_a_study_without_phantoms_starts_at_random(small, tmp_path):
    """Nothing is made where the study does not say so, or says it of another arm."""
    for start in ({}, {"phantoms": 4, "arms": ["federated-private"]}):
        config = config_of(arms=["federated"], warm_start=start)
        coordinator_app._start_from_phantoms(ArmFolder(tmp_path), config, build_model(config))
    assert small == []
    assert list(tmp_path.iterdir()) == []
