"""How long an audit takes: 10,000 cases, 6 attributes with all pairs, 10,000 resamples.

    python benchmarks/audit_speed.py [--cases 10000] [--resamples 10000]

Prints the seconds of the bootstrap alone (every figure of every published group), and of the whole
audit with it: groups made safe, fairlearn's frames, permutation tests, effects and mixed models.
Wanted: under 10 s on two cores.
"""

import argparse
import time

import numpy as np
import pandas as pd

from evenhand.config import AuditConfig
from evenhand_audit.analysis import audit_table
from evenhand_audit.arms import prepare_arm
from evenhand_audit.cohort import figure_of, patients_of
from evenhand_audit.resampling import generator_for, resample_groups
from evenhand_audit.simulate import simulated_rows

ATTRIBUTES = ("hospital", "sex", "age_group", "race", "scanner", "grade")


def main() -> None:
    """Print both times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    asked = parser.parse_args()
    table = pd.DataFrame(simulated_rows(patients=asked.cases, gap=0.02))
    rng = np.random.default_rng(0)
    table["scanner"] = rng.choice(["A", "B", "C"], size=len(table))
    table["grade"] = rng.choice(["2", "3", "4"], size=len(table))
    table["age_years"] = table["age_years"].astype(float)
    config = AuditConfig(attributes=ATTRIBUTES, age_edges=(40, 60), resamples=asked.resamples)
    patients = patients_of(table, config.attributes, config.age_edges)
    arm = prepare_arm(("a", "automatic"), table, patients, config)
    groups = [np.arange(len(patients))]
    groups += [members for each in arm.partitions for members in each.members]
    figures = [figure_of(patients, metric) for metric in arm.metrics]
    clock = Clock()
    resample_groups(figures, groups, asked.resamples, generator_for(0))
    bootstrap = clock.read()
    print(f"{asked.cases} cases, {len(groups)} groups of {len(arm.partitions)} attributes and "
          f"pairs, {len(figures)} metrics, {asked.resamples} resamples")  # fmt: skip
    print(f"bootstrap {bootstrap}", flush=True)
    clock = Clock()
    audit_table(table, config)
    print(f"whole audit {clock.read()}")


class Clock:
    """Seconds of processor time, and on the wall: on a shared machine only the first is ours."""

    def __init__(self) -> None:
        self._started = time.process_time(), time.perf_counter()

    def read(self) -> str:
        """Both since the start."""
        processor, wall = (
            now - then
            for now, then in zip(
                (time.process_time(), time.perf_counter()), self._started, strict=True
            )
        )
        return f"{processor:.1f} s of processor time, {wall:.1f} s on the wall"


if __name__ == "__main__":
    main()
