"""A hospital's log of messages is whole, or it is noticed that it is not."""

import json
import os
import signal
import sys
from itertools import count

import pytest
from typer.testing import CliRunner

from evenhand import artifacts
from evenhand.cli import app as command_line
from evenhand.errors import FederationError, ResourceError
from evenhand.privacy.chain import Entry
from evenhand.privacy.keys import HospitalKey
from evenhand_federated import message_log
from evenhand_federated.message_log import MessageLog
from federation_places import make_coordinator, make_hospital


@pytest.fixture
def north(tmp_path, tiny_stores):
    """Hospital north."""
    centre = make_coordinator(tmp_path / "centre")
    return make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)


class TestCutLog:
    """What was cut off the end of a message log is noticed, and nothing is written behind it."""

    @pytest.fixture
    def log(self, north):
        """A log of four lines."""
        log = north.messages()
        for number in range(4):
            log.add("refused", what=f"number {number}")
        assert log.faults() == []
        return log

    @pytest.mark.parametrize("left", [0, 1, 3])
    def test_lines_cut_off(self, log, left):
        """However many are left, the sentence says how many there were; the node answers nobody."""
        lines = log.path.read_bytes().splitlines(keepends=True)
        log.path.write_bytes(b"".join(lines[:left]))
        assert "4" in str(log.faults()[0])
        with pytest.raises(FederationError, match=r"is not what was written.*Move the log"):
            log.add("refused", what="another")
        assert log.path.read_bytes() == b"".join(lines[:left])

    @pytest.mark.parametrize("change", ["gone", "rubbish", "another's"])
    def test_the_head_is_no_way_round(self, log, tmp_path, change):
        """Neither without it nor with one that the hospital has not signed."""
        lines = log.path.read_bytes().splitlines(keepends=True)
        log.path.write_bytes(b"".join(lines[:3]))
        if change == "gone":
            log.head_path.unlink()
        elif change == "rubbish":
            log.head_path.write_text("{}")
        else:
            other = MessageLog(tmp_path / "other.jsonl", HospitalKey.open(tmp_path / "other"))
            for number in range(3):
                other.add("refused", what=f"number {number}")
            log.head_path.write_bytes(other.head_path.read_bytes())
        assert log.faults()
        with pytest.raises(FederationError, match="is not what was written"):
            log.add("refused", what="another")

    def test_the_command_says_so(self, log, north):
        """Who reads the log is told, with an exit status."""
        lines = log.path.read_bytes().splitlines(keepends=True)
        log.path.write_bytes(b"".join(lines[:3]))
        words = ["federation", "log", "north", "--verify", "--folder", str(north.path)]
        assert "was changed: entry 4" in str(CliRunner().invoke(command_line, words).exception)

    def test_a_node_killed_between_line_and_head(self, log, monkeypatch):
        """Its log is whole: the head is one behind, and the next line brings it up."""
        before = log.head_path.read_bytes()
        log.add("refused", what="fifth")
        log.head_path.write_bytes(before)
        assert log.faults() == []
        log.add("refused", what="sixth")
        assert log.faults() == []
        assert len(log.entries()) == 6

    def test_a_head_put_back_by_itself(self, log):
        """What may be written is what is found right: all lines are there, so it is brought up."""
        before = log.head_path.read_bytes()
        for number in range(3):
            log.add("refused", what=f"later {number}")
        log.head_path.write_bytes(before)
        assert log.faults() == []
        log.add("refused", what="last")
        assert (len(log.entries()), log.faults()) == (8, [])

    def test_a_forged_line_is_not_covered_by_a_new_head(self, log):
        """A line that the hospital has not signed is no line of a process that was killed."""
        last = json.loads(log.path.read_bytes().splitlines()[-1])
        forged = last | {"position": 5, "previous": last["hash"]}
        forged["hash"] = Entry(**forged).right_hash()
        with log.path.open("ab") as file:
            file.write(json.dumps(forged).encode() + b"\n")
        before = log.head_path.read_bytes()
        assert "has not signed" in str(log.faults()[0])
        with pytest.raises(FederationError, match=r"has not signed it.*Move the log"):
            log.add("refused", what="another")
        assert log.head_path.read_bytes() == before

    def test_begun_anew(self, log):
        """After both files were put aside the next message begins a log."""
        for path in (log.path, log.head_path):
            path.rename(path.with_name(f"old-{path.name}"))
        log.add("refused", what="first")
        assert (len(log.entries()), log.faults()) == (1, [])

    def test_a_head_that_cannot_be_written(self, log, monkeypatch):
        """Then the line is not there either, and nothing leaves."""
        before = log.path.read_bytes()

        def full(path, content):
            raise ResourceError("no space")

        monkeypatch.setattr(message_log, "write_atomically", full)
        with pytest.raises(ResourceError):
            log.add("refused", what="another")
        assert log.path.read_bytes() == before
        assert log.faults() == []


def add_and_die(log, at):
    """Add an entry in a process that is killed before it runs line `at` of what writes it.

    Returns:
        Whether it was killed, and not done before.
    """
    child = os.fork()
    if child == 0:
        steps = count()

        def trace(frame, event, _argument):
            if frame.f_code.co_filename not in (message_log.__file__, artifacts.__file__):
                return None
            if event == "line" and next(steps) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            log.add("refused", what=f"killed at {at}")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
@pytest.mark.parametrize("entries", [0, 3])
def test_killed_twice_at_every_step(tmp_path, entries):
    """Wherever two processes die, what was confirmed is there, and the next line goes on."""
    kills = 0
    for at in count():
        log = MessageLog(tmp_path / str(at) / "log.jsonl", HospitalKey.open(tmp_path / "key"))
        for number in range(entries):
            log.add("refused", what=f"number {number}")
        killed = [add_and_die(log, at), add_and_die(log, at)]
        if not any(killed):
            break
        kills += sum(killed)
        assert log.faults() == []
        log.add("refused", what="afterwards")
        assert log.faults() == []
        said = [entry.body()["what"] for entry in log.entries()]
        assert said[:entries] == [f"number {number}" for number in range(entries)]
        assert said[-1] == "afterwards"
        assert len(said) <= entries + 3
    assert kills > 40


@pytest.mark.parametrize("left", [1, 40, -1])
def test_killed_in_the_middle_of_a_line(tmp_path, left):
    """The unfinished line goes; a confirmed one that somebody cuts short is missed."""
    log = MessageLog(tmp_path / "log.jsonl", HospitalKey.open(tmp_path / "key"))
    for number in range(2):
        log.add("refused", what=f"number {number}")
    head, whole = log.head_path.read_bytes(), log.path.read_bytes()
    log.add("refused", what="third")
    third = log.path.read_bytes()[len(whole) :]
    log.path.write_bytes(whole + third[:left])
    assert "entry 3" in str(log.faults()[0])
    with pytest.raises(FederationError, match="Move the log"):
        log.add("refused", what="over it")
    log.head_path.write_bytes(head)
    assert log.faults() == []
    log.add("refused", what="again")
    said = [entry.body()["what"] for entry in log.entries()]
    assert said == ["number 0", "number 1", "again"]
    assert log.faults() == []
