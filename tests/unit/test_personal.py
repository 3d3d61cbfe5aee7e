"""Parts of an adapter that stay at their hospital: never sent, but predicted with."""

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from pydantic import ValidationError
from small_models import small_model, toy_patients
from typer.testing import CliRunner

from evenhand.cli import app
from evenhand.errors import AdapterError, FederationError, PolicyError
from evenhand.experiment import evaluate
from evenhand.model.adapter_files import read_adapter, save_adapter
from evenhand.privacy.policy import Proposal, open_policy
from evenhand.training.moments import write_moments
from evenhand.training.personal import as_kept, own_part, shared_part
from evenhand_federated import hospital as hospital_module
from evenhand_federated import node
from evenhand_federated.checkpoint import read_checkpoint
from evenhand_federated.hospital_app import _refuse_what_stays as refuse_what_stays
from evenhand_federated.node import HospitalNode
from evenhand_federated.orders import RoundOrder
from evenhand_federated.strategies import combiner_of
from evenhand_federated.strategy import FederationPlan, RecordedFedAvg
from evenhand_federated.testing import FakeGrid
from federation_fakes import HOSPITALS, make_config, make_run
from federation_places import make_coordinator, make_hospital, make_study

NORMS = ("head.*.1.weight", "head.*.1.bias")
STATE = {"head.a": torch.ones(1), "head.b.1.weight": torch.zeros(2)}


def test_a_state_falls_into_two_parts():
    """Each tensor is in one of them, and what is kept is found again by name."""
    shared, kept = shared_part(STATE, NORMS[:1]), as_kept(STATE, NORMS[:1])
    assert list(shared) == ["head.a"]
    assert list(own_part(kept | {"head.a/step": torch.ones(1)})) == ["head.b.1.weight"]
    assert own_part(None) == {}
    assert shared_part(STATE, ()) == STATE


@pytest.mark.parametrize("patterns", [("head.*",), ("head.nothing",)])
def test_patterns_that_make_no_sense(patterns):
    """All of it, or none: said when training is asked for."""
    with pytest.raises(AdapterError):
        shared_part(STATE, patterns)


def test_not_beside_a_promise():
    """The private arm does not pay for what would train beside it."""
    with pytest.raises(ValidationError, match="leave the arm federated-private out"):
        make_config(federation={"local_parts": ["head.*"]})


def test_a_policy_holds_parts_back():
    """What may never leave has to be named by the study as staying."""
    policy = open_policy()
    strict = policy.model_copy(
        update={"leaves": policy.leaves.model_copy(update={"never": ("head.leave.*",)})}
    )
    config = make_config(arms=["federated"])
    asked = {"hospital": "north", "patients": 5}
    strict.check(Proposal.of(config, "federated", **asked, leaving=("head.enter.weight",)))
    with pytest.raises(PolicyError, match=r"leaves\.never"):
        strict.check(Proposal.of(config, "federated", **asked, leaving=("head.leave.bias",)))


def test_the_last_look_before_it_leaves():
    """Whoever made the answer: a tensor that stays is held."""
    refuse_what_stays(RecordDict({"arrays": ArrayRecord(shared_part(STATE, NORMS[:1]))}), NORMS[:1])
    with pytest.raises(FederationError, match="stays here"):
        refuse_what_stays(RecordDict({"arrays": ArrayRecord(STATE)}), NORMS[:1])


@pytest.fixture
def personal(tmp_path, tiny_stores, monkeypatch):
    """A run of two hospitals that keep their norms, with a small model and toy patients."""
    federation = {"rounds": 3, "local_parts": NORMS}
    config = make_config(arms=["federated"], federation=federation)
    run = make_run(tmp_path / "run", tiny_stores, config)
    changes = {"encoder_lora_rank": 0, "encoder_lora_blocks": 0, "decoder_lora_rank": 0}
    model = small_model(**changes)
    start = model.adapter_state()
    monkeypatch.setattr(node, "_model", lambda _: model)
    monkeypatch.setattr(node, "_patients", lambda home, *_: toy_patients(model, len(home.name)))
    monkeypatch.setattr(node, "_first_own_part", lambda _: own_part(as_kept(start, NORMS)))
    return run, start


def hospital(run, name, sent):
    """A hospital's node; `sent` collects what leaves it."""
    own = HospitalNode(run.hospital(name), run.config(), run.split().train[name])

    def answer(message):
        order = RoundOrder("federated", int(message.content["config"]["round"]))
        state, figures = own.train_round(order, message.content["arrays"].to_torch_state_dict())
        sent.append(state)
        content = {"arrays": ArrayRecord(state), "metrics": MetricRecord(figures)}
        return Message(RecordDict(content), reply_to=message)

    return answer


def test_only_the_shared_part_travels(personal):
    """Three rounds: no norm leaves; each hospital has its own, and predicts with it."""
    run, start = personal
    sent = []
    nodes = {10 + n: hospital(run, name, sent) for n, name in enumerate(HOSPITALS)}
    plan = FederationPlan(
        "federated", 3, 0, dict(zip(nodes, HOSPITALS, strict=True)), 2, precision="float32"
    )
    first = shared_part(start, NORMS)
    RecordedFedAvg(plan, run.arm("federated"), combiner_of(run.config().federation)).start(
        grid=FakeGrid(nodes), initial_arrays=ArrayRecord(first), num_rounds=3
    )
    assert len(sent) == 6
    assert all(state.keys() == first.keys() for state in sent)
    assert read_checkpoint(run.arm("federated"))[1].keys() == first.keys()
    own = [evaluate._own_part(run, run.config(), "federated", name) for name in HOSPITALS]
    assert all(part.keys() == start.keys() - first.keys() for part in own)
    name = min(own[0])
    assert not torch.equal(own[0][name], own[1][name])
    assert not torch.equal(own[0][name], start[name])


def test_a_round_goes_on_from_the_own_part(personal):
    """What was trained here in the last round that this hospital took part in is not lost."""
    run, start = personal
    own = HospitalNode(run.hospital("north"), run.config(), run.split().train["north"])
    shared = shared_part(start, NORMS)
    own.train_round(RoundOrder("federated", 1), shared)
    kept = own._kept(RoundOrder("federated", 3))
    assert kept.number == 1
    whole = own._whole(shared, kept)
    name = min(start.keys() - shared.keys())
    assert not torch.equal(whole[name], start[name])
    assert whole.keys() == start.keys()


def test_parts_that_stay_may_not_come_either(personal):
    """A coordinator cannot put its own in place of a hospital's."""
    run, start = personal
    own = HospitalNode(run.hospital("north"), run.config(), run.split().train["north"])
    with pytest.raises(FederationError, match="stay at hospitals"):
        own.train_round(RoundOrder("federated", 1), start)


class TestAtARealHospital:
    """The study's adapter and the hospital's own part come together at the hospital."""

    @pytest.fixture
    def place(self, tmp_path, tiny_stores, monkeypatch):
        """A hospital that approved a study, its own part from round 2, and the study's adapter."""
        changes = {"encoder_lora_rank": 0, "encoder_lora_blocks": 0, "decoder_lora_rank": 0}
        monkeypatch.setattr(hospital_module, "build_model", lambda _: small_model(**changes))
        centre = make_coordinator(tmp_path / "centre")
        federation = {"rounds": 3, "local_parts": NORMS}
        study = make_study(
            centre, tmp_path / "study.toml", arms=["federated"], federation=federation
        )
        north = make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)
        north.approve(study, study.digest)
        model = small_model(**changes)
        own = {name: one + 7 for name, one in model.adapter_state().items()}
        write_moments(north.home(study).moments_path("federated", 2), as_kept(own, NORMS))
        adapter = tmp_path / "adapter.safetensors"
        training = {"study": study.digest}
        save_adapter(adapter, model, config_fingerprint="f", training=training)
        return north, model, adapter

    def test_joined(self, place, tmp_path):
        """Shared tensors as they came, the norms as they were trained here; and it says whose."""
        north, model, adapter = place
        words = ["federation", "adapter", str(adapter), "north", "--out", str(tmp_path / "own.st")]
        told = CliRunner().invoke(app, [*words, "--folder", str(north.path)])
        assert told.exit_code == 0, told.exception
        file, common = read_adapter(tmp_path / "own.st"), model.adapter_state()
        norms = own_part(as_kept(common, NORMS))
        assert file.training["own_part_of"] == "north"
        for name, one in file.state.items():
            assert torch.equal(one, common[name] + 7 if name in norms else common[name]), name

    def test_nothing_stayed(self, place, tmp_path):
        """Where no round was trained there is nothing to join."""
        north, _, adapter = place
        (kept,) = north.path.glob("studies/*/north/moments/*")
        kept.unlink()
        with pytest.raises(FederationError, match="whole as it came"):
            hospital_module.join_adapter(north, adapter, tmp_path / "own.st")
        assert not (tmp_path / "own.st").exists()
