"""Rounds whose updates the coordinator never sees: the same adapter as in clear."""

import inspect
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from evenhand.config import FederationConfig
from evenhand.errors import FederationError
from evenhand.experiment.layout import ArmFolder
from evenhand_federated import hospital_app
from evenhand_federated.certified import context_of
from evenhand_federated.checkpoint import read_checkpoint
from evenhand_federated.hospital import NODE_VARIABLE
from evenhand_federated.masked_sum import Contributor, Unmasking, UnopenedSumError
from evenhand_federated.node import HospitalNode
from evenhand_federated.secure_hospital import AGREE, KEYS, UNMASK, SecureRound
from evenhand_federated.secure_rounds import SecureFedAvg
from evenhand_federated.strategy import FederationPlan
from evenhand_federated.testing import LINK_NODE_ID, FakeGrid
from federation_fakes import context_of as context_for
from federation_fakes import state_of
from federation_places import make_coordinator, make_hospital, make_study
from secure_fakes import (
    LIMIT_S,
    NAMES,
    PATIENTS,
    START,
    close,
    federate,
    hidden,
    in_clear,
    nodes_with,
    part_of,
    roll_of,
    secure_node,
    stirred,
)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedyogi"])
def test_the_same_adapter_as_in_clear(tmp_path, strategy):
    """To a millionth, over two rounds, whatever is made of the mean."""
    found, _ = hidden(tmp_path, strategy=strategy)
    assert close(found, in_clear(tmp_path, strategy=strategy))
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_half_precision_hides_in_32_bits(tmp_path):
    """Half the bytes up and down; who drops out before or after sending is dealt with as ever.

    Three hospitals' numbers are off by half a step of 2^-16 each, over 35 patients or more.
    """
    gone = {"south": {"quiet": ("train",)}, "west": {"quiet": ()}}
    found, grid = hidden(tmp_path, gone, rounds=1, precision="float16")
    clear = in_clear(tmp_path, without=["south"], rounds=1, precision="float16")
    for name, one in found.items():
        # In clear each change is rounded to 11 bits; hidden ones are not, but to a step.
        change = (clear[name] - START[name]).abs().max()
        assert (one - clear[name]).abs().max() <= change * 2.0**-10 + 3 * 2.0**-17 / 35 + 1e-6
    record = ArmFolder(tmp_path / "hidden").read_rounds()[0]
    sent = [message for message in grid.sent if "arrays" in message.content]
    assert {one.dtype for one in sent[0].content["arrays"].values()} == {"float16"}
    numbers = 1 + sum(one.numel() for one in START.values())
    assert numbers * 4 < record["hospitals"]["north"]["bytes"] < numbers * 4 + 150
    assert record["silent"] == ["south"]


def test_what_all_sides_must_share_has_no_default():
    """Whoever forgets one of these is told, and does not sum in another ring than the others."""
    wanted = {
        Contributor.mask: {"ring", "told"},
        SecureRound: {"was_opened", "ring"},
        FederationPlan: {"precision"},
    }
    for made, names in wanted.items():
        given = inspect.signature(made).parameters
        for name in names:
            assert given[name].default is inspect.Parameter.empty, name
            assert given[name].kind is inspect.Parameter.KEYWORD_ONLY, name


def test_out_of_the_narrow_range_sends_nothing(tmp_path):
    """Four hospitals share 2^15: a change of 1000 of 15 patients is beyond, and is refused."""
    own = {name: part_of(tmp_path, name, precision="float16") for name in NAMES.values()}
    FakeGrid({})
    keys, signatures = {}, {}
    for part in own.values():
        answer = part.answer_keys(Message(RecordDict(), 1, KEYS)).content
        keys |= answer["key"]
        signatures |= answer["signature"]
    content = RecordDict(
        {
            "arrays": ArrayRecord(START),
            "config": ConfigRecord({"round": 1}),
            "keys": ConfigRecord(keys),
            "signatures": ConfigRecord(signatures),
        }
    )
    after = {name: one + 1000 for name, one in START.items()}
    with pytest.raises(FederationError, match=r"beyond 8192.*precision = 'float32'"):
        own["north"].mask(content, START, after, 15)
    assert own["north"].mask(content, START, after, 8)["arrays"]["masked"].dtype == "uint32"


@pytest.mark.parametrize("kind", [KEYS, "train"])
def test_a_hospital_that_drops_out_is_left_out(tmp_path, kind):
    """Before it gave a key or before it sent: the others' mean, and its name in the record."""
    found, _ = hidden(tmp_path, {"south": {"quiet": (kind,)}})
    assert close(found, in_clear(tmp_path, without=["south"]))
    for record in ArmFolder(tmp_path / "hidden").read_rounds():
        assert record["silent"] == ["south"]


def test_a_hospital_that_drops_out_before_opening_counts(tmp_path):
    """What it sent is in the sum: the others open it."""
    found, _ = hidden(tmp_path, {"south": {"quiet": (UNMASK,)}})
    assert close(found, in_clear(tmp_path))


def test_too_few_cannot_open(tmp_path):
    """With two of four gone the round ends with a sentence, and no adapter comes of it."""
    gone = {name: {"quiet": (UNMASK,)} for name in ("south", "west")}
    with pytest.raises(FederationError, match="cannot be opened"):
        hidden(tmp_path, gone)
    assert read_checkpoint(ArmFolder(tmp_path / "hidden")) == (0, None)


def test_hospitals_enforce_their_own_minimum(tmp_path):
    """The coordinator is content with two; hospitals that ask for five send nothing."""
    asked = {name: {"minimum": 5} for name in PATIENTS}
    with pytest.raises(FederationError, match="0 hospitals answered"):
        hidden(tmp_path, asked)


def test_the_coordinator_gets_no_update_and_no_count(tmp_path):
    """Of a training answer: masked numbers and encrypted shares, no patients, no loss."""
    seen = []

    def look(content):
        seen.append(content)
        return content

    hidden(tmp_path, {"north": {"change": look}}, rounds=1)
    (content,) = seen
    assert set(content.keys()) == {"arrays", "shares"}
    masked = content["arrays"]["masked"].numpy()
    trained = stirred("north")(START, 1)
    clear = np.concatenate(
        [((trained[name] - START[name]) * 7).numpy().ravel() for name in sorted(START)]
    )
    assert np.abs(masked.view(np.int64)[: clear.size] * 2.0**-24 - clear).min() > 1e3
    assert "patients" not in ArmFolder(tmp_path / "hidden").read_rounds()[0]["hospitals"]["north"]


BAD = {
    "another type": lambda c: RecordDict(
        {"arrays": ArrayRecord({"masked": Array(np.zeros(7))}), "shares": c["shares"]}
    ),
    "the other ring": lambda c: RecordDict(
        {"arrays": ArrayRecord({"masked": Array(np.zeros(7, np.uint32))}), "shares": c["shares"]}
    ),
    "another size": lambda c: RecordDict(
        {"arrays": ArrayRecord({"masked": Array(np.zeros(3, np.uint64))}), "shares": c["shares"]}
    ),
    "an adapter in clear": lambda _: RecordDict({"arrays": ArrayRecord(START)}),
    "no shares": lambda c: RecordDict({"arrays": c["arrays"]}),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_malformed_answer_is_left_out(tmp_path, fault):
    """As if that hospital had dropped out; the reason is in the record."""
    found, _ = hidden(tmp_path, {"east": {"change": BAD[fault]}})
    assert close(found, in_clear(tmp_path, without=["east"]))
    assert "east" in ArmFolder(tmp_path / "hidden").read_rounds()[0]["failed"]


def test_secrets_are_gone_after_the_round(tmp_path):
    """What opens a hospital's masks is its owner's alone while it is needed, and then deleted."""
    modes = []

    def look(content):
        modes.append((tmp_path / "north" / "secure-sum.json").stat().st_mode & 0o777)
        return content

    hidden(tmp_path, {"north": {"change": look}})
    assert set(modes) == {0o600}
    assert list(tmp_path.glob("*/secure-sum.json")) == []


def test_a_round_cannot_be_opened_twice(tmp_path):
    """A coordinator that asks again, with another list, gets nothing."""
    own = part_of(tmp_path, "north")
    with pytest.raises(FederationError, match="was not begun here"):
        own.answer_unmask(None)


def test_two_questions_at_once_open_a_sum_once(tmp_path, monkeypatch):
    """Two processes with two lists of those who came: one gets shares, the other a refusal."""
    own = part_of(tmp_path, "north")
    begun = Contributor("north", context_of("study", 1, LINK_NODE_ID), 2)
    begun.keys = {"north": begun.public()}
    own._keep(begun)
    both, outcomes = threading.Barrier(2), []

    def slow(self, came, signed_by):
        time.sleep(0.3)
        return Unmasking({}, {})

    def ask():
        message = Message(RecordDict({"shares": ConfigRecord({})}), 1, UNMASK)
        both.wait()
        try:
            own.answer_unmask(message)
            outcomes.append("opened")
        except FederationError:
            outcomes.append("refused")

    FakeGrid({})
    monkeypatch.setattr(Contributor, "unmask", slow)
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(outcomes) == ["opened", "refused"]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_through_the_hospitals_app(tmp_path, tiny_stores, monkeypatch, precision):
    """From a signed study to the adapter: only sums arrive, and each hospital's log says so."""
    centre = make_coordinator(tmp_path / "centre")
    hospitals = {
        node: make_hospital(tmp_path / name, centre, tiny_stores[name].path, name)
        for node, name in ((11, "north"), (12, "south"))
    }
    federation = {"rounds": 1, "secure_sum": True, "precision": precision}
    study = make_study(centre, tmp_path / "study.toml", federation=federation)
    for own in hospitals.values():
        own.approve(study, study.digest)

    def train_round(self, order, state):
        trained = {key: value + len(self.train_patients) for key, value in state.items()}
        return trained, {"patients": len(self.train_patients), "last_loss": 0.5}

    def node_of(own):
        def answer(message):
            monkeypatch.setenv(NODE_VARIABLE, str(own.path))
            context = context_for(0)
            context.run_config["study"] = study.digest
            return hospital_app.app(message, context)

        return answer

    monkeypatch.setattr(HospitalNode, "train_round", train_round)
    folder = ArmFolder(tmp_path / "arm")
    folder.path.mkdir()
    grid = FakeGrid({node: node_of(own) for node, own in hospitals.items()})
    names = {11: "north", 12: "south"}
    plan = FederationPlan("federated", 1, 0, names, 2, precision=precision)
    options = {"patience_s": 1, "grace_s": 0}
    options["roll"] = study.terms.roll
    SecureFedAvg(plan, folder, study=study.digest, timeout_s=LIMIT_S, **options).start(
        grid=grid, initial_arrays=ArrayRecord(START), num_rounds=1, timeout=LIMIT_S
    )
    counts = [len(own.train_patients(study)) for own in hospitals.values()]
    mean = sum(count * count for count in counts) / sum(counts)
    found = read_checkpoint(folder)[1]
    near = 1e-6 if precision == "float32" else 1e-5
    assert torch.allclose(found["head.a"], START["head.a"] + mean, atol=near)
    for own in hospitals.values():
        said = [entry.body()["what"] for entry in own.messages().entries() if entry.kind == "sent"]
        assert said == ["key for one sum", "masked update", "shares that open the sum"]
        assert "last_loss" not in own.messages().path.read_text()
    assert "last_loss" not in folder.rounds_path.read_text()


def test_a_study_in_clear_hides_nothing(tmp_path, tiny_stores, monkeypatch):
    """A hospital does not answer questions that its study does not provide for."""
    centre = make_coordinator(tmp_path / "centre")
    study = make_study(centre, tmp_path / "study.toml")
    own = make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)
    own.approve(study, study.digest)
    monkeypatch.setenv(NODE_VARIABLE, str(own.path))
    context = context_for(0)
    context.run_config["study"] = study.digest
    grid = FakeGrid({11: lambda message: hospital_app.app(message, context)})
    order = RecordDict({"config": ConfigRecord({"arm": "federated", "round": 1})})
    (reply,) = grid.send_and_receive([Message(order, 11, KEYS)])
    assert reply.has_error()


def test_robust_and_hidden_exclude_each_other():
    """What looks at single updates cannot work on a sum."""
    with pytest.raises(ValueError, match="choose one of the two"):
        FederationConfig(strategy="krum", secure_sum=True)


def test_a_key_that_its_hospital_has_not_signed(tmp_path):
    """It would have all others refuse the round; so its hospital is left out, and named why."""
    nodes = {node: secure_node(tmp_path, name) for node, name in NAMES.items()}
    roll_of(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    roll_of(other)
    nodes[12] = secure_node(other, "east")
    found, _ = federate(ArmFolder(tmp_path / "hidden"), nodes)
    assert close(found, in_clear(tmp_path, without=["east"]))
    for record in ArmFolder(tmp_path / "hidden").read_rounds():
        assert record["failed"] == {"east": "a key that it has not signed as the study names it"}


@pytest.mark.parametrize(
    ("quiet", "kinds"),
    [
        ((), {KEYS: 4, "train": 4, UNMASK: 4}),
        (("train",), {KEYS: 4, "train": 4, AGREE: 3, UNMASK: 3}),
    ],
)
def test_the_list_is_signed_only_where_somebody_dropped_out(tmp_path, quiet, kinds):
    """Where all sent who began, a round takes three messages; else those who did sign the list."""
    _, grid = hidden(tmp_path, {"south": {"quiet": quiet}}, rounds=1)
    assert Counter(message.metadata.message_type for message in grid.sent) == kinds


@pytest.mark.parametrize("what", ["arrays", "config", "powers"])
def test_one_hospital_is_told_something_else(tmp_path, what):
    """A sum of one real update and of others that the coordinator knows would show that one."""
    form = "float16" if what == "powers" else "float32"
    inner = secure_node(tmp_path, "north", precision=form)

    def node(message):
        if message.metadata.message_type == "train":
            changed = RecordDict(dict(message.content.items()))
            if what == "arrays":
                changed["arrays"] = ArrayRecord(state_of(3, 4))
            elif what == "powers":  # the same numbers, and an adapter of zeros
                lower = [-1000] * len(changed["powers"]["powers"])
                changed["powers"] = ConfigRecord({"powers": lower})
            else:
                changed["config"] = ConfigRecord({**message.content["config"], "steady": 2})
            message.content = changed
        return inner(message)

    nodes = nodes_with(tmp_path, {11: node}, precision=form)
    with pytest.raises(UnopenedSumError, match="hospitals were told different things"):
        federate(ArmFolder(tmp_path / "hidden"), nodes, precision=form)
    assert read_checkpoint(ArmFolder(tmp_path / "hidden")) == (0, None)


def test_too_few_sign(tmp_path):
    """The round ends with a sentence; no adapter comes of it."""
    gone = {"south": {"quiet": ("train",)}, "west": {"quiet": (AGREE,)}}
    with pytest.raises(UnopenedSumError, match="2 hospitals have signed the list"):
        hidden(tmp_path, gone)
    assert read_checkpoint(ArmFolder(tmp_path / "hidden")) == (0, None)


def test_the_price(tmp_path):
    """Twice the numbers in clear (8 bytes in place of 4), and a few hundred a hospital."""
    _, grid = hidden(tmp_path, rounds=1)
    assert len(grid.sent) == 12
    sizes = ArmFolder(tmp_path / "hidden").read_rounds()[0]["hospitals"]
    numbers = sum(value.numel() for value in START.values())
    assert all(one["bytes"] < 8 * (numbers + 1) + 400 for one in sizes.values())
