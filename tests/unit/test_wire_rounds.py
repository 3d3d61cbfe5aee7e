"""Whole rounds in half precision: what comes out, what is recorded, what is refused."""

import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    RecordDict,
)

from evenhand.config import FederationConfig
from evenhand.experiment.layout import ArmFolder
from evenhand_federated import client_app, hospital_app, wire
from evenhand_federated.checkpoint import read_checkpoint
from evenhand_federated.hospital import NODE_VARIABLE
from evenhand_federated.message_log import weigh
from evenhand_federated.node import HospitalNode
from evenhand_federated.orders import SIMULATION_VARIABLE, precision_of
from evenhand_federated.strategies import combiner_of
from evenhand_federated.strategy import FederationPlan, RecordedFedAvg
from evenhand_federated.testing import FakeGrid
from federation_fakes import answering, context_of, make_config, make_run, state_of
from federation_places import make_coordinator, make_hospital, make_study

NAMES = {11: "north", 12: "east", 13: "south", 14: "west"}
START = state_of(1, -0.002, 0.7)


def trained(amount):
    """A small change that depends on the state, the round and the hospital."""
    return lambda state, number: {
        name: one + 0.01 * torch.sin(one * amount + number) for name, one in state.items()
    }


NODES = {node: (1.1 * node, node - 8) for node in NAMES}
"""What each one's change depends on, and its patients."""


def federate(folder, precision, *, strategy="fedavg", until=3, bad=None):
    """Rounds, on from the last finished one; the adapter after them."""
    folder.path.mkdir(exist_ok=True)
    done, state = read_checkpoint(folder)
    nodes = {
        node: answering(trained(amount), precision, patients=patients, first_loss=1.0 + amount / 50)
        for node, (amount, patients) in NODES.items()
    }
    plan = FederationPlan("federated", 3, done, NAMES, 2, precision=precision)
    RecordedFedAvg(plan, folder, combiner_of(FederationConfig(strategy=strategy))).start(
        grid=FakeGrid(nodes | (bad or {})),
        initial_arrays=ArrayRecord(state or START),
        num_rounds=until - done,
    )
    return read_checkpoint(folder)[1]


STRATEGIES = [
    "fedavg",
    "fedprox",
    "fedadam",
    "fedyogi",
    "trimmed-mean",
    "krum",
    "qfedavg",
    "tilted",
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_as_in_float32_but_for_rounding(tmp_path, strategy):
    """The changes of three rounds, to within a hundredth of what a round changes."""
    whole = federate(ArmFolder(tmp_path / "whole"), "float32", strategy=strategy)
    half = federate(ArmFolder(tmp_path / "half"), "float16", strategy=strategy)
    for name, one in whole.items():
        assert half[name].dtype == torch.float32
        assert not torch.equal(half[name], START[name])
        assert (half[name] - one).abs().max() <= 0.01 * (one - START[name]).abs().max()


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, strategy):
    """The coordinator keeps float32, so a checkpoint has all that the next round starts from."""
    whole = federate(ArmFolder(tmp_path / "whole"), "float16", strategy=strategy)
    for until in (1, 2, 3):
        stopped = federate(
            ArmFolder(tmp_path / "stopped"), "float16", strategy=strategy, until=until
        )
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_what_is_recorded_is_what_moves(tmp_path):
    """Tensors in half precision and their powers, each way."""
    folder = ArmFolder(tmp_path / "arm")
    federate(folder, "float16", until=1)
    expected = wire.bytes_of(wire.common(ArrayRecord(START), "float16"))
    whole = ArrayRecord(START).count_bytes()
    numbers = sum(one.numel() for one in START.values())
    powers = expected - (whole - 2 * numbers)
    assert 0 < powers < 60
    (record,) = folder.read_rounds()
    for one in record["hospitals"].values():
        assert (one["bytes_down"], one["bytes"]) == (expected, expected)


def sending(change):
    """A hospital whose good answer is changed before it leaves."""
    good = answering(trained(3), "float16")

    def node(message):
        reply = good(message)
        change(reply.content)
        return reply

    return node


def whole_in_place(content):
    """Answer in float32, as another version or an unsigned setting would."""
    content["arrays"] = ArrayRecord(START)


def infinite(content):
    """A tensor that would be infinite once it is multiplied."""
    content["powers"] = ConfigRecord({"powers": [900, 900]})


def nan(content):
    """Not a number."""
    values = content["arrays"]["head.a"].numpy().copy()
    values[0] = float("nan")
    content["arrays"]["head.a"] = Array(values)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (whole_in_place, "another shape or type"),
        (infinite, "not finite"),
        (nan, "not finite"),
        (lambda content: content.pop("powers"), "without a power"),
    ],
)
def test_a_bad_answer_is_left_out(tmp_path, change, reason):
    """Its hospital is named; the others' mean is as if it had been silent."""
    folders = [ArmFolder(tmp_path / name) for name in ("bad", "silent")]
    bad = federate(folders[0], "float16", bad={12: sending(change)}, until=1)
    silent = federate(folders[1], "float16", bad={12: lambda _: None}, until=1)
    assert all(torch.equal(bad[name], silent[name]) for name in silent)
    assert reason in folders[0].read_rounds()[0]["failed"]["east"]


def order_of(state, precision, number=1):
    """A message's content as a coordinator makes it."""
    config = ConfigRecord({"arm": "federated", "round": number})
    return RecordDict({**wire.common(ArrayRecord(state), precision), "config": config})


@pytest.fixture
def plus_one(monkeypatch):
    """Hospitals add 2^-10; what they were given."""
    seen = []

    def train_round(self, order, state):
        seen.append(state)
        return {name: one + 2.0**-10 for name, one in state.items()}, {"patients": 2}

    monkeypatch.setattr(HospitalNode, "train_round", train_round)
    return seen


def look_at(answer, given):
    """An answer holds the change in half precision; training was given rounded float32."""
    assert {one.dtype for one in answer.content["arrays"].values()} == {"float16"}
    assert {one.dtype for one in given.values()} == {torch.float32}
    came = wire.answered(answer.content, ArrayRecord(START), "float16").to_torch_state_dict()
    for name, one in came.items():
        assert torch.allclose(one, START[name] + 2.0**-10, atol=2.0**-20)


def test_a_simulated_hospital(tmp_path, tiny_stores, monkeypatch, plus_one):
    """`evenhand run` obeys the setting of its config, both ways."""
    config = make_config(federation={"rounds": 3, "precision": "float16"})
    run = make_run(tmp_path / "run", tiny_stores, config)
    monkeypatch.setenv(SIMULATION_VARIABLE, str(run.path))
    grid = FakeGrid({10: lambda message: client_app.app(message, context_of(0))})
    content = order_of(START, "float16")
    (answer,) = grid.send_and_receive([Message(content, 10, MessageType.TRAIN)])
    look_at(answer, plus_one[0])
    bytes_sent = wire.bytes_of(answer.content)
    assert f"sent 2 tensors, {bytes_sent} bytes" in run.hospital("north").log_path.read_text()


def test_a_real_hospital(tmp_path, tiny_stores, monkeypatch, plus_one):
    """A study says it, signed; the log counts what moves; another form is not trained on."""
    centre = make_coordinator(tmp_path / "centre")
    north = make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)
    federation = {"rounds": 3, "round_timeout_s": 5, "precision": "float16"}
    study = make_study(centre, tmp_path / "study.toml", federation=federation)
    assert 'precision = "float16"' in (tmp_path / "study.toml").read_text()
    north.approve(study, study.digest)
    monkeypatch.setenv(NODE_VARIABLE, str(north.path))
    context = context_of(0)
    context.run_config["study"] = study.digest
    grid = FakeGrid({10: lambda message: hospital_app.app(message, context)})
    content = order_of(START, "float16")
    (answer,) = grid.send_and_receive([Message(content, 10, "train")])
    look_at(answer, plus_one[0])
    came, left = (entry.body() for entry in north.messages().entries())
    assert came["bytes"] == weigh(content).bytes
    assert left["bytes"] == weigh(answer.content).bytes
    assert left["tensors"] == 2
    (answer,) = grid.send_and_receive([Message(order_of(START, "float32", 2), 10, "train")])
    assert answer.error.reason == "FederationError"
    assert [entry.kind for entry in north.messages().entries()][2:] == ["received", "failed"]
    assert len(plus_one) == 1


def test_small_steps_add_up(tmp_path):
    """What a round changes by less than the rounding of the common adapter is not lost."""
    rounds, step = 60, 2.0**-16
    names = {11: "north", 12: "east"}
    node = answering(lambda state, _: {"w": state["w"] + step}, "float16")
    plan = FederationPlan("federated", rounds, 0, names, 2, precision="float16")
    folder = ArmFolder(tmp_path)
    RecordedFedAvg(plan, folder).start(
        grid=FakeGrid(dict.fromkeys(names, node)),
        initial_arrays=ArrayRecord({"w": torch.tensor([1.0, -0.3])}),
        num_rounds=rounds,
    )
    expected = torch.tensor([1.0, -0.3]) + rounds * step
    assert torch.allclose(read_checkpoint(folder)[1]["w"], expected, atol=rounds * 2.0**-24)


def test_scaffold_travels_in_float32():
    """A correction learned from a rounded adapter would put the rounding back in every round."""
    for strategy, expected in (("fedavg", "float16"), ("scaffold", "float32")):
        config = make_config(federation={"strategy": strategy, "precision": "float16"})
        assert precision_of(config, "federated") == expected
