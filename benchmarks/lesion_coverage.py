"""How often the 95% intervals of lesion figures hold the truth, where lesions cluster in patients.

    python benchmarks/lesion_coverage.py [--repeats 2000] [--resamples 1000]

Two groups of patients, F and M, with one to many lesions each. A patient's own chance that a lesion
is missed is drawn from a beta distribution: `alike` is the correlation of two lesions of one
patient, 0 for independent ones, near 1 where all or none are missed. "More, worse": patients with
more lesions have a larger chance. F miss `GAP` more. False components come as a Poisson number. The
truth comes from 400,000 patients a group. Rates are held by Korn and Graubard's interval, their gap
by square-and-add; the mean of patients' lesion F1, and its gap, by the bootstrap of every mean.
"""

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from audit_coverage import closing, holds, options
from numpy.typing import NDArray

from evenhand_audit.cohort import LESIONS, lesion_f1
from evenhand_audit.rates import rate_gap_interval, rate_interval
from evenhand_audit.resampling import Figure, gap_interval, mean_interval, resample_groups

Floats = NDArray[np.float64]

GAP = 0.1
SEED = 20261125
TRUTH = 400_000


@dataclass(frozen=True)
class Kind:
    """How lesions come and are missed."""

    name: str
    rate: float
    """Chance of a miss among M."""
    alike: float
    extra: float
    """Lesions a patient beyond the first, on average."""
    worse: bool = False


KINDS = (
    Kind("one lesion a patient, 10% missed", 0.1, 0.0, 0.0),
    Kind("3 lesions, 10% missed, independent", 0.1, 0.0, 2.0),
    Kind("3 lesions, 10% missed, alike 0.3", 0.1, 0.3, 2.0),
    Kind("3 lesions, 10% missed, alike 0.7", 0.1, 0.7, 2.0),
    Kind("3 lesions, 30% missed, alike 0.7", 0.3, 0.7, 2.0),
    Kind("6 lesions, 30% missed, alike 0.7", 0.3, 0.7, 5.0),
    Kind("6 lesions, 30% missed, more, worse", 0.3, 0.3, 5.0, worse=True),
)


def main() -> None:
    """Print one Markdown row for each kind and size."""
    asked, started = options(__doc__), time.perf_counter()
    print("| lesions | n a group | missed lesions | their gap | lesion F1 | its gap |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        truths = _truths(kind)
        for count in (15, 40, 200):
            held = _coverage(kind, count, truths, asked.repeats, asked.resamples)
            cells = " | ".join(f"{each:.1%}" for each in held)
            print(f"| {kind.name} | {count} | {cells} |", flush=True)
    print(closing(asked, started, SEED))


def _drawn(kind: Kind, count: int, more: float, rng: np.random.Generator) -> tuple[Figure, Figure]:
    """Missed lesions and lesion F1 of so many patients, who miss `more` than M."""
    lesions = 1 + rng.poisson(kind.extra, count)
    mean = np.full(count, kind.rate + more)
    if kind.worse:
        mean = np.clip(mean * lesions / (1 + kind.extra), 0.02, 0.95)
    chance = mean
    if kind.alike:
        concentration = 1 / kind.alike - 1
        chance = rng.beta(mean * concentration, (1 - mean) * concentration)
    missed = rng.binomial(lesions, chance)
    false = rng.poisson(0.5, count)
    found = lesions - missed
    columns = (lesions, found, found + false, found)
    f1 = lesion_f1(pd.DataFrame(dict(zip(LESIONS, columns, strict=True))))
    return Figure(missed.astype(float), lesions.astype(float)), Figure(f1)


def _truths(kind: Kind) -> tuple[tuple[float, float], tuple[float, float]]:
    """Missed rate of M and F, and mean F1 of M and F."""
    rng = np.random.default_rng([SEED, 0])
    men, women = (_drawn(kind, TRUTH, more, rng) for more in (0.0, GAP))
    return (men[0].value, women[0].value), (men[1].value, women[1].value)


def _coverage(
    kind: Kind,
    count: int,
    truths: tuple[tuple[float, float], tuple[float, float]],
    repeats: int,
    resamples: int,
) -> Floats:
    """Share of repeats in which each of the four intervals holds the truth."""
    rng = np.random.default_rng([SEED, count, KINDS.index(kind)])
    held = np.zeros(4)
    for _ in range(repeats):
        men, women = (_drawn(kind, count, more, rng) for more in (0.0, GAP))
        rates = [men[0], women[0]]
        held[0] += holds(rate_interval(men[0]), truths[0][0])
        held[1] += holds(rate_gap_interval(rates), _signed(rates, truths[0]))
        both = Figure(np.concatenate([men[1].top, women[1].top]))
        members = [np.arange(count), np.arange(count, 2 * count)]
        drawn = resample_groups([both], members, resamples, rng)
        pair = [(each.values[0], each.errors[0]) for each in drawn]
        held[2] += holds(mean_interval(men[1], *pair[0]), truths[1][0])
        held[3] += holds(
            gap_interval([men[1], women[1]], pair), _signed([men[1], women[1]], truths[1])
        )
    return held / repeats


def _signed(figures: list[Figure], truth: tuple[float, float]) -> float:
    """The true highest-minus-lowest gap, negative where the sample has the order turned round."""
    turned = (figures[0].value < figures[1].value) != (truth[0] < truth[1])
    return abs(truth[1] - truth[0]) * (-1 if turned else 1)


if __name__ == "__main__":
    main()
