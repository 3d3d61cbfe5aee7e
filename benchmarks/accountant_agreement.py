"""Hold our accountant against Google's `dp-accounting` on 200 random schedules.

Usage: python benchmarks/accountant_agreement.py [FILE]

FILE is the output of `accountant_reference.py`; by default the one that the tests use, made with
200 schedules and seed 0. Prints one line a schedule that differs by more than 1%, and a summary;
exit status 1 where one differs.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from evenhand.privacy.accounting import Mechanism, epsilon_of

STORED = Path(__file__).resolve().parents[1] / "tests" / "unit" / "dp_accounting_epsilons.json"


def main() -> int:
    """Compare, and say where they differ."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else STORED
    reference = json.loads(path.read_text("utf-8"))
    started = time.perf_counter()
    relative = []
    for row in reference["schedules"]:
        mechanism = Mechanism(row["rate"], row["noise"], row["steps"])
        ours = epsilon_of([mechanism], row["delta"])
        relative.append((ours - row["epsilon"]) / row["epsilon"])
        if abs(relative[-1]) > 0.01:
            print(f"{mechanism}, delta {row['delta']:g}: ours {ours:.5f}, "
                  f"theirs {row['epsilon']:.5f}", flush=True)  # fmt: skip
    seconds = time.perf_counter() - started
    size = np.abs(relative)
    print(
        f"{len(size)} schedules against {reference['by']}: {np.sum(size <= 0.01)} within 1%; "
        f"median {np.median(size):.3%}, largest {size.max():.3%}; ours below theirs by at most "
        f"{-min(0.0, *relative):.4%}. {seconds:.0f} s."
    )
    return 1 if (size > 0.01).any() else 0


if __name__ == "__main__":
    sys.exit(main())
