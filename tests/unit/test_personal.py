"""Parts of an adapter that stay at their hospital: never sent, but predicted with."""

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from pydantic import ValidationError
from small_models import small_model, toy_patients

from evenhand.errors import AdapterError, FederationError, PolicyError
from evenhand.experiment import evaluate
from evenhand.privacy.policy import Proposal, open_policy
from evenhand.training.personal import as_kept, own_part, shared_part
from evenhand_federated import node
from evenhand_federated.checkpoint import read_checkpoint
from evenhand_federated.hospital_app import _refuse_what_stays as refuse_what_stays
from evenhand_federated.node import HospitalNode, RoundOrder
from evenhand_federated.strategies import combiner_of
from evenhand_federated.strategy import FederationPlan, RecordedFedAvg
from evenhand_federated.testing import FakeGrid
from federation_fakes import HOSPITALS, make_config, make_run

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
    plan = FederationPlan("federated", 3, 0, dict(zip(nodes, HOSPITALS, strict=True)), 2)
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
