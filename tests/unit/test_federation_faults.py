"""What happens on real networks: who drops out, lags or sends rubbish costs the others nothing."""

import json
import time

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from evenhand.errors import FederationError
from evenhand.experiment.layout import ArmFolder
from evenhand_federated.checkpoint import read_checkpoint
from evenhand_federated.deployed import DeployedFedAvg, wait_for_hospitals
from evenhand_federated.orders import BUDGET_REFUSED, FAILED
from evenhand_federated.strategy import FederationPlan
from evenhand_federated.testing import FakeGrid
from federation_fakes import answering, failing, silent, state_of

NORTH, EAST, SOUTH = 11, 12, 13
NAMES = {NORTH: "north", EAST: "east", SOUTH: "south"}
START = state_of(1, 2)


class Network(FakeGrid):
    """A grid whose nodes come and go: `away` names nodes by the look at which they are away."""

    def __init__(self, nodes, away=()):
        super().__init__(nodes)
        self.away = dict(away)
        self.looks = 0

    def get_node_ids(self):
        """Nodes that are connected at this look."""
        self.looks += 1
        return [node for node in self.nodes if self.looks not in self.away.get(node, ())]


def stirred(amount):
    """Training whose result depends on the state, the round and the hospital."""
    return lambda state, number: {
        name: torch.sin(tensor * amount) + number / 7 for name, tensor in state.items()
    }


def nodes_of(**changes):
    """Three good hospitals; `changes` are others in their place."""
    good = {
        "north": answering(stirred(2)),
        "east": answering(stirred(3)),
        "south": answering(stirred(5)),
    }
    chosen = good | changes
    return {node: chosen[name] for node, name in NAMES.items()}


@pytest.fixture
def folder(tmp_path):
    """The folder of an arm that has not begun."""
    folder = ArmFolder(tmp_path / "arm")
    folder.path.mkdir()
    return folder


def federate(folder, nodes, *, rounds=1, minimum=2, away=(), until=None):
    """Run what is left; `until` is the round after which the coordinator dies."""
    done, state = read_checkpoint(folder)
    grid = Network(nodes, away)
    plan = FederationPlan("federated", rounds, done, NAMES, minimum, precision="float32")
    DeployedFedAvg(plan, folder, patience_s=0.01, grace_s=0).start(
        grid=grid,
        initial_arrays=ArrayRecord(state or START),
        num_rounds=(until or rounds) - done,
        timeout=5,
    )
    return grid


def after(folder):
    """The adapter of the last finished round."""
    return read_checkpoint(folder)[1]


def same(one, other):
    """Whether two adapters are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def sending(change):
    """A hospital whose answer's arrays are changed before it leaves."""

    def node(message):
        arrays = ArrayRecord(message.content["arrays"].to_torch_state_dict())
        content = {"arrays": change(arrays), "metrics": MetricRecord({"patients": 1})}
        return Message(RecordDict(content), reply_to=message)

    return node


def replaced(arrays, array):
    """Arrays with another one under the first name."""
    return ArrayRecord({**arrays, "head.a": array})


def with_bytes(array, data):
    """An array that says one thing and holds another."""
    return Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=data)


def without_patients(message):
    """An answer that does not say how many patients it stands for."""
    content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"loss": 1.0})}
    return Message(RecordDict(content), reply_to=message)


def claiming(patients):
    """An answer that claims a number of patients."""
    return answering(stirred(3), patients=patients)


FAULTS = {
    "drops out mid-round": silent,
    "was killed, and the link answers for it": None,
    "raises": failing(FAILED, "DataError"),
    "is refused by its ledger": failing(BUDGET_REFUSED, "BudgetError"),
    "is refused by its policy": failing(FAILED, "PolicyError"),
    "has another version": failing(FAILED, "FederationError"),
    "has not approved the bundle": failing(6, "the hospital has not approved this bundle"),
    "sends NaN": answering(lambda s, _: {k: v * float("nan") for k, v in s.items()}),
    "sends infinity": answering(lambda s, _: {k: v / 0 for k, v in s.items()}),
    "sends one NaN in many": answering(
        lambda s, _: {**s, "head.b": s["head.b"].index_fill(1, torch.tensor([1]), float("nan"))}
    ),
    "sends other names": answering(lambda s, _: {"tail." + k: v for k, v in s.items()}),
    "leaves a tensor out": answering(lambda s, _: {"head.a": s["head.a"]}),
    "adds a tensor": answering(lambda s, _: {**s, "extra": torch.zeros(3)}),
    "sends another shape": answering(lambda s, _: {k: v[:1] for k, v in s.items()}),
    "sends a huge tensor": answering(lambda s, _: {**s, "head.a": torch.zeros(1_000_000)}),
    "sends another type": answering(lambda s, _: {k: v.double() for k, v in s.items()}),
    "sends cut bytes": sending(
        lambda a: replaced(a, with_bytes(a["head.a"], a["head.a"].data[:40]))
    ),
    "sends no bytes": sending(lambda a: replaced(a, with_bytes(a["head.a"], b""))),
    "sends a pickle": sending(
        lambda a: replaced(a, with_bytes(a["head.a"], np.array([object]).dumps()))
    ),
    "does not say how many patients": without_patients,
    "claims no patient": claiming(0),
    "claims negative patients": claiming(-5),
    "claims infinite patients": claiming(float("inf")),
    "claims half a patient": claiming(0.5),
    "sends nothing": lambda message: Message(RecordDict(), reply_to=message),
}
FAULTS["sends no metrics"] = lambda message: Message(
    RecordDict({"arrays": message.content["arrays"]}), reply_to=message
)


class TestOneHospitalFails:
    """The round is what it would have been without that hospital: nothing of others is lost."""

    @pytest.mark.parametrize("fault", FAULTS)
    def test_the_others_round_stands(self, folder, tmp_path, fault):
        """Bit for bit the mean of the two others; the third is named, with a reason or silent."""
        federate(folder, nodes_of(east=FAULTS[fault]))
        alone = ArmFolder(tmp_path / "alone")
        alone.path.mkdir()
        federate(alone, nodes_of(east=silent))
        assert same(after(folder), after(alone))
        (record,) = folder.read_rounds()
        assert set(record["hospitals"]) == {"north", "south"}
        assert [*record["failed"], *record["silent"]] == ["east"]

    @pytest.mark.parametrize("fault", list(FAULTS)[:6])
    def test_it_comes_back(self, folder, fault):
        """In the next round it takes part as if nothing had been."""
        good, bad = answering(stirred(3)), FAULTS[fault]

        def node(message):
            first = int(message.content["config"]["round"]) == 1
            if not first:
                return good(message)
            return bad(message) if bad else None

        federate(folder, nodes_of(east=node), rounds=2)
        assert [set(one["hospitals"]) for one in folder.read_rounds()] == [
            {"north", "south"},
            set(NAMES.values()),
        ]


class TestComingAndGoing:
    """Hospitals that are not connected are not waited for without end."""

    def test_away_for_a_round(self, folder):
        """Who is away at the start of a round is not asked, and named; then it is back."""
        grid = federate(folder, nodes_of(), rounds=3, away={SOUTH: {2}})
        first, second, third = folder.read_rounds()
        assert second["silent"] == ["south"]
        assert first["silent"] == third["silent"] == []
        assert len(grid.sent) == 8

    def test_a_message_lives_as_long_as_its_round(self, folder):
        """Who comes back later must not train, and pay for, a round that is over."""
        grid = Network(nodes_of())
        plan = FederationPlan("federated", 1, 0, NAMES, 2, timeout_s=7, precision="float32")
        DeployedFedAvg(plan, folder, patience_s=0.01, grace_s=0).start(
            grid=grid, initial_arrays=ArrayRecord(START), num_rounds=1, timeout=7
        )
        assert {message.metadata.ttl for message in grid.sent} == {7}

    def test_quorum(self, folder):
        """With too few the round is not begun; the sentence names who is missing."""
        with pytest.raises(
            FederationError, match=r"1 hospitals are connected, 2 are needed.*east, south"
        ):
            federate(folder, nodes_of(), away={SOUTH: range(99999), EAST: range(99999)})
        assert folder.read_rounds() == []
        assert after(folder) is None

    def test_only_admitted_nodes_are_asked(self, folder):
        """A stranger who is connected gets no message."""
        grid = federate(folder, nodes_of() | {99: answering(stirred(9))})
        assert {message.metadata.dst_node_id for message in grid.sent} == set(NAMES)

    def test_waits_for_the_late(self):
        """Within the grace, for all; and not longer than until they are there."""
        grid, now = Network(nodes_of(), {SOUTH: range(1, 4)}), iter(range(100))
        here = wait_for_hospitals(
            grid,
            NAMES,
            minimum=2,
            grace_s=10,
            patience_s=50,
            sleep=lambda _: None,
            clock=lambda: next(now),
        )
        assert here == NAMES
        assert grid.looks == 4

    def test_all_there_is_may_be_too_few(self):
        """Where fewer nodes are registered than needed, a round does not begin with them."""
        clock = iter(range(100))
        with pytest.raises(FederationError, match="1 hospitals are connected, 2 are needed"):
            wait_for_hospitals(
                FakeGrid({NORTH: silent}),
                {NORTH: "north"},
                minimum=2,
                grace_s=0,
                patience_s=3,
                sleep=lambda _: None,
                clock=lambda: next(clock),
            )

    def test_no_wait_is_endless(self):
        """Neither for enough hospitals nor for the rest."""
        for minimum, outcome in ((2, {NORTH: "north", EAST: "east"}), (3, None)):
            now = iter(range(1000))
            arguments = {
                "minimum": minimum,
                "grace_s": 10,
                "patience_s": 50,
                "sleep": lambda _: None,
                "clock": lambda now=now: next(now),
            }
            grid = Network(nodes_of(), {SOUTH: range(99999)})
            if outcome is None:
                with pytest.raises(FederationError, match="missing after 50 s: south"):
                    wait_for_hospitals(grid, NAMES, **arguments)
            else:
                assert wait_for_hospitals(grid, NAMES, **arguments) == outcome
            assert grid.looks <= 52


class TestCoordinatorDies:
    """A coordinator that is killed goes on from its last finished round."""

    @pytest.mark.parametrize("killed_after", [1, 2])
    def test_as_if_nothing_had_been(self, folder, tmp_path, killed_after):
        """Bit-identical to a run that nobody killed, and every round is counted once."""
        federate(folder, nodes_of(), rounds=3, until=killed_after)
        federate(folder, nodes_of(), rounds=3)
        whole = ArmFolder(tmp_path / "whole")
        whole.path.mkdir()
        federate(whole, nodes_of(), rounds=3)
        assert same(after(folder), after(whole))
        assert [one["round"] for one in folder.read_rounds()] == [1, 2, 3]

    def test_killed_between_record_and_checkpoint(self, folder, tmp_path, monkeypatch):
        """The round is run again: a record alone is no finished round."""
        whole = ArmFolder(tmp_path / "whole")
        whole.path.mkdir()
        federate(whole, nodes_of(), rounds=2)
        federate(folder, nodes_of(), rounds=2, until=1)

        def die(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("evenhand_federated.strategy.write_checkpoint", die)
            with pytest.raises(KeyboardInterrupt):
                federate(folder, nodes_of(), rounds=2)
        federate(folder, nodes_of(), rounds=2)
        assert same(after(folder), after(whole))


def test_rounds_are_json(folder):
    """Whatever a hospital sends, what the coordinator keeps of it can be read again."""
    federate(folder, nodes_of(east=FAULTS["sends NaN"]))
    for line in folder.rounds_path.read_text().splitlines():
        json.loads(line, parse_constant=lambda _: pytest.fail("not JSON"))


def test_the_clock_is_not_needed(folder):
    """A round's record tells seconds by a clock that nobody can set back."""
    before = time.monotonic()
    federate(folder, nodes_of())
    assert 0 <= folder.read_rounds()[0]["seconds"] <= time.monotonic() - before
