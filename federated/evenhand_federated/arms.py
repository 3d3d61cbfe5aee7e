"""Run a federated arm in Flower's simulation runtime, in a process of its own.

The process gets an environment that keeps Flower and Ray from calling home and from
listening on anything but loopback; its output goes to the arm's log.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from typing import Any

from rich.progress import Progress
from safetensors.torch import load_file

from evenhand.errors import FederationError
from evenhand.experiment.layout import ArmFolder, RunFolder
from evenhand.experiment.stages import stepper
from evenhand.model.adapted import AdaptedModel
from evenhand_federated.node import SIMULATION_VARIABLE
from evenhand_federated.server_app import ARM_VARIABLE

__all__ = ["run_federated"]

_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "PYTHONUNBUFFERED": "1",
}
_GRACE_S = 20.0
"""How long a stopped simulation may take to end its workers."""


def run_federated(run: RunFolder, arm: str, model: AdaptedModel, bar: Progress) -> dict[str, Any]:
    """Run what is left of an arm's rounds and load the result into `model`.

    Returns:
        Seconds, bytes moved, rounds, epsilon by hospital (None without privacy).

    Raises:
        FederationError: the rounds could not be finished; says where to read why.
    """
    config = run.config()
    rounds = config.privacy.rounds if arm == "federated-private" else config.federation.rounds
    folder = run.arm(arm)
    if len(_by_round(folder)) < rounds or not folder.checkpoint_path.exists():
        with stepper(bar, f"{arm}: rounds", rounds) as task:
            process = _start(run, arm)
            try:
                while process.poll() is None:
                    bar.update(task, completed=len(_by_round(folder)))
                    time.sleep(0.5)
            finally:
                _end(process)
        if process.returncode != 0:
            raise FederationError(
                f"The arm {arm} ended after {len(_by_round(folder))} of {rounds} rounds: "
                f"{_reason(folder)} The whole log is '{folder.log_path}'; the same command goes "
                "on from the last finished round."
            )
    model.load_adapter(load_file(folder.checkpoint_path))
    return _record(folder)


def _start(run: RunFolder, arm: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **_QUIET,
        # Flower keeps state in its home; each process gets an own, neutral one.
        "FLWR_HOME": tempfile.mkdtemp(prefix="evenhand-flwr-"),
        SIMULATION_VARIABLE: str(run.path.resolve()),
        ARM_VARIABLE: arm,
    }
    with run.arm(arm).log_path.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "evenhand_federated.simulation"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the simulation and all its workers, if it still runs."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _by_round(folder: ArmFolder) -> dict[int, dict[str, Any]]:
    """The last record of each round: one that was cut off is run, and written, again."""
    return {int(str(record["round"])): record for record in folder.read_rounds()}


def _reason(folder: ArmFolder) -> str:
    """The line of the log that says most."""
    with folder.log_path.open(encoding="utf-8", errors="replace") as file:
        lines = deque(file, maxlen=400)
    for line in reversed(lines):
        if "FederationError" in line:
            return line.split("FederationError:", 1)[-1].strip()
    return "the simulation stopped."


def _record(folder: ArmFolder) -> dict[str, Any]:
    records = list(_by_round(folder).values())
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
                }
    return {
        "seconds": sum(record["seconds"] for record in records),
        "bytes_moved": int(moved),
        "rounds": len(records),
        "epsilon": epsilon or None,
    }
