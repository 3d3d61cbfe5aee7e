"""Bootstrap intervals over patients, at small samples and for a gap that was picked as the largest.

A row of values is one patient: a patient's cases are averaged before, so they stay together in
every resample. Three intervals, each chosen for what it is of:

- **mean of a group**: bias-corrected and accelerated (BCa; Efron 1987) at *expanded* levels
  (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", arXiv 1411.5279): the normal
  quantile z is replaced by sqrt(n / (n - 1)) t(n - 1), because a plain bootstrap of n = 10
  patients is too narrow by both factors.
- **median of a group**: percentile at the same expanded levels; the acceleration of a median is
  not defined.
- **largest gap between group means**: a symmetric bootstrap-t, simultaneous over all pairs of
  groups (the maximum of |t| over pairs; Romano and Wolf 2005). A percentile interval of
  max - min could never reach zero, and would sell the noise of small groups as unfairness.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "LEVEL",
    "Resamples",
    "gap_interval",
    "generator_for",
    "mean_interval",
    "median_interval",
    "resample",
    "shuffled_group_means",
]

LEVEL = 0.95
"""Coverage that every interval aims at."""

CHUNK_CELLS = 4_000_000
"""Resamples x patients held at once, which bounds memory at about 100 MB."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Resamples:
    """Statistics of each resample of one group, each (resamples, metrics)."""

    means: Floats
    medians: Floats
    standard_errors: Floats
    """Of the mean, from the resample itself."""


def generator_for(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the names and not on the order of the analysis."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def resample(values: Floats, resamples: int, rng: np.random.Generator) -> Resamples:
    """Draw patients with replacement, as many as there are, and summarise each draw.

    Args:
        values: (patients, metrics).
        resamples: how many draws.
        rng: the source of randomness.
    """
    count, metrics = values.shape
    out = Resamples(*(np.empty((resamples, metrics)) for _ in range(3)))
    step = max(1, CHUNK_CELLS // (count * metrics))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = values[rng.integers(count, size=(size, count))]  # (size, patients, metrics)
        rows = slice(start, start + size)
        out.means[rows] = drawn.mean(axis=1)
        out.medians[rows] = np.median(drawn, axis=1)
        out.standard_errors[rows] = drawn.std(axis=1, ddof=1) / np.sqrt(count)
    return out


def mean_interval(values: Floats, replicates: Floats) -> tuple[float, float]:
    """BCa interval at expanded levels for the mean of `values` (patients,).

    `replicates` are the means of the resamples (resamples,).
    """
    deviations = values - values.mean()
    spread = float((deviations**2).sum())
    if spread == 0:
        return float(values[0]), float(values[0])
    # The jackknife deviations of a mean are proportional to the values' own.
    acceleration = float((deviations**3).sum()) / (6 * spread**1.5)
    share_below = np.mean(replicates < values.mean()) + np.mean(replicates == values.mean()) / 2
    margin = 1 / len(replicates)
    bias = float(stats.norm.ppf(np.clip(share_below, margin, 1 - margin)))
    low, high = (
        _accelerated(bias, sign * _expanded_quantile(len(values)), acceleration) for sign in (-1, 1)
    )
    return float(np.quantile(replicates, low)), float(np.quantile(replicates, high))


def median_interval(count: int, replicates: Floats) -> tuple[float, float]:
    """Percentile interval at expanded levels for a median of `count` patients."""
    tail = float(stats.norm.cdf(-_expanded_quantile(count)))
    return float(np.quantile(replicates, tail)), float(np.quantile(replicates, 1 - tail))


def gap_interval(
    groups: Sequence[Floats], replicates: Sequence[tuple[Floats, Floats]]
) -> tuple[float, float]:
    """Interval of the largest difference between two group means, over all pairs at once.

    Args:
        groups: values of each group's patients, each (patients,).
        replicates: means and standard errors of each group's resamples, each (resamples,).

    Returns:
        The interval of highest minus lowest mean. It may reach below zero: then the order of the
        two groups is open. Infinite where so few patients say nothing about the spread.
    """
    means = [float(values.mean()) for values in groups]
    errors = [float(values.std(ddof=1)) / np.sqrt(len(values)) for values in groups]
    largest = np.zeros(len(replicates[0][0]))
    for first, second in combinations(range(len(groups)), 2):
        shift = replicates[first][0] - replicates[second][0] - (means[first] - means[second])
        error = np.hypot(replicates[first][1], replicates[second][1])
        with np.errstate(divide="ignore", invalid="ignore"):
            largest = np.fmax(largest, np.abs(shift) / error)  # fmax skips 0 / 0
    critical = float(np.quantile(largest, LEVEL, method="higher"))
    best, worst = int(np.argmax(means)), int(np.argmin(means))
    gap, scale = means[best] - means[worst], float(np.hypot(errors[best], errors[worst]))
    reach = critical * scale if scale > 0 else 0.0
    return gap - reach, gap + reach


def shuffled_group_means(
    values: Floats, sizes: Sequence[int], resamples: int, rng: np.random.Generator
) -> Floats:
    """Group means after dealing the same patients out at random, (resamples, groups).

    What a figure of inequality would be if the attribute meant nothing. Equity-scaled Dice gets
    this range rather than an interval: it is at its bound when groups are equal, and there a
    bootstrap interval misses the truth far more often than it says.

    Args:
        values: of all patients, (patients,).
        sizes: patients of each group, in sum all patients.
        resamples: how many deals.
        rng: the source of randomness.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    out = np.empty((resamples, len(sizes)))
    step = max(1, CHUNK_CELLS // len(values))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        dealt = rng.permuted(np.broadcast_to(values, (size, len(values))), axis=1)
        out[start : start + size] = np.add.reduceat(dealt, starts, axis=1) / np.asarray(sizes)
    return out


def _expanded_quantile(count: int) -> float:
    return float(np.sqrt(count / (count - 1)) * stats.t.ppf((1 + LEVEL) / 2, count - 1))


def _accelerated(bias: float, quantile: float, acceleration: float) -> float:
    """Level of the BCa percentile; at its pole the level is that of the tail itself."""
    shifted = bias + quantile
    denominator = 1 - acceleration * shifted
    if denominator <= 0:
        return float(quantile > 0)
    return float(stats.norm.cdf(bias + shifted / denominator))
