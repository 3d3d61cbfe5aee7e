"""How often an audit names a gap where there is none, and how often it finds one that is there.

    python benchmarks/audit_false_alarms.py [--repeats 1000]

1. Twenty attributes of 2 to 4 groups that mean nothing, three correlated metrics, 60 patients: in
   how many audits any of the 60 comparisons counts as found. Wanted: at most 5%.
2. A hospital effect, with women mostly at the worse hospitals and no effect of sex: how often sex
   is named by the plain test, by the test inside hospitals, and by the mixed model.
3. A true gap of the size that the report says it could have found: how often it is found. Wanted:
   about 80%.
"""

import argparse
import time

import numpy as np

from evenhand_audit.inference import corrected, permutation_tests
from evenhand_audit.mixed import Covariates, adjusted_gap
from evenhand_audit.power import detectable_gap
from evenhand_audit.resampling import Figure, standard_error

SEED = 20261124
PATIENTS = 60


def main() -> None:
    """Print the three results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    started = time.perf_counter()
    alone, family, fdr = nothing_there(repeats)
    print(f"20 attributes x 3 metrics without a gap, {repeats} audits: named in {family:.1%}")
    print(f"  by Holm, {fdr:.1%} by Benjamini-Hochberg, {alone:.1%} uncorrected", flush=True)
    fewer = max(repeats // 4, 1)
    plain, inside, mixed = only_hospitals(fewer)
    print(f"hospital effect only, {fewer} audits: sex named in {plain:.1%} by the plain test,")
    print(f"  {inside:.1%} inside hospitals, {mixed:.1%} by the mixed model", flush=True)
    print(f"gap of the detectable size, {fewer} audits: found in {found_again(fewer):.1%}")
    print(f"seed {SEED}, {time.perf_counter() - started:.0f} s")


def nothing_there(repeats: int) -> tuple[float, float, float]:
    """Share of audits with any finding: uncorrected, Holm, Benjamini and Hochberg."""
    rng = np.random.default_rng([SEED, 1])
    counts = np.zeros(3)
    for _ in range(repeats):
        dice = rng.beta(8, 2, PATIENTS)
        figures = [
            Figure(dice),
            Figure(30 * (1 - dice) + rng.gamma(2, 2, PATIENTS)),
            Figure(np.clip(dice + rng.normal(0, 0.05, PATIENTS), 0, 1)),
        ]
        groupings = []
        for number in range(20):
            labels = rng.integers(2 + number % 3, size=PATIENTS)
            groupings.append([np.flatnonzero(labels == each) for each in np.unique(labels)])
        dealt = permutation_tests(figures, groupings, 2400, rng)
        p_values = np.concatenate([each.p_values for each in dealt])
        holm, fdr = corrected(list(p_values))
        counts += [min(each) <= 0.05 for each in (p_values, holm, fdr)]
    alone, family, discoveries = counts / repeats
    return float(alone), float(family), float(discoveries)


def only_hospitals(repeats: int) -> tuple[float, float, float]:
    """Share of audits in which sex is named although only hospitals differ."""
    rng = np.random.default_rng([SEED, 2])
    counts = np.zeros(3)
    for _ in range(repeats):
        hospital = np.arange(80) % 4
        female = rng.random(80) < np.where(hospital < 2, 0.8, 0.2)
        dice = np.clip(rng.beta(9.6, 2.4, 80) - 0.2 * (hospital < 2), 0, 1)
        groups = [np.flatnonzero(female), np.flatnonzero(~female)]
        plain, inside = permutation_tests(
            [Figure(dice)], [groups, groups], 1000, rng, [None, hospital]
        )
        labels = ["F" if each else "M" for each in female]
        names = np.array([f"hospital {each}" for each in hospital], dtype=object)
        held = Covariates(names, np.exp(rng.normal(9, 1, 80)))
        p_value = adjusted_gap(dice, labels, ("M", "F"), held).p_value
        mixed = p_value is not None and p_value <= 0.05
        counts += [plain.p_values[0] <= 0.05, inside.p_values[0] <= 0.05, mixed]
    plain_share, inside_share, mixed_share = counts / repeats
    return float(plain_share), float(inside_share), float(mixed_share)


def found_again(repeats: int) -> float:
    """Share of new samples that find a gap as large as a first sample says it can find."""
    rng = np.random.default_rng([SEED, 3])
    sizes, level, found = (25, 35), 0.05 / 9, 0
    groups = [np.arange(25), np.arange(25, 60)]
    for _ in range(repeats):
        values = rng.beta(9.6, 2.4, 60)
        first, second = (standard_error(Figure(values[group])) for group in groups)
        gap = detectable_gap((first, second), sizes, level)
        again = rng.beta(9.6, 2.4, 60)
        again[groups[0]] -= gap
        p_value = permutation_tests([Figure(again)], [groups], 2000, rng)[0].p_values[0]
        found += p_value <= level
    return found / repeats


if __name__ == "__main__":
    main()
