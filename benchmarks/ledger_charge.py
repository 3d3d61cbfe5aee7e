"""How long a charge to the privacy ledger takes, fsync and head included.

Usage: python benchmarks/ledger_charge.py [CHARGES]

Prints medians of the time on the clock and of the processor's (other programs on the machine
slow the first), and beside them the bare cost of the disk (one fsync) in the same run.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from evenhand.privacy.accounting import Mechanism, epsilon_of
from evenhand.privacy.cohort import Cohort
from evenhand.privacy.ledger import Ledger

PATIENTS, IMAGES = 60, 2
ROUND = Mechanism(sampling_rate=0.2, noise_multiplier=8.0, steps=4)
DELTA = 1e-3


def median_ms(work: Callable[[], object], times: int) -> str:
    """Median of so many runs, milliseconds on the clock and of the processor."""
    clock, processor = [], []
    for _ in range(times):
        started, began = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - started)
        processor.append(time.process_time() - began)
    return (
        f"{1000 * statistics.median(clock):6.1f} ms "
        f"(processor {1000 * statistics.median(processor):.1f} ms)"
    )


def main() -> None:
    """Charge a ledger that fills up, then one whose grant ends at the close bound."""
    charges = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as folder:
        probe = os.open(Path(folder) / "probe", os.O_WRONLY | os.O_CREAT)

        def sync() -> None:
            os.write(probe, b"x")
            os.fsync(probe)

        print(f"one fsync                        {median_ms(sync, 50)}")
        ledger = Ledger(Path(folder) / "a" / "ledger.sqlite", "north")
        ledger.grant(50.0, DELTA)
        people = {f"p{n}": [f"{n}/{image}" for image in range(IMAGES)] for n in range(PATIENTS)}
        cohort = Cohort.of(ledger.key, people)

        def charge() -> None:
            ledger.charge(ROUND, "round", study="benchmark", cohort=cohort)

        first = median_ms(charge, charges // 3)
        median_ms(charge, charges - 2 * (charges // 3))
        last = median_ms(charge, charges // 3)
        print(f"a charge, first third of {charges:4d}     {first}")
        print(f"a charge, last third of {charges:4d}      {last}")
        for count in (12, 48):
            near = Ledger(Path(folder) / str(count) / "ledger.sqlite", "north")
            near.grant(epsilon_of([ROUND] * count, DELTA), DELTA)
            for _ in range(count - 1):
                near.charge(ROUND, "round", cohort=cohort)
            used_up = median_ms(partial(near.charge, ROUND, "round", cohort=cohort), 1)
            print(f"the last of {count} that a grant pays  {used_up}: the close bound decides")


if __name__ == "__main__":
    main()
