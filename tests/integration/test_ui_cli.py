"""`evenhand review` at the command line: what it refuses, and what --verify says."""

import re
import socket
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from evenhand.cases.nifti import write_nifti
from evenhand.cases.store import array_sha256
from evenhand.errors import DataError, ResourceError, ReviewError, UsageError
from evenhand.review import Decision, Reason, ReviewStore, Verdict
from evenhand_ui.cli import check_port_is_free, verify_trail
from evenhand_ui.masks import keep_correction, name_correction
from evenhand_ui.options import STREAMLIT_OPTIONS
from evenhand_ui.runs import ReviewRun
from review_run import AFFINE, make_review_run, proposed_mask

UI = Path(__file__).parents[2] / "ui"


@pytest.fixture
def folder(tmp_path):
    """A run folder without decisions."""
    return make_review_run(tmp_path / "run")


def decide(folder, **changes):
    """Record a decision about case n001."""
    fields = {
        "case_id": "n001",
        "hospital": "north",
        "arm": "federated",
        "verdict": Verdict.ACCEPT,
        "reader": "Dr. Lee",
        "proposed_sha256": array_sha256(proposed_mask()),
        "seconds": 1.0,
        "slices_seen": (3,),
    }
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        return store.append(Decision(**(fields | changes)))


def review(*arguments):
    """Run the command as a person does."""
    command = [Path(sys.executable).with_name("evenhand"), "review", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    # The terminal wraps lines where it likes.
    return done.returncode, done.stdout, " ".join(done.stderr.split())


class TestPort:
    """A port that is taken is found before anything starts."""

    def test_busy_port(self, folder):
        """Exit 1, the port is named, and so is the command that chooses another."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            code, out, error = review(folder, "--port", port, "--no-browser")
        assert (code, out) == (1, "")
        assert f"Port {port} cannot be used" in error
        assert re.search(r"evenhand review \S+ --port \d+", error)
        assert "Traceback" not in error

    def test_highest_port_offers_a_possible_one(self, tmp_path):
        """The port that is offered instead exists: after 65535 comes no 65536."""
        with socket.socket() as other:
            try:
                other.bind(("127.0.0.1", 65535))
            except OSError:
                pytest.skip("port 65535 is taken on this machine")
            other.listen()
            with pytest.raises(ResourceError, match="--port 8501"):
                check_port_is_free(65535, tmp_path)

    def test_free_port(self, tmp_path):
        """A port that nothing listens on is let through."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        check_port_is_free(port, tmp_path)


class TestRun:
    """Wrong use is exit 2 with one sentence."""

    def test_unknown_arm(self, folder):
        """The arms that could be reviewed are named."""
        code, _, error = review(folder, "--arm", "pooled")
        assert code == 2
        assert "'pooled'" in error
        assert "federated" in error

    def test_no_folder(self, tmp_path):
        """A folder that is not there is named."""
        code, _, error = review(tmp_path / "gone")
        assert code == 2
        assert "no run folder" in error


class TestVerify:
    """`--verify` tells whether the trail is as it was written."""

    def test_intact(self, folder):
        """Number of decisions, and the last hash to note elsewhere."""
        decide(folder)
        head = decide(folder, verdict=Verdict.WITHDRAW).sha256
        code, out, _ = review(folder, "--verify")
        assert code == 0
        assert out == f"2 decisions, chain intact; hash of the last one: {head}\n"

    def test_not_reviewed_yet(self, folder):
        """A run without decisions is not made a database by looking."""
        assert verify_trail(folder).startswith("0 decisions")
        assert not (folder / "review").exists()

    def test_no_run(self, tmp_path):
        """A folder that is not there has no trail, and is not called empty."""
        with pytest.raises(UsageError, match="no run folder"):
            verify_trail(tmp_path / "gone")

    def test_broken_chain(self, folder):
        """The position of the break is named."""
        for _ in range(3):
            decide(folder)
        connection = sqlite3.connect(folder / "review" / "review.sqlite")
        connection.execute("DROP TRIGGER decisions_no_update")
        connection.execute("UPDATE decisions SET reader = 'Dr. No' WHERE position = 2")
        connection.commit()
        connection.close()
        with pytest.raises(ReviewError, match="3 decisions, chain broken at decision 2"):
            verify_trail(folder)

    def test_changed_correction(self, folder):
        """The chain covers the corrected masks as well: each must still have its hash."""
        case = ReviewRun.open(folder).case("n001")
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        name, sha256 = name_correction(case, mask)
        path = folder / "review" / name
        keep_correction(path, case, mask)
        decide(
            folder,
            verdict=Verdict.CORRECT,
            reason=Reason.BOUNDARY,
            corrected_path=name,
            corrected_sha256=sha256,
        )
        assert verify_trail(folder).startswith("1 decisions, chain intact")
        write_nifti(path, proposed_mask(), AFFINE)
        with pytest.raises(DataError, match="of decision 1 was changed"):
            verify_trail(folder)


def test_both_ways_to_start_set_the_same_options():
    """`streamlit run ui/app.py` is set as `evenhand review` is: loopback, no links, no details."""
    text = (UI / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    options = {
        f"{section}.{name}": value
        for section, values in tomllib.loads(text).items()
        for name, value in values.items()
    }
    assert options == STREAMLIT_OPTIONS
    assert options["server.address"] == "127.0.0.1"
    assert options["client.showErrorDetails"] == "none"
    assert options["client.showErrorLinks"] is False
