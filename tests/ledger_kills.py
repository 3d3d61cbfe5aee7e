"""Processes that charge one ledger and are killed at random: for a test and a benchmark."""

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from evenhand.privacy.accounting import Mechanism
from evenhand.privacy.ledger import Ledger
from evenhand.privacy.ledger_check import LedgerCopy

ROUND = Mechanism(sampling_rate=0.05, noise_multiplier=30.0, steps=1)
"""So cheap that thousands fit the grant."""


_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Aftermath:
    """What is left when all are dead.

    Attributes:
        kills: processes that were killed.
        charges: entries in the ledger that pay for something.
        left: positions of the charges whose release left a process.
        unpaid: of these, the ones that the ledger does not know.
        faults: of the ledger, as sentences.
    """

    kills: int
    charges: int
    left: tuple[int, ...]
    unpaid: tuple[int, ...]
    faults: tuple[str, ...]


def _work(folder: Path) -> None:
    """Charge and release for ever, as rounds do: what leaves is a line with the receipt."""
    ledger = Ledger(folder / "ledger.sqlite", "north")
    with (folder / "left").open("a") as out:
        while True:
            receipt = ledger.charge(ROUND, f"process {os.getpid()}")
            # One write of a short line to a file opened for appending is not torn.
            out.write(f"{receipt.position} {receipt.hash}\n")
            out.flush()


def _start(folder: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            _work(folder)
        finally:
            os._exit(1)
    return child


def _wait_for_work(folder: Path) -> None:
    """Wait until something has left: on a crowded machine kills may come before any work."""
    end = time.monotonic() + _PATIENCE_S
    while not (folder / "left").exists() or not (folder / "left").stat().st_size:
        if time.monotonic() > end:
            raise RuntimeError("no process has charged anything")
        time.sleep(0.05)


def kill_many(
    folder: Path, *, kills: int, processes: int, seed: int, longest_s: float
) -> Aftermath:
    """Keep so many processes charging one ledger, and kill one after the other.

    Args:
        folder: empty.
        kills: how many.
        processes: that charge at the same time.
        seed: of the moments.
        longest_s: longest wait before a kill.
    """
    moments = random.Random(seed)
    Ledger(folder / "ledger.sqlite", "north").grant(50.0, 1e-3)
    running = [_start(folder) for _ in range(processes)]
    try:
        for _ in range(kills):
            time.sleep(moments.uniform(0, longest_s))
            victim = running.pop(moments.randrange(len(running)))
            os.kill(victim, signal.SIGKILL)
            _, status = os.waitpid(victim, 0)
            if os.WTERMSIG(status) != signal.SIGKILL:
                raise RuntimeError("a process ended before it was killed")
            running.append(_start(folder))
        _wait_for_work(folder)
    finally:
        for victim in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
    copy = LedgerCopy.read(folder / "ledger.sqlite")
    known = {(entry.position, entry.hash) for entry in copy.entries if entry.kind == "charge"}
    lines = (folder / "left").read_text().splitlines() if (folder / "left").exists() else []
    left = [(int(line.split()[0]), line.split()[1]) for line in lines]
    return Aftermath(
        kills=kills,
        charges=len(known),
        left=tuple(position for position, _ in left),
        unpaid=tuple(position for position, digest in left if (position, digest) not in known),
        faults=tuple(str(fault) for fault in copy.faults()),
    )
