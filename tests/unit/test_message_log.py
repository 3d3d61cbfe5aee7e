"""A hospital's log of messages is whole, or it is noticed that it is not."""

import pytest
from typer.testing import CliRunner

from evenhand.cli import app as command_line
from evenhand.errors import FederationError, ResourceError
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
