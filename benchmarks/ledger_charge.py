"""How long a charge to the privacy ledger takes, fsync and head included.

Usage: python benchmarks/ledger_charge.py [CHARGES]

Prints medians, and beside them the bare cost of the disk (one fsync) in the same run.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from evenhand.privacy.accounting import Mechanism, epsilon_of
from evenhand.privacy.cohort import Cohort
from evenhand.privacy.ledger import Ledger

PATIENTS, IMAGES = 60, 2
ROUND = Mechanism(sampling_rate=0.2, noise_multiplier=8.0, steps=4)
DELTA = 1e-3


def median_ms(work: Callable[[], object], times: int) -> float:
    """Median of so many runs, milliseconds."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def main() -> None:
    """Charge a ledger that fills up, then one whose grant ends at the close bound."""
    charges = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as folder:
        probe = os.open(Path(folder) / "probe", os.O_WRONLY | os.O_CREAT)

        def sync() -> None:
            os.write(probe, b"x")
            os.fsync(probe)

        print(f"one fsync                        {median_ms(sync, 50):6.1f} ms")
        ledger = Ledger(Path(folder) / "a" / "ledger.sqlite", "north")
        ledger.grant(50.0, DELTA)
        people = {f"p{n}": [f"{n}/{image}" for image in range(IMAGES)] for n in range(PATIENTS)}
        cohort = Cohort.of(ledger.key, people)

        def charge() -> None:
            ledger.charge(ROUND, "round", study="benchmark", cohort=cohort)

        first = median_ms(charge, charges // 3)
        median_ms(charge, charges - 2 * (charges // 3))
        last = median_ms(charge, charges // 3)
        print(f"a charge, first third of {charges:4d}     {first:6.1f} ms")
        print(f"a charge, last third of {charges:4d}      {last:6.1f} ms")
        near = Ledger(Path(folder) / "b" / "ledger.sqlite", "north")
        near.grant(epsilon_of([ROUND] * 12, DELTA), DELTA)
        for _ in range(11):
            near.charge(ROUND, "round", cohort=cohort)
        started = time.perf_counter()
        near.charge(ROUND, "round", cohort=cohort)
        slow = 1000 * (time.perf_counter() - started)
        print(f"the charge that uses up a grant  {slow:6.1f} ms (the close bound decides)")


if __name__ == "__main__":
    main()
