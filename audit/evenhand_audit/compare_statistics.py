"""How far a mean has moved between two tables whose patients are the same, others, or partly so.

One estimator serves all three: the mean after minus the mean before, over each table's own
patients. Its interval comes from drawing **patients** with replacement from everybody in either
table: a patient who is in both brings both values along, so that what the two have in common
cancels (a paired comparison); patients of one table only bring the one value (an unpaired one).

Intervals are BCa (Efron 1987) with the levels widened for small samples by sqrt(n / (n - 1)) and
Student's t (Hesterberg 2015), n being the smaller of the two tables' patients.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenhand_audit.resampling import bca

__all__ = ["Moved", "change_of_means"]

CHUNK_CELLS = 4_000_000
"""Resamples x patients held at once, which bounds memory at about 100 MB."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moved:
    """A change of a mean, with its intervals at both levels."""

    value: float
    interval: tuple[float, float]
    simultaneous: tuple[float, float]


def change_of_means(
    before: Floats,
    after: Floats,
    *,
    resamples: int,
    level: float,
    simultaneous_level: float,
    rng: np.random.Generator,
) -> Moved:
    """Mean after minus mean before.

    Args:
        before: (patients,), NaN where a patient is not in the first table.
        after: the same patients, NaN where one is not in the second table.
        resamples: bootstrap draws.
        level: of the interval.
        simultaneous_level: of the wider one that holds over all comparisons together.
        rng: the source of randomness.
    """
    value = float(np.nanmean(after) - np.nanmean(before))
    replicates = _replicates(before, after, resamples, rng)
    influence = _influence(after) - _influence(before)
    count = int(min((~np.isnan(before)).sum(), (~np.isnan(after)).sum()))
    return Moved(
        value,
        bca(value, replicates, influence, count, level),
        bca(value, replicates, influence, count, simultaneous_level),
    )


def _influence(values: Floats) -> Floats:
    """What each patient does to the mean; 0 for who is not in it."""
    here = ~np.isnan(values)
    influence: Floats = np.where(here, values - np.nanmean(values), 0.0) / here.sum()
    return influence


def _replicates(before: Floats, after: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Changes in resamples of the patients; a draw without anybody of a table is drawn again."""
    here = [(~np.isnan(values)).astype(np.float64) for values in (before, after)]
    filled = [np.nan_to_num(values) for values in (before, after)]
    stack = np.stack([filled[0], here[0], filled[1], here[1]], axis=1)  # (patients, 4)
    patients = len(before)
    step = max(1, CHUNK_CELLS // patients)
    kept: list[Floats] = []
    while sum(map(len, kept)) < resamples:
        size = min(step, resamples)
        weights = rng.multinomial(patients, np.full(patients, 1 / patients), size=size)
        sums = weights @ stack  # (size, 4)
        full = (sums[:, 1] > 0) & (sums[:, 3] > 0)
        sums = sums[full]
        kept.append(sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1])
    replicates: Floats = np.concatenate(kept)[:resamples]
    return replicates
