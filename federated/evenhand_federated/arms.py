"""Run a federated arm in Flower's simulation runtime, in a process of its own.

The process gets an environment that keeps Flower and Ray from calling home and from
listening on anything but loopback; its output goes to the arm's log.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.progress import Progress

from evenhand.errors import FederationError
from evenhand.experiment.layout import ArmFolder, RunFolder
from evenhand.experiment.stages import stepper
from evenhand.model.adapted import AdaptedModel
from evenhand.privacy.secure_sum import require_trust
from evenhand_federated.checkpoint import finished_rounds, read_checkpoint
from evenhand_federated.flower import QUIET
from evenhand_federated.orders import ARM_VARIABLE, RAY_VARIABLE, SIMULATION_VARIABLE, rounds_of

__all__ = ["run_federated"]

_COMMAND = (sys.executable, "-m", "evenhand_federated.simulation")
_QUIET = {
    **QUIET,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # Off Linux Ray stays on loopback by itself; here it listens to all networks unless told that
    # there is no cluster. An address given to ray.init does not change that (ray 2.55).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # What Ray announces as its next default, in a warning at each start.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_GRACE_S = 5.0
"""How long a stopped simulation may take to end its workers; nothing is lost without it."""
_LONGEST_RAY_FOLDER = 40
"""Ray puts sockets under its folder, and a socket's path has at most 107 characters."""
_POLL_S = 0.5
_OUR_ERROR = re.compile(r"evenhand\.errors\.\w+: (.*)")
_ANY_ERROR = re.compile(r"^[\w.]*(?:Error|Exception): (.*)", re.MULTILINE)
_SLOW_START = "timed out during startup"
"""What Ray says when its processes do not come up within 30 s, which a busy machine may need."""
_STARTS = 3
"""How often such a start is tried."""


def run_federated(run: RunFolder, arm: str, model: AdaptedModel, bar: Progress) -> dict[str, Any]:
    """Run what is left of an arm's rounds and load the result into `model`.

    Returns:
        Seconds, bytes moved, rounds (finished and planned), epsilon by hospital (None
        without privacy).

    Raises:
        FederationError: the rounds could not be finished; says where to read why.
    """
    rounds = rounds_of(run.config(), arm)
    folder = run.arm(arm)
    if finished_rounds(folder) < rounds:
        _simulate(run, arm, rounds, bar)
    done, state = read_checkpoint(folder)
    if state is None:
        raise FederationError(f"The arm {arm} left no adapter; read '{folder.log_path}'.")
    # What stays at hospitals is as it was at the start; each of them predicts with its own.
    model.load_adapter({**model.adapter_state(), **state})
    privacy = run.config().privacy
    trust = require_trust(privacy.trust, run.together(), privacy.tolerated)
    return _record(folder, done, rounds, trust)


def _simulate(run: RunFolder, arm: str, rounds: int, bar: Progress) -> None:
    folder = run.arm(arm)
    log = ""
    with stepper(bar, f"{arm}: rounds", rounds) as task:
        for _ in range(_STARTS):
            process, log = _run_once(run, arm, lambda done: bar.update(task, completed=done))
            if process.returncode == 0:
                return
            if _SLOW_START not in log:
                break
        raise FederationError(
            f"The arm {arm} ended after {finished_rounds(folder)} of {rounds} rounds: "
            f"{_reason(log)} The whole log is '{folder.log_path}'; the same command goes on from "
            "the last finished round."
        )


def _run_once(
    run: RunFolder, arm: str, show: Callable[[int], None]
) -> tuple[subprocess.Popen[bytes], str]:
    """Run a simulation to its end, good or bad; return it with its part of the log."""
    folder = run.arm(arm)
    log_start = folder.log_path.stat().st_size if folder.log_path.exists() else 0
    with tempfile.TemporaryDirectory(prefix="evenhand-", ignore_cleanup_errors=True) as scratch:
        process = _start(run, arm, Path(scratch))
        try:
            while process.poll() is None:
                show(finished_rounds(folder))
                time.sleep(_POLL_S)
        finally:
            _end(process)
    with folder.log_path.open("rb") as file:
        file.seek(log_start)
        return process, file.read().decode(errors="replace")


def _start(run: RunFolder, arm: str, scratch: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **_QUIET,
        # Flower and Ray keep state in folders; each simulation gets its own, removed after it.
        "FLWR_HOME": str(scratch / "flwr"),
        SIMULATION_VARIABLE: str(run.path.resolve()),
        ARM_VARIABLE: arm,
    }
    if len(str(scratch)) <= _LONGEST_RAY_FOLDER:
        environment[RAY_VARIABLE] = str(scratch)
    with run.arm(arm).log_path.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own module, no shell
            _COMMAND,
            env=environment,
            stdin=subprocess.PIPE,  # closed when this process is gone, however it went
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the simulation and all that it has started, which is in its process group."""
    try:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
    finally:  # after a crash, and when a second Ctrl-C comes while waiting
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _reason(log: str) -> str:
    """Our own last error in a log, or else the first one of anybody: later ones follow from it."""
    if ours := _OUR_ERROR.findall(log):
        return str(ours[-1]).strip()
    first = _ANY_ERROR.search(log)
    return first.group(1).strip() if first else "the simulation stopped."


def _record(folder: ArmFolder, done: int, planned: int, trust: str) -> dict[str, Any]:
    # The last record of each round counts: one that failed was run, and written, again.
    by_round = {int(str(record["round"])): record for record in folder.read_rounds()}
    records: list[dict[str, Any]] = [by_round[number] for number in sorted(by_round)]
    epsilon: dict[str, dict[str, Any]] = {}
    moved = 0
    for record in records:
        for name, figures in record["hospitals"].items():
            moved += figures["bytes"] + figures["bytes_down"]
            if "epsilon" in figures:
                epsilon[name] = {
                    "epsilon": figures["epsilon"],
                    "delta": figures["delta"],
                    "unit": "patient",
                    "accountant": "PRV",
                    "trust": trust,
                }
    return {
        "seconds": sum(record["seconds"] for record in records),
        "bytes_moved": int(moved),
        "rounds": done,
        "rounds_planned": planned,
        "epsilon": epsilon or None,
    }
