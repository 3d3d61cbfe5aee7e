"""A coordinator that is lost while a hidden sum is opened: what had come finishes the round."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord
from safetensors import SafetensorError
from safetensors.numpy import save

from evenhand.config import FederationConfig
from evenhand.errors import ResourceError
from evenhand.experiment.layout import ArmFolder
from evenhand_federated import strategies
from evenhand_federated import strategy as strategy_module
from evenhand_federated.checkpoint import read_checkpoint, write_checkpoint
from evenhand_federated.kept_opening import KeptOpening
from evenhand_federated.masked_sum import Unmasking, UnopenedSumError
from evenhand_federated.secure_rounds import SecureFedAvg
from evenhand_federated.strategies import combiner_of
from evenhand_federated.strategy import FederationPlan
from evenhand_federated.testing import FakeGrid
from federation_fakes import silent
from secure_fakes import (
    LIMIT_S,
    NAMES,
    PATIENTS,
    START,
    close,
    hidden,
    in_clear,
    nodes_with,
    roll_of,
)


class Lost(BaseException):
    """The coordinator's process is gone."""


def lost_at_the_opening(tmp_path, monkeypatch, *, after, gone=()):
    """Two rounds whose coordinator is lost in the second.

    Args:
        tmp_path: of all.
        monkeypatch: the test's.
        after: answers that had come and were written; None: all, but not the adapter.
        gone: who does not answer while it is trained.
    """
    add, counted = KeptOpening.add, Counter()

    def dying(self, hospital, answer):
        counted[self.read().number] += 1
        if counted[2] and after is not None and counted[2] > after:
            raise Lost
        add(self, hospital, answer)

    def no_checkpoint(folder, number, state):
        if number == 2:
            raise Lost
        write_checkpoint(folder, number, state)

    nodes = {name: {"quiet": ("train",)} for name in gone}
    with monkeypatch.context() as patch:
        patch.setattr(KeptOpening, "add", dying)
        patch.setattr(strategy_module, "write_checkpoint", no_checkpoint)
        with pytest.raises(Lost):
            hidden(tmp_path, nodes)
    folder = ArmFolder(tmp_path / "hidden")
    assert read_checkpoint(folder)[0] == 1
    assert len(folder.read_rounds()) == 2
    return folder


def go_on(folder, nodes):
    """Start again, as the ServerApp does; the adapter and the grid."""
    done, state = read_checkpoint(folder)
    grid = FakeGrid(nodes)
    plan = FederationPlan("federated", 2, done, NAMES, 2, precision="float32")
    options = {"patience_s": 0.01, "grace_s": 0, "combiner": combiner_of(FederationConfig())}
    SecureFedAvg(
        plan, folder, study="study", roll=roll_of(folder.path.parent), timeout_s=LIMIT_S, **options
    ).start(grid=grid, initial_arrays=ArrayRecord(state), num_rounds=2 - done, timeout=LIMIT_S)
    return read_checkpoint(folder)[1], grid


@pytest.mark.parametrize(
    ("after", "gone"), [(None, ()), (3, ()), (None, ("south",))], ids=["all", "enough", "a list"]
)
def test_a_round_that_was_opened_is_finished_without_anybody(tmp_path, monkeypatch, after, gone):
    """Nobody is asked, so nobody has to be there, nobody trains and nobody pays again."""
    folder = lost_at_the_opening(tmp_path, monkeypatch, after=after, gone=gone)
    found, grid = go_on(folder, dict.fromkeys(NAMES, silent))
    assert grid.sent == []
    assert close(found, in_clear(tmp_path, without=gone))
    assert [record["round"] for record in folder.read_rounds()] == [1, 2]
    assert list(folder.path.glob("opening.*")) == []


@pytest.mark.parametrize("after", [0, 2])
def test_a_round_that_was_not_opened_is_trained_again(tmp_path, monkeypatch, after):
    """With too few answers nothing can be opened: the same hospitals train and open it anew."""
    folder = lost_at_the_opening(tmp_path, monkeypatch, after=after)
    found, grid = go_on(folder, nodes_with(tmp_path, {}))
    assert Counter(message.metadata.message_type for message in grid.sent)["train"] == 4
    assert close(found, in_clear(tmp_path))
    assert list(folder.path.glob("opening.*")) == []


def test_what_is_kept_is_the_owners_alone_and_says_no_more_than_the_sum(tmp_path, monkeypatch):
    """Masked numbers and one share of each mask from each hospital, as came; no adapter."""
    folder = lost_at_the_opening(tmp_path, monkeypatch, after=2)
    assert {path.stat().st_mode & 0o777 for path in folder.path.glob("opening.*")} == {0o600}
    kept = KeptOpening(folder.path).read()
    assert (kept.number, set(kept.masked), len(kept.opened)) == (2, set(PATIENTS), 2)
    with pytest.raises(UnopenedSumError, match="2 hospitals gave a share, 3 are needed"):
        kept.total()


@pytest.mark.parametrize(
    "what",
    [
        *("cut", "no JSON", "no text", "another form", "no shares", "no hex"),
        *("rubbish", "no description", "of another round"),
    ],
)
def test_what_was_kept_and_cannot_be_used_is_passed_over(tmp_path, monkeypatch, what):
    """A line cut off or damaged, a damaged file, or a round before: it is trained again."""
    folder = lost_at_the_opening(tmp_path, monkeypatch, after=3)
    answers, numbers = folder.path / "opening.jsonl", folder.path / "opening.safetensors"
    lines = {
        "no JSON": b"{",
        "no text": b"\xff\xfe",
        "another form": b"[1, 2, 3]",
        "no shares": b'["east", {"shares": ["a"], "pairs": {}}]',
        "no hex": b'["east", {"shares": {"east": "x"}, "pairs": {}}]',
    }
    if what == "cut":
        answers.write_bytes(answers.read_bytes()[:-5])
    elif what in lines:
        first, _, others = answers.read_bytes().lstrip(b"\n").partition(b"\n")
        assert first.startswith(b"[")
        answers.write_bytes(lines[what] + b"\n" + others)
    elif what == "no description":
        numbers.write_bytes(save({"north": np.zeros(2)}, metadata={"about": "[1]"}))
    elif what == "rubbish":
        numbers.write_bytes(b"rubbish")
    else:
        kept = KeptOpening(folder.path).read()
        KeptOpening(folder.path).begin(replace(kept, number=1))
    found, grid = go_on(folder, nodes_with(tmp_path, {}))
    assert grid.sent
    assert close(found, in_clear(tmp_path))


def test_one_damaged_answer_of_more_than_enough_does_no_harm(tmp_path, monkeypatch):
    """The others still open the sum, so nobody trains and nobody pays again."""
    folder = lost_at_the_opening(tmp_path, monkeypatch, after=None)
    answers = folder.path / "opening.jsonl"
    answers.write_bytes(b"rubbish" + answers.read_bytes())
    found, grid = go_on(folder, dict.fromkeys(NAMES, silent))
    assert grid.sent == []
    assert close(found, in_clear(tmp_path))


def full(*_):
    """In place of what writes a round down."""
    raise ResourceError("The disk is full.")


def no_room_for_answers(monkeypatch):
    """From now on what is to be opened can be kept, but no answer to that."""
    begin = KeptOpening.begin

    def without_answers(self, opening):
        begin(self, opening)
        answers = self.folder / "opening.jsonl"
        answers.unlink()
        answers.symlink_to(self.folder / "none" / "opening.jsonl")

    monkeypatch.setattr(KeptOpening, "begin", without_answers)


def test_what_cannot_be_kept_is_not_opened(tmp_path):
    """All have trained and nobody is asked: in vain, which is said with the fault's place."""
    in_the_way = tmp_path / "hidden" / "opening.jsonl"
    in_the_way.mkdir(parents=True)
    with pytest.raises(UnopenedSumError, match=rf"lost to a fault .*'{in_the_way.parent}'"):
        hidden(tmp_path)
    assert len(ArmFolder(in_the_way.parent).read_rounds()) == 1
    assert list(tmp_path.glob("*/secure-sums-opened.json")) == []


def test_an_answer_that_cannot_be_kept_does_not_end_the_round(tmp_path, monkeypatch):
    """It is opened from memory."""
    no_room_for_answers(monkeypatch)
    found, _ = hidden(tmp_path)
    assert close(found, in_clear(tmp_path))
    assert list((tmp_path / "hidden").glob("opening.*")) == []


def test_a_round_that_no_restart_could_finish_was_in_vain(tmp_path, monkeypatch):
    """Neither its answers nor its adapter could be written: to start again would charge again."""
    no_room_for_answers(monkeypatch)
    monkeypatch.setattr(strategy_module, "write_checkpoint", full)
    with pytest.raises(UnopenedSumError, match=r"Round 1 .* The disk is full"):
        hidden(tmp_path)
    assert list((tmp_path / "hidden").glob("opening.*")) == []


def test_what_the_optimiser_remembers_cannot_be_written(tmp_path, monkeypatch):
    """The same where the disk is full for the memory of FedAdam, which comes before the adapter."""
    no_room_for_answers(monkeypatch)

    def no_room(*_, **__):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(strategies, "save_file", no_room)
    with pytest.raises(UnopenedSumError, match=r"Round 1 .* No space left"):
        hidden(tmp_path, strategy="fedadam")


def test_half_an_answer_does_not_spoil_the_next(tmp_path, monkeypatch):
    """A disk that was full for a moment costs the answer that it cut, and no other."""
    folder = lost_at_the_opening(tmp_path, monkeypatch, after=None)
    answers = folder.path / "opening.jsonl"
    lines = [line for line in answers.read_bytes().split(b"\n") if line]
    answers.write_bytes(b"\n" + lines[0][:20])
    kept = KeptOpening(folder.path)
    for hospital, answer in list(kept_answers(lines))[1:]:
        kept.add(hospital, answer)
    assert set(kept.read().opened) == {hospital for hospital, _ in list(kept_answers(lines))[1:]}


def kept_answers(lines):
    """Hospitals and what they sent to open a sum, of the lines of a file."""
    for line in lines:
        hospital, parts = json.loads(line)
        made = ({n: bytes.fromhex(p) for n, p in parts[k].items()} for k in ("shares", "pairs"))
        yield hospital, Unmasking(*made)


def test_a_round_that_a_restart_can_finish_is_kept(tmp_path, monkeypatch):
    """Its adapter could not be written, all else is: with room again nobody is asked."""
    with monkeypatch.context() as patch:
        patch.setattr(strategy_module, "write_checkpoint", full)
        with pytest.raises(ResourceError, match="The disk is full"):
            hidden(tmp_path, rounds=1)
    folder, grid = ArmFolder(tmp_path / "hidden"), FakeGrid(dict.fromkeys(NAMES, silent))
    plan = FederationPlan("federated", 1, 0, NAMES, 2, precision="float32")
    options = {"patience_s": 0.01, "grace_s": 0, "combiner": combiner_of(FederationConfig())}
    SecureFedAvg(
        plan, folder, study="study", roll=roll_of(tmp_path), timeout_s=LIMIT_S, **options
    ).start(grid=grid, initial_arrays=ArrayRecord(START), num_rounds=1, timeout=LIMIT_S)
    assert grid.sent == []
    assert close(read_checkpoint(folder)[1], in_clear(tmp_path, rounds=1))
