"""Programs of a node that start warm: what they need is loaded already.

Flower starts a program for every message, and loading Flower, torch and Evenhand takes it two
seconds of processor time. So the node starts one more process beside itself, which loads all of
that once, computes nothing and holds nothing of any message; for each message it forks. What is
forked runs the site guard (`evenhand_federated.site_guard`) as a program that starts cold does,
and ends with its message: nothing of one message is seen by the next.

A program that Flower starts by name is `warm_start`, which asks this process over a socket in
the node's own folder (0700). Where nobody answers, or where Evenhand or Flower was updated since
this process was started, or is just being updated, it starts cold, and the node's output says so.
"""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from evenhand_federated.warm_start import LARGEST, NAME, TAKEN, near

__all__ = ["keep_warm", "wait_for_program"]

_LOADED = (
    "flwr.supernode.cli",
    "flwr.supernode.runtime.run_clientapp",
    "evenhand_federated.hospital_app",
    "evenhand_federated.node",
    "evenhand_federated.site_guard",
)
_UPDATED = (
    "Evenhand, Flower or torch was updated since this node was started: its programs start cold, "
    "some seconds later. Start the node again."
)
_PATIENCE_S = 5.0
"""How long whoever knocks may take to say what it wants."""


def keep_warm(programs: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the process that loads, to end with this one, whatever this one becomes.

    Args:
        programs: the node's folder of programs, where it can be asked.
        environment: of the node.

    Returns:
        The process; it ends when its standard input is closed.
    """
    command = [sys.executable, "-P", "-m", __name__, str(programs)]
    process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
        command, stdin=subprocess.PIPE, env=environment
    )
    if process.stdin is not None:
        # Open for as long as this process is there, also when it becomes another program.
        os.set_inheritable(process.stdin.fileno(), True)
    return process


def wait_for_program(programs: Path) -> list[str] | None:
    """Load, then wait; returns in a process of its own for each program, with what it is to do.

    Returns:
        Name and arguments of a program, in a new process; None, in this one, when whoever started
        it is gone (the other end of the standard input).
    """
    loaded = _versions()
    for name in _LOADED:
        import_module(name)
    gc.collect()
    gc.freeze()  # what is loaded stays where it is, so that processes share it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door, near(programs) as folder:
        (programs / NAME).unlink(missing_ok=True)
        door.bind(f"{folder}/{NAME}")
        door.listen()
        while True:
            ready, _, _ = select.select([door.fileno(), 0], [], [])
            if 0 in ready and not os.read(0, 1):
                return None
            if door.fileno() in ready:
                # Whoever knocks and goes away again, or says rubbish, is not waited for.
                with suppress(OSError, ValueError):
                    words = _forked(door, loaded)
                    if words is not None:
                        return words


def _forked(door: socket.socket, loaded: tuple[str, ...]) -> list[str] | None:
    """Take one request; its words in the new process, None in this one."""
    connection, _ = door.accept()
    with connection:
        connection.settimeout(_PATIENCE_S)
        content, files, _, _ = socket.recv_fds(connection, LARGEST, 2)
        try:
            words = [str(word) for word in json.loads(content)]
            if not loaded or _versions() != loaded:
                print(_UPDATED, file=sys.stderr, flush=True)  # noqa: T201 - the node's own output
                return None
            if threading.active_count() > 1 or len(files) != 2:
                return None
            with warnings.catch_warnings():
                # Of threads: those of NumPy's library for matrices, which ends them before a fork.
                warnings.simplefilter("ignore", DeprecationWarning)
                connection.send(TAKEN)  # who waits no longer starts cold: nothing is forked then
                child = os.fork() == 0
            if child:
                try:
                    _become(files)
                except BaseException:  # noqa: BLE001 - a copy must never wait at the door
                    os._exit(1)
                return words
            return None
        finally:
            for file in files:
                os.close(file)


def _become(files: list[int]) -> None:
    """Turn a fresh copy of the waiting process into one like any other."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in zip((nothing, *files), (0, 1, 2), strict=True):
        os.dup2(here, there)
    os.close(nothing)
    import numpy as np

    np.random.seed()  # noqa: NPY002 - every copy would draw the same numbers from this one


def _versions() -> tuple[str, ...]:
    """Of what is installed at this moment; empty while pip replaces one of it."""
    try:
        return version("evenhand"), version("flwr"), version("torch")
    except PackageNotFoundError:
        return ()


if __name__ == "__main__":
    from evenhand_federated import site_guard

    asked = None
    with suppress(KeyboardInterrupt):
        asked = wait_for_program(Path(sys.argv[1]))
    if asked is not None:
        site_guard.run(asked)
