"""Which patients drive a gap, and whether it is left inside strata of something else.

For whoever holds the rows: single patients are named, and nothing here is suppressed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from evenhand.artifacts import write_atomically
from evenhand.errors import UsageError
from evenhand_audit.resampling import LEVEL

__all__ = ["Gap", "Stratum", "drivers_of", "gap_of", "strata_of", "thirds", "write_why"]

THIRDS = ("smallest third", "middle third", "largest third")
"""Strata of a number."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gap:
    """The best and the worst group of an attribute."""

    best: str
    worst: str
    value: float
    in_best: NDArray[np.bool_]
    in_worst: NDArray[np.bool_]


@dataclass(frozen=True)
class Stratum:
    """The gap among patients who are alike in something."""

    name: str
    best_patients: int
    worst_patients: int
    gap: float
    low: float
    high: float
    """95% interval (Welch)."""


def gap_of(dice: Floats, groups: Sequence[str], minimum: int) -> Gap:
    """Find the two groups that lie furthest apart, among those of `minimum` patients or more.

    Raises:
        UsageError: there are not two.
    """
    labels = np.array(groups, dtype=object)
    means = {
        name: float(dice[labels == name].mean())
        for name in sorted(set(groups))
        if (labels == name).sum() >= minimum
    }
    if len(means) < 2:
        raise UsageError(f"There are not two groups of {minimum} patients or more, so no gap.")
    best, worst = max(means, key=lambda each: means[each]), min(means, key=lambda each: means[each])
    return Gap(best, worst, means[best] - means[worst], labels == best, labels == worst)


def drivers_of(dice: Floats, gap: Gap) -> pd.DataFrame:
    """Patients of the two groups by how much the gap shrinks without them.

    Returns:
        Columns: `position` among all patients, `influence` (positive: drives the gap), and
        `gap_without`, the gap without this patient and all before.
    """
    rows = []
    for members, sign in ((gap.in_worst, -1.0), (gap.in_best, 1.0)):
        where = np.flatnonzero(members)
        others = (dice[where].sum() - dice[where]) / (len(where) - 1)
        rows += [
            (int(place), float(sign * (dice[where].mean() - other)))
            for place, other in zip(where, others, strict=True)
        ]
    table = pd.DataFrame(rows, columns=["position", "influence"])
    table = table.sort_values("influence", ascending=False, kind="stable").reset_index(drop=True)
    best, worst = gap.in_best.copy(), gap.in_worst.copy()
    without = []
    for place in table["position"]:
        best[place] = worst[place] = False
        there = bool(best.any() and worst.any())
        without.append(float(dice[best].mean() - dice[worst].mean()) if there else float("nan"))
    table["gap_without"] = without
    return table


def thirds(values: Floats) -> list[str]:
    """Smallest, middle and largest third."""
    edges = np.quantile(values, [1 / 3, 2 / 3])
    return list(np.array(THIRDS, dtype=object)[np.searchsorted(edges, values, side="left")])


def _rank(stratum: str) -> tuple[int, str]:
    """Thirds by size, others by name."""
    return (THIRDS.index(stratum) if stratum in THIRDS else -1), stratum


def strata_of(
    dice: Floats, gap: Gap, strata: Sequence[str]
) -> tuple[list[Stratum], Stratum | None]:
    """Return the gap in each stratum that holds both groups, and over all of them together.

    The one over all weighs strata by n1 n2 / (n1 + n2), as a linear model with strata would. None
    where no stratum holds two patients of each group.
    """
    labels = np.array(strata, dtype=object)
    found, parts = [], []
    for name in sorted(set(strata), key=_rank):
        here = labels == name
        first, second = dice[gap.in_best & here], dice[gap.in_worst & here]
        if min(len(first), len(second)) < 2:
            continue
        value = float(first.mean() - second.mean())
        variances = [float(each.var(ddof=1)) / len(each) for each in (first, second)]
        reach = _reach(variances, [len(first), len(second)])
        found.append(Stratum(name, len(first), len(second), value, value - reach, value + reach))
        weight = len(first) * len(second) / (len(first) + len(second))
        parts.append((weight, value, sum(variances), len(first), len(second)))
    if not parts:
        return [], None
    return found, _together(np.array(parts))


def _together(parts: Floats) -> Stratum:
    """Return the gap over strata, each row (weight, gap, variance, patients of the two groups)."""
    weights, values, variances, ones, twos = parts.T
    share = weights / weights.sum()
    value, error = float(share @ values), float(np.sqrt(share**2 @ variances))
    freedom = ones.sum() + twos.sum() - 2 * len(parts)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    counts = int(ones.sum()), int(twos.sum())
    return Stratum("held equal", *counts, value, value - reach, value + reach)


def _reach(variances: Sequence[float], counts: Sequence[int]) -> float:
    """Half of Welch's interval."""
    total = sum(variances)
    if total == 0:
        return 0.0
    parts = [each**2 / (count - 1) for each, count in zip(variances, counts, strict=True)]
    return float(stats.t.ppf((1 + LEVEL) / 2, total**2 / sum(parts)) * np.sqrt(total))


def write_why(
    drivers: pd.DataFrame, people: pd.DataFrame, cases: pd.DataFrame, by: str, path: Path
) -> None:
    """Write the patients that drive a gap, with their cases; patient data.

    Args:
        drivers: as `drivers_of`.
        people: one row a patient with `patient`, `dice` and the attribute.
        cases: rows of the prediction table.
        by: the attribute.
        path: of the CSV.

    Raises:
        ResourceError: the file cannot be written.
    """
    chosen = people.iloc[drivers["position"].to_numpy()]
    names = cases.groupby("patient")["case"].agg(" ".join)
    table = pd.DataFrame(
        {
            "patient": chosen["patient"].to_numpy(),
            "cases": names.loc[list(chosen["patient"])].to_numpy(),
            by: chosen[by].to_numpy(),
            "dice": chosen["dice"].round(4).to_numpy(),
            "influence": drivers["influence"].round(5),
            "gap_without": drivers["gap_without"].round(4),
        }
    )
    write_atomically(path, str(table.to_csv(index=False, lineterminator="\n")).encode())
