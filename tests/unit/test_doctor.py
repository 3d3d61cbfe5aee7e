"""The doctor finds what is wrong before the first round, and names the way out."""

import threading
import time

import pytest
from typer.testing import CliRunner

from evenhand.cli import app
from evenhand.model import weights
from evenhand_federated import certificates, doctor
from evenhand_federated.certificates import days_left
from evenhand_federated.doctor import examine_coordinator, examine_hospital
from evenhand_federated.door import Door
from evenhand_federated.serve import free_port
from federation_places import make_coordinator, make_hospital, make_study


@pytest.fixture
def centre(tmp_path):
    """A coordinator on a free port."""
    return make_coordinator(tmp_path / "centre", port=free_port())


@pytest.fixture
def north(tmp_path, centre, tiny_stores, monkeypatch):
    """A hospital with an approved study; its weights are taken for granted."""
    monkeypatch.setattr(doctor, "verify", weights.find)
    own = make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)
    study = make_study(centre, tmp_path / "study.toml")
    own.approve(study, study.digest)
    return own


@pytest.fixture
def served(centre, tmp_path):
    """The coordinator's door, open."""
    door = Door("https://127.0.0.1:1", centre.path / "ca.crt", tmp_path / "door.jsonl")
    port = centre.settings().port
    certificate, key = centre.path / "server.crt", centre.path / "server.key"
    door.start("127.0.0.1", port, certificate=certificate, key=key)
    end = time.monotonic() + 120
    while not door.is_open:
        assert door.is_alive, "the door did not open; was its port taken meanwhile?"
        assert time.monotonic() < end
        time.sleep(0.05)
    yield door
    door.stop()
    for thread in threading.enumerate():
        if "uvicorn" in thread.name:
            thread.join(120)
            assert not thread.is_alive()


def fixes(findings):
    """What is to be done, by what was looked at."""
    return {one.name: one.fix for one in findings if one.fix}


def test_all_is_right(north, served):
    """Reached, verified, in time: nothing to do but to write a policy."""
    found = {one.name: one for one in examine_hospital(north)}
    assert set(fixes(found.values())) <= {"site policy", "disk"}
    assert {"clock", "coordinator", "cases", "versions", "node's key"} <= set(found)
    assert "it is the right one" in found["coordinator"].said
    assert "3 patients of north" in found["cases"].said


def test_nobody_serves(north):
    """The sentence names the port that a firewall may hold back."""
    found = fixes(examine_hospital(north))
    assert "does the firewall let calls to port" in found["coordinator"]


def test_somebody_else_answers(north, served, tmp_path):
    """A door with another authority's certificate is not the coordinator."""
    other = make_coordinator(tmp_path / "other")
    north.authority_path.write_bytes((other.path / "ca.crt").read_bytes())
    assert "somebody stands between" in fixes(examine_hospital(north))["coordinator"]


@pytest.mark.parametrize(("off", "wrong"), [(3600, True), (30, True), (-120, False), (-900, True)])
def test_a_clock_that_is_off(north, served, monkeypatch, off, wrong):
    """Signatures bear the time: ahead by seconds is too much, behind by minutes is not."""
    now = time.time()
    monkeypatch.setattr(doctor.time, "time", lambda: now + off)
    assert ("clock" in fixes(examine_hospital(north))) == wrong


BREAK = {
    "node's key": lambda own: own.key_path.chmod(0o644),
    "authority": lambda own: own.authority_path.write_text("nothing"),
    "message log": lambda own: (own.path / "messages.jsonl").write_text("nothing\n"),
}


@pytest.mark.parametrize("name", BREAK)
def test_what_is_broken_is_named(north, name):
    """And the rest is looked at all the same."""
    BREAK[name](north)
    found = list(examine_hospital(north))
    assert name in fixes(found)
    assert any(one.name.startswith("study") for one in found)


def test_missing_weights(north, monkeypatch, tmp_path):
    """A study whose weights are not there cannot begin."""
    monkeypatch.undo()
    monkeypatch.setenv("EVENHAND_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "no-home"))
    assert any(name.startswith("study") for name in fixes(examine_hospital(north)))


def test_an_altered_study(north):
    """An approved file that was changed since is named."""
    (path,) = (north.path / "approved").glob("*.toml")
    path.write_bytes(path.read_bytes().replace(b"rounds = 3", b"rounds = 9"))
    found = fixes(examine_hospital(north))
    assert "altered" in next(fix for name, fix in found.items() if name.startswith("study"))


def test_a_certificate_that_runs_out(centre, monkeypatch):
    """It is named, and serving again renews it; the authority, which hospitals know, stays."""
    monkeypatch.setattr(certificates, "_SERVER_DAYS", 20)
    certificates.make_server_certificate(centre.path, centre.settings().hosts)
    assert "serve again" in fixes(examine_coordinator(centre))["certificate"]
    monkeypatch.undo()
    before = (centre.path / "ca.crt").read_bytes()
    centre.renew()
    assert days_left(centre.path / "server.crt") > 800
    assert (centre.path / "ca.crt").read_bytes() == before


def test_command(north, served):
    """A table for people, and an exit status for programs."""
    words = ["doctor", "north", "--folder", str(north.path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1, "there is no site policy"
    assert "without it everything is allowed" in result.output
