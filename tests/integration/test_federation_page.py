"""The coordinator's page: what the terminal shows, and nothing that it does not."""

import pytest
import torch
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from evenhand.cli import app
from evenhand.errors import EvenhandError
from evenhand_federated.checkpoint import write_checkpoint
from evenhand_federated.overview import overview_at
from evenhand_ui import federation_script, watch_cli
from federation_places import admit_by_name, make_coordinator, make_study

RECORD = {
    "round": 1,
    "seconds": 120.0,
    "hospitals": {"north": {"bytes": 2_500_000, "bytes_down": 2_000_000, "last_loss": 0.5}},
    "failed": {"south": "PolicyError"},
    "silent": [],
}


@pytest.fixture
def coordinator(tmp_path, monkeypatch):
    """A coordinator with one study, of which one round of three is done."""
    folder = make_coordinator(tmp_path / "centre")
    admit_by_name(folder)
    study = make_study(folder, tmp_path / "study.toml")
    folder.submit(study)
    arm = folder.arm(study.digest)
    arm.path.mkdir(parents=True, exist_ok=True)
    arm.append_round(RECORD)
    write_checkpoint(arm, 1, {"w": torch.zeros(1)})
    monkeypatch.setenv("EVENHAND_COORDINATOR", str(folder.path))
    return folder


def page():
    """The page, drawn once."""
    return AppTest.from_file(federation_script.__file__, default_timeout=300).run()


def test_it_shows_what_the_terminal_shows(coordinator):
    """Rounds, who was missing and why, losses, bytes; all from one place."""
    drawn = page()
    assert not drawn.exception
    figures = {one.label: one.value for one in drawn.metric}
    assert figures["Rounds"] == "1 of 3"
    assert figures["Sent by hospitals"] == "2.5 MB"
    table = drawn.dataframe[0].value
    assert table["missing"].tolist() == ["south"]
    assert table["last loss"].tolist() == ["north 0.5"]
    told = CliRunner().invoke(app, ["federation", "status", "--folder", str(coordinator.path)])
    assert "south (PolicyError)" in told.stdout
    assert "1 of 3 rounds" in told.stdout


def test_time_left_is_told_while_it_runs(coordinator):
    """Two rounds at 120 s; nothing is told of a study that nobody runs."""
    (study,) = overview_at(coordinator.path).studies
    assert (study.status, study.seconds_left) == ("waiting", None)
    with coordinator.running(study.digest) as free:
        assert free
        (study,) = overview_at(coordinator.path).studies
        assert (study.status, study.seconds_left) == ("running", 240.0)


def test_without_a_coordinator(tmp_path, monkeypatch):
    """One sentence, no path, no trace."""
    monkeypatch.setenv("EVENHAND_COORDINATOR", str(tmp_path / "none"))
    drawn = page()
    assert not drawn.exception
    assert str(tmp_path) not in drawn.error[0].value


def test_the_command_starts_it_on_this_machine_only(coordinator, monkeypatch):
    """The address is told; a folder without a coordinator is refused before anything starts."""
    started = []
    monkeypatch.setattr(watch_cli.os, "execve", lambda *call: started.append(call))
    told = CliRunner().invoke(app, ["watch", "--folder", str(coordinator.path), "--port", "8599"])
    assert told.stdout.strip() == "http://127.0.0.1:8599"
    ((_, command, environment),) = started
    assert "--server.address=127.0.0.1" in command
    assert environment["EVENHAND_COORDINATOR"] == str(coordinator.path)
    refused = CliRunner().invoke(app, ["watch", "--folder", str(coordinator.path / "none")])
    assert isinstance(refused.exception, EvenhandError)
    assert len(started) == 1
