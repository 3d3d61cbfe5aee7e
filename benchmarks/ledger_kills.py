"""Kill processes that charge one ledger, and look whether anything left unpaid.

Usage: python benchmarks/ledger_kills.py [KILLS] [PROCESSES] [SEED]

Expected: "200 kills: ... 0 unpaid, 0 faults"; exit status 1 otherwise.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from ledger_kills import kill_many

# The children charge a ledger and nothing else; no other thread of this process holds a lock then.
warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork")


def main() -> int:
    """Kill, then count."""
    given = [int(word) for word in sys.argv[1:]]
    kills, processes, seed = (*given, *(200, 4, 2026)[len(given) :])
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        after = kill_many(Path(folder), kills=kills, processes=processes, seed=seed, longest_s=0.2)
    seconds = time.monotonic() - started
    print(
        f"{kills} kills of {processes} processes in {seconds:.0f} s: {after.charges} charges, "
        f"{len(after.left)} releases left, {len(after.unpaid)} unpaid, "
        f"{len(after.faults)} faults"
    )
    for fault in after.faults:
        print(fault)
    return 1 if after.faults or after.unpaid else 0


if __name__ == "__main__":
    sys.exit(main())
