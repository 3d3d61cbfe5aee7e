"""Rounds: what is averaged, what is written down, and what a stopped arm goes on from."""

import json

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.torch import save_file

from evenhand.errors import FederationError, ResourceError
from evenhand.experiment.layout import ArmFolder
from evenhand_federated import checkpoint, server_app
from evenhand_federated.checkpoint import finished_rounds, read_checkpoint, write_checkpoint
from evenhand_federated.orders import BUDGET_REFUSED, FAILED
from evenhand_federated.strategy import FederationPlan, RecordedFedAvg
from evenhand_federated.testing import LINK_NODE_ID, FakeGrid
from federation_fakes import answering, failing, silent, state_of

NORTH, EAST, SOUTH = 11, 12, 13
NAMES = {NORTH: "north", EAST: "east", SOUTH: "south"}
START = state_of(1, 2)


@pytest.fixture
def folder(tmp_path):
    """The folder of an arm that has not begun."""
    folder = ArmFolder(tmp_path / "arm")
    folder.path.mkdir()
    return folder


def times(factor):
    """A node's training: every value times `factor`."""
    return lambda state, _: {name: tensor * factor for name, tensor in state.items()}


def stirred(amount):
    """Training whose result depends on the state, the round and the hospital."""
    return lambda state, number: {
        name: torch.sin(tensor * amount) + number / 7 for name, tensor in state.items()
    }


def federate(folder, nodes, *, rounds=1, minimum=2, arm="federated"):
    """Run what is left of an arm, as the ServerApp does, and return the grid."""
    done, state = read_checkpoint(folder)
    grid = FakeGrid(nodes)
    hospitals = {node: NAMES[node] for node in nodes}
    plan = FederationPlan(arm, rounds, done, hospitals, minimum, precision="float32")
    RecordedFedAvg(plan, folder).start(
        grid=grid,
        initial_arrays=ArrayRecord(state or START),
        num_rounds=rounds - done,
        timeout=5,
    )
    return grid


def after(folder):
    """The adapter of the last finished round."""
    return read_checkpoint(folder)[1]


class TestMean:
    """Every patient counts alike, wherever he is treated."""

    def test_weighted_by_patients(self, folder):
        """1, 2 and 3 patients answer 1x, 2x and 4x: (1 + 4 + 12) / 6 = 17/6 of the start."""
        nodes = {
            NORTH: answering(times(1), patients=1),
            EAST: answering(times(2), patients=2),
            SOUTH: answering(times(4), patients=3),
        }
        federate(folder, nodes)
        assert after(folder).keys() == START.keys()
        for name, start in START.items():
            torch.testing.assert_close(after(folder)[name], start * 17 / 6)
            assert after(folder)[name].dtype == torch.float32

    def test_order_of_arrival_does_not_matter(self, tmp_path):
        """Bit for bit: float sums depend on order, and hospitals answer in any."""
        values = {NORTH: 0.1, EAST: 1e8, SOUTH: -1e8 + 3}
        results = []
        for order in ((NORTH, EAST, SOUTH), (SOUTH, EAST, NORTH), (EAST, NORTH, SOUTH)):
            folder = ArmFolder(tmp_path / "-".join(map(str, order)))
            folder.path.mkdir()
            federate(folder, {node: answering(times(values[node])) for node in order})
            results.append(after(folder)["head.b"])
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])

    def test_figures_may_differ(self, folder):
        """A hospital that sends another figure neither stops the round nor has it kept."""
        nodes = {NORTH: answering(times(2), last_loss=0.5), EAST: answering(times(4), height=3.0)}
        federate(folder, nodes)
        torch.testing.assert_close(after(folder)["head.a"], START["head.a"] * 3)
        hospitals = folder.read_rounds()[0]["hospitals"]
        assert "height" not in hospitals["east"]
        assert hospitals["north"]["last_loss"] == 0.5


class TestRecord:
    """One record a round: who answered, how long it took, what moved, what was lost or spent."""

    def test_contents(self, folder):
        """Names, seconds, bytes each way and figures; a round counts from one."""
        nodes = {
            NORTH: answering(times(1), patients=2, seconds=1.5, first_loss=2.0, last_loss=1.0),
            EAST: failing(FAILED, "DataError"),
            SOUTH: answering(times(1), epsilon=0.5, delta=0.01),
        }
        federate(folder, nodes)
        (record,) = folder.read_rounds()
        size = ArrayRecord(START).count_bytes()
        assert size > sum(tensor.numel() * 4 for tensor in START.values())
        moved = {"bytes_down": size, "bytes": size}
        assert record["hospitals"] == {
            "north": {
                **moved,
                "patients": 2,
                "seconds": 1.5,
                "first_loss": 2.0,
                "last_loss": 1.0,
            },
            "south": {**moved, "patients": 1, "epsilon": 0.5, "delta": 0.01},
        }
        assert (record["arm"], record["round"], record["rounds"]) == ("federated", 1, 1)
        assert record["failed"] == {"east": "DataError"}
        assert record["silent"] == []
        assert 0 <= record["seconds"] < 60
        assert record["ended_at"].endswith("+00:00")

    def test_one_line_a_round(self, folder):
        """Each line is JSON of its own."""
        federate(folder, {NORTH: answering(times(1)), EAST: answering(times(1))}, rounds=3)
        lines = folder.rounds_path.read_text().splitlines()
        assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]

    def test_silent_hospital(self, folder):
        """Who does not answer is named, and the round goes on without it."""
        nodes = {NORTH: answering(times(2)), EAST: answering(times(2)), SOUTH: silent}
        federate(folder, nodes)
        assert folder.read_rounds()[0]["silent"] == ["south"]
        torch.testing.assert_close(after(folder)["head.a"], START["head.a"] * 2)

    def test_gone_node_is_known_by_the_message(self, folder):
        """For a dead node the link answers, under its own id: the hospital is still named."""
        grid = federate(
            folder, {NORTH: answering(times(1)), SOUTH: None, EAST: answering(times(1))}
        )
        (record,) = folder.read_rounds()
        assert record["failed"] == {"south": "Node Unavailable"}
        assert record["silent"] == []
        assert LINK_NODE_ID not in NAMES
        assert {message.metadata.dst_node_id for message in grid.sent} == {*NAMES}

    def test_two_gone_nodes_are_two_hospitals(self, folder):
        """Answers in others' stead are not lumped together."""
        with pytest.raises(FederationError, match=r"1 hospitals answered, 2 are needed"):
            federate(folder, {NORTH: None, SOUTH: None, EAST: answering(times(1))})
        assert folder.read_rounds()[0]["failed"].keys() == {"north", "south"}

    def test_stranger_is_not_averaged(self, folder):
        """A reply to a message that nobody sent is nobody's."""
        strategy = RecordedFedAvg(
            FederationPlan("federated", 1, 0, NAMES, 1, precision="float32"), folder
        )
        FakeGrid({})
        sent = Message(RecordDict(), NORTH, "train")
        sent.metadata.__dict__["_message_id"] = "of another run"
        content = RecordDict(
            {"arrays": ArrayRecord(START), "metrics": MetricRecord({"patients": 1})}
        )
        with pytest.raises(FederationError, match="0 hospitals answered"):
            strategy.aggregate_train(1, [Message(content, reply_to=sent)])


def sending(arrays=None, metrics=None, **others):
    """A node that answers with exactly these records."""
    records = {"arrays": arrays, "metrics": metrics} | others
    content = {key: value for key, value in records.items() if value is not None}
    return lambda message: Message(RecordDict(content), reply_to=message)


GOOD = ArrayRecord(START)
ONE = MetricRecord({"patients": 1})
NAN = float("nan")
BROKEN = Array("float32", (2,), "numpy.ndarray", b"not an array")

BAD_ANSWERS = {
    "nan": (sending(ArrayRecord(state_of(1, NAN)), ONE), "not finite"),
    "infinite": (sending(ArrayRecord(state_of(1, float("inf"))), ONE), "not finite"),
    "shape": (sending(ArrayRecord(state_of(1, 2, 3)), ONE), "shape or type"),
    "type": (
        sending(ArrayRecord({n: t.double() for n, t in START.items()}), ONE),
        "shape or type",
    ),
    "missing tensor": (sending(ArrayRecord({"head.a": START["head.a"]}), ONE), "other names"),
    "unreadable": (
        sending(ArrayRecord({"head.a": BROKEN, "head.b": Array(np.ones((2, 2)))}), ONE),
        "cannot be read",
    ),
    "no weight": (sending(GOOD, MetricRecord({"seconds": 1.0})), "number of patients"),
    "zero weight": (sending(GOOD, MetricRecord({"patients": 0})), "number of patients"),
    "negative weight": (sending(GOOD, MetricRecord({"patients": -5})), "number of patients"),
    "part of a patient": (sending(GOOD, MetricRecord({"patients": 1.5})), "number of patients"),
    "nan loss": (sending(GOOD, MetricRecord({"patients": 1, "last_loss": NAN})), "finite number"),
    "a list": (sending(GOOD, MetricRecord({"patients": 1, "ages": [61, 7]})), "finite number"),
    "no arrays": (sending(None, ONE), "another form"),
    "two arrays": (sending(GOOD, ONE, more=GOOD), "another form"),
    "nothing": (sending(), "another form"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_bad_answer_is_refused(folder, name):
    """An answer that would spoil the mean is not averaged; its hospital is named as failed."""
    bad, reason = BAD_ANSWERS[name]
    nodes = {NORTH: answering(times(2)), EAST: bad, SOUTH: answering(times(2))}
    federate(folder, nodes, rounds=2)
    for record in folder.read_rounds():
        assert reason in record["failed"]["east"]
        assert record["hospitals"].keys() == {"north", "south"}
    torch.testing.assert_close(after(folder)["head.a"], START["head.a"] * 4)


class TestTooFew:
    """A round with fewer answers than agreed on ends the arm."""

    def test_says_who_and_why(self, folder):
        """The error names round, arm and each hospital; there is no checkpoint."""
        nodes = {NORTH: answering(times(2)), EAST: failing(FAILED, "DataError"), SOUTH: silent}
        with pytest.raises(FederationError) as caught:
            federate(folder, nodes)
        message = str(caught.value)
        for part in ("Round 1 of federated", "1 hospitals answered, 2 are needed", "node.log"):
            assert part in message
        assert "(east: DataError, south: silent)" in message
        assert not folder.checkpoint_path.exists()
        assert finished_rounds(folder) == 0

    def test_failed_round_is_run_again(self, folder):
        """A record of a failed round does not make it a finished one."""
        north = answering(times(2))
        federate(folder, {NORTH: north, EAST: answering(times(2))}, rounds=1)
        with pytest.raises(FederationError, match="Round 2"):
            federate(folder, {NORTH: north, EAST: silent}, rounds=2)
        assert [record["round"] for record in folder.read_rounds()] == [1, 2]
        assert finished_rounds(folder) == 1
        federate(folder, {NORTH: north, EAST: answering(times(2))}, rounds=2)
        assert finished_rounds(folder) == 2
        torch.testing.assert_close(after(folder)["head.a"], START["head.a"] * 4)


class TestBudget:
    """A private arm whose ledgers refuse another round keeps what it has."""

    @staticmethod
    def paying(rounds):
        """A hospital whose grant pays for so many rounds."""

        def node(message):
            if int(message.content["config"]["round"]) > rounds:
                return failing(BUDGET_REFUSED, "BudgetError")(message)
            return answering(times(2), epsilon=0.1, delta=0.01)(message)

        return node

    def test_ends_early_with_what_was_paid_for(self, folder):
        """Three rounds of five are paid for: the third one's adapter is the result."""
        nodes = {NORTH: self.paying(3), EAST: self.paying(3)}
        grid = federate(folder, nodes, rounds=5, arm="federated-private")
        assert finished_rounds(folder) == 3
        torch.testing.assert_close(after(folder)["head.a"], START["head.a"] * 8)
        # Nobody is asked a fifth time after all have refused the fourth.
        assert [m.content["config"]["round"] for m in grid.sent] == [1, 1, 2, 2, 3, 3, 4, 4]
        assert folder.read_rounds()[-1]["failed"] == dict.fromkeys(("north", "east"), "BudgetError")

    def test_others_go_on(self, folder):
        """One refusing hospital does not end an arm that enough others carry."""
        nodes = {NORTH: self.paying(1), EAST: self.paying(9), SOUTH: self.paying(9)}
        federate(folder, nodes, rounds=3, arm="federated-private")
        assert finished_rounds(folder) == 3

    def test_nothing_paid_for(self, folder):
        """Refused in the first round, the arm has nothing, and says why."""
        with pytest.raises(FederationError, match="north: BudgetError"):
            federate(folder, {NORTH: self.paying(0), EAST: self.paying(0)}, rounds=2)

    def test_another_failure_is_no_early_end(self, folder):
        """Only refusals end an arm in good order; anything else is an error."""
        broken = failing(FAILED, "DataError")
        federate(folder, {NORTH: self.paying(1), EAST: answering(times(1))}, rounds=1)
        with pytest.raises(FederationError, match="east: DataError"):
            federate(folder, {NORTH: self.paying(1), EAST: broken}, rounds=3)


DETERMINISTIC = {
    NORTH: answering(stirred(1.1), patients=3),
    EAST: answering(stirred(0.7), patients=5),
    SOUTH: answering(stirred(-2.3), patients=11),
}


class TestResume:
    """A stopped arm goes on as if it had not been stopped."""

    def test_equals_an_uninterrupted_run(self, folder, tmp_path):
        """Stopped after each round and gone on from disk: the same bits, each round once."""
        whole = ArmFolder(tmp_path / "whole")
        whole.path.mkdir()
        federate(whole, DETERMINISTIC, rounds=4)
        for rounds in (1, 2, 4):
            grid = federate(folder, DETERMINISTIC, rounds=rounds)
        numbers = [message.content["config"]["round"] for message in grid.sent]
        assert numbers == [3, 3, 3, 4, 4, 4]
        assert [record["round"] for record in folder.read_rounds()] == [1, 2, 3, 4]
        for name, tensor in after(whole).items():
            assert torch.equal(tensor, after(folder)[name])

    def test_nothing_left_to_do(self, folder):
        """A finished arm asks nobody."""
        federate(folder, DETERMINISTIC, rounds=2)
        assert federate(folder, DETERMINISTIC, rounds=2).sent == []

    def test_cut_off_record(self, folder):
        """Half a line, as a power cut leaves it, is neither read nor left to spoil the next."""
        federate(folder, DETERMINISTIC, rounds=1)
        with folder.rounds_path.open("a") as file:
            file.write('{"arm": "federated", "round": 2, "hosp')
        assert [record["round"] for record in folder.read_rounds()] == [1]
        federate(folder, DETERMINISTIC, rounds=3)
        assert [record["round"] for record in folder.read_rounds()] == [1, 2, 3]

    def test_cut_off_first_record(self, folder):
        """The same where there is no whole line yet."""
        folder.rounds_path.write_text('{"ar')
        assert folder.read_rounds() == []
        federate(folder, DETERMINISTIC, rounds=1)
        assert [record["round"] for record in folder.read_rounds()] == [1]


class TestCheckpoint:
    """A checkpoint is whole, or it is the one before."""

    def test_round_trip(self, folder):
        """What was written comes back, with its round."""
        assert read_checkpoint(folder) == (0, None)
        write_checkpoint(folder, 3, START)
        number, state = read_checkpoint(folder)
        assert number == 3
        assert all(torch.equal(state[name], START[name]) for name in START)

    def test_full_disk(self, folder, monkeypatch):
        """The earlier checkpoint stays, nothing half-written does, and the file is named."""
        write_checkpoint(folder, 1, START)

        def cut_off(state, path, metadata):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint, "save_file", cut_off)
        with pytest.raises(ResourceError, match=r"checkpoint\.safetensors.*No space left"):
            write_checkpoint(folder, 2, START)
        assert finished_rounds(folder) == 1
        assert [path.name for path in folder.path.iterdir()] == ["checkpoint.safetensors"]

    @pytest.mark.parametrize("damage", ["cut", "no round", "rubbish"])
    def test_damaged(self, folder, damage):
        """A damaged file is named, with the way out."""
        write_checkpoint(folder, 1, START)
        path = folder.checkpoint_path
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-4])
        elif damage == "no round":
            save_file(START, path)
        else:
            path.write_bytes(b"rubbish")
        with pytest.raises(FederationError, match=r"checkpoint\.safetensors' is damaged\. Delete"):
            read_checkpoint(folder)


class TestIntroductions:
    """The coordinator knows hospitals by name before the first round."""

    @pytest.fixture(autouse=True)
    def _hurry(self, monkeypatch):
        monkeypatch.setattr(server_app, "_PATIENCE_S", 0.2)
        monkeypatch.setattr(server_app, "_PAUSE_S", 0.01)

    @staticmethod
    def saying(name):
        """A node that introduces itself."""
        return sending(None, None, hospital=ConfigRecord({"name": name}))

    def test_all_come(self):
        """Each node id gets its hospital's name."""
        grid = FakeGrid({node: self.saying(name) for node, name in NAMES.items()})
        assert server_app._introductions(grid, {*NAMES.values()}) == NAMES

    def test_one_comes_later(self):
        """Who fails or is silent at first is asked again."""
        calls = []

        def slow(message):
            calls.append(message)
            return failing(FAILED, "OSError")(message) if len(calls) < 3 else ready(message)

        ready = self.saying("east")
        grid = FakeGrid({NORTH: self.saying("north"), EAST: slow})
        known = server_app._introductions(grid, {"north", "east"})
        assert known == {NORTH: "north", EAST: "east"}

    @pytest.mark.parametrize("node", [silent, failing(FAILED, "OSError"), None])
    def test_one_does_not_come(self, node):
        """It is named."""
        grid = FakeGrid({NORTH: self.saying("north"), EAST: node})
        with pytest.raises(FederationError, match=r"did not come within 0 s: east\."):
            server_app._introductions(grid, {"north", "east"})

    def test_two_of_one_name(self):
        """Two nodes of one name would count its patients twice: refused."""
        grid = FakeGrid({NORTH: self.saying("north"), EAST: self.saying("north")})
        with pytest.raises(FederationError, match="Two nodes say that they are north"):
            server_app._introductions(grid, {"north", "east"})

    def test_stranger_takes_no_part(self):
        """A node that nobody approved is connected, but never asked to train."""
        grid = FakeGrid({NORTH: self.saying("north"), EAST: self.saying("elsewhere")})
        assert server_app._introductions(grid, {"north"}) == {NORTH: "north"}
