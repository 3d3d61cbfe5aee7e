"""A program that starts warm is the same program, guarded the same; else it starts cold."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError

import pytest
from flwr.supernode.runtime import run_clientapp

from evenhand_federated import site_guard, warm, warm_start
from evenhand_federated.hospital import NODE_VARIABLE
from federation_places import make_coordinator, make_hospital

LIMIT_S = 240


def until(there):
    """Wait for something, not without end."""
    end = time.monotonic() + LIMIT_S
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def north(tmp_path, tiny_stores):
    """Hospital north, and what its node may start."""
    own = make_hospital(
        tmp_path / "north", make_coordinator(tmp_path / "centre"), tiny_stores["north"].path
    )
    site_guard.write_programs(own)
    return own


@pytest.fixture
def started_cold(monkeypatch):
    """What is started cold, which is not done here."""
    started = []
    monkeypatch.setattr(warm_start.os, "execv", lambda _, words: started.append(words))
    return started


def knock(programs, content):
    """Ask the warm process for something by hand; returns its answer."""
    with (
        warm_start.near(programs) as short,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link,
    ):
        link.connect(f"{short}/{warm_start.NAME}")
        link.send(content)
        return link.recv(1)


def is_there(programs):
    """Whether a warm process can be asked."""
    try:
        return knock(programs, b"rubbish") == b""
    except OSError:
        return False


def test_a_program_starts_warm(north, started_cold, capfd):
    """Under the guard, with the output of whoever started it; it ends with its node."""
    programs, said = north.programs_path, []
    process = warm.keep_warm(programs, os.environ | {NODE_VARIABLE: str(north.path)})
    try:
        until(lambda: is_there(programs))
        for _ in range(2):
            warm_start.start(str(programs), ["flwr-agentapp", "--token", "t"])

        def both_refused():
            said.append(capfd.readouterr().err)
            return "".join(said).count("flwr-agentapp is not run at a hospital") == 2

        until(both_refused)
    finally:
        process.stdin.close()
        process.wait(LIMIT_S)
    assert started_cold == []
    assert [entry.kind for entry in north.messages().entries()] == ["refused"] * 2


def test_nobody_answers(north, started_cold):
    """Before the warm process has loaded, or when it is gone, a program starts as ever."""
    warm_start.start(str(north.programs_path), ["flwr-clientapp", "--token", "t"])
    (words,) = started_cold
    assert words[-3:] == ["flwr-clientapp", "--token", "t"]
    assert words[-4] == site_guard.__name__


@pytest.mark.parametrize(
    ("content", "loaded"), [(b'["flwr-clientapp"]', ("old",)), (b"rubbish", None), (b"[]", None)]
)
def test_not_taken(tmp_path, content, loaded):
    """What was loaded before an update is not run; nor is what comes without outputs."""
    refused(tmp_path, content, loaded or warm._versions())


@pytest.mark.parametrize("when", ["loaded before", "loaded meanwhile"])
def test_while_pip_replaces_a_package(tmp_path, monkeypatch, capfd, when):
    """The process that waits goes on, nothing is forked, and the node's output says why."""
    loaded = warm._versions()

    def gone(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(warm, "version", gone)
    if when == "loaded meanwhile":
        loaded = warm._versions()
    refused(tmp_path, b'["flwr-clientapp"]', loaded)
    assert "Start the node again" in capfd.readouterr().err


def test_the_guard_looks_at_the_flower_that_is_loaded(monkeypatch):
    """A program that was forked does not end because pip has just taken a package away."""
    ran = []
    monkeypatch.setattr("importlib.metadata.Distribution.from_name", None)
    monkeypatch.setattr("flwr.supernode.cli.flwr_clientapp", lambda: ran.append(sys.argv))
    monkeypatch.setattr(run_clientapp, "install_from_fab", run_clientapp.install_from_fab)
    monkeypatch.setattr(sys, "argv", [])
    site_guard.run(["flwr-clientapp", "--token", "t"])
    assert ran == [["flwr-clientapp", "--token", "t"]]


def refused(tmp_path, content, loaded):
    """Assert that the warm process takes no request, and says so to whoever asks."""
    folder = tmp_path / "programs"
    folder.mkdir()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door,
        warm_start.near(folder) as short,
        ThreadPoolExecutor(1) as threads,
    ):
        door.bind(f"{short}/{warm_start.NAME}")
        door.listen()
        answer = threads.submit(knock, folder, content)
        with suppress(ValueError):
            assert warm._forked(door, loaded) is None
        assert answer.result(timeout=LIMIT_S) == b""


def test_a_client_program_asks_for_the_warm_process(north):
    """The wrapper that Flower finds by name; no other program needs to be quick."""
    for path in north.programs_path.iterdir():
        starts_warm = warm_start.__file__ in path.read_text()
        assert starts_warm == (path.name == site_guard.CLIENT_PROGRAM)


def test_no_two_programs_draw_the_same():
    """Copies of one process would go on with the same random numbers."""
    code = """
import os, numpy as np
from evenhand_federated.warm import _become
np.random.random()
for _ in range(2):
    if os.fork() == 0:
        _become([os.dup(1), os.dup(2)])
        print(np.random.random(), flush=True)
        os._exit(0)
    os.wait()
"""
    run = [sys.executable, "-P", "-c", code]
    drawn = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert len(set(drawn)) == 2
