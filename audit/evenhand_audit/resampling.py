"""Bootstrap over patients: one engine for all groups of a report, and the intervals made from it.

A row of values is one patient: a patient's cases are put together before, so they stay together in
every resample. A figure is a ratio of sums over patients; a mean is the ratio whose denominator is
1 for everybody. What is kept of a resample is the figure and its own standard error, by
linearisation, so that intervals can be studentised.

Two ways to draw, chosen by size. A group of up to `EXACT` patients is drawn with replacement at its
own size. In a larger one each patient gets a Poisson(1) weight, the same in every group that the
patient belongs to; a group's size then varies by less than 1 / sqrt(EXACT). Sums under weights are
matrix products, which is what makes 10,000 resamples of 10,000 patients in some 150 groups take
seconds.

Intervals, each for what it is of (measured coverage: docs/results/audit.md):

- **mean of a group**: studentised bootstrap with equal tails (bootstrap-t; Hall 1988; Hesterberg
  2015, arXiv 1411.5279). BCa (Efron 1987) covers nearly the same, and steps in where ties leave the
  other without an end. Rates have no resampled interval: see `evenhand_audit.rates`.
- **median**: order statistics, interpolated (Hettmansperger and Sheather 1986); no resampling.
- **largest gap between groups**: symmetric bootstrap-t, simultaneous over all pairs of groups (the
  maximum of |t|; Romano and Wolf 2005). A percentile interval of max - min could never reach zero,
  and would sell the noise of small groups as unfairness.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "EXACT",
    "LEVEL",
    "Figure",
    "Replicates",
    "bca",
    "bca_interval",
    "closed_interval",
    "gap_interval",
    "generator_for",
    "mean_interval",
    "median_interval",
    "resample_groups",
    "standard_error",
]

LEVEL = 0.95
"""Coverage that every interval aims at."""

EXACT = 64
"""Largest group that is drawn with replacement at its own size."""

CHUNK_CELLS = 4_000_000
"""Patients x resamples held at once, which bounds memory at some tens of MB."""

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure of every patient: `top` and, where it is a rate, `bottom`; each (patients,)."""

    top: Floats
    bottom: Floats | None = None

    def of(self, members: Indices) -> "Figure":
        """The same figure of some of the patients."""
        return Figure(self.top[members], None if self.bottom is None else self.bottom[members])

    @property
    def value(self) -> float:
        """Sum over sum: a mean, or a rate; not a number where a rate has nothing below."""
        below = float(len(self.top)) if self.bottom is None else float(self.bottom.sum())
        return float(self.top.sum()) / below if below else float("nan")

    @property
    def residuals(self) -> Floats:
        """What each patient adds to top beyond the figure, (patients,); exact zeros if constant."""
        if self.bottom is None:
            constant = len(self.top) and np.ptp(self.top) == 0
            return np.zeros(len(self.top)) if constant else self.top - self.value
        return self.top - self.value * self.bottom


@dataclass(frozen=True, eq=False)
class Replicates:
    """What the resamples of one group gave, each (figures, resamples)."""

    values: Singles
    errors: Singles
    """Standard error of the figure, from the resample itself."""


def generator_for(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the names and not on the order of the analysis."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def standard_error(figure: Figure) -> float:
    """Of a mean, or by linearisation of a rate; infinite for one patient."""
    count = len(figure.top)
    if count < 2:
        return float("inf")
    below = count if figure.bottom is None else float(figure.bottom.sum())
    spread = float((figure.residuals**2).sum()) * count / (count - 1)
    return float(np.sqrt(spread)) / below if below else float("inf")


def resample_groups(
    figures: Sequence[Figure],
    groups: Sequence[Indices],
    resamples: int,
    rng: np.random.Generator,
) -> list[Replicates]:
    """Draw patients `resamples` times and compute every figure of every group each time.

    Args:
        figures: of all patients.
        groups: members of each group, as indices of patients; groups may overlap.
        resamples: how many draws.
        rng: the source of randomness.
    """
    patients = len(figures[0].top)
    out = [
        Replicates(*(np.empty((len(figures), resamples), np.float32) for _ in range(2)))
        for _ in groups
    ]
    own = [[figure.of(members) for figure in figures] for members in groups]
    moments = [_moments(mine) for mine in own]
    large = [index for index, members in enumerate(groups) if len(members) > EXACT]
    for index in sorted(set(range(len(groups))) - set(large)):
        for columns, weights in _drawn(len(groups[index]), resamples, rng):
            _summarise(own[index], moments[index], weights, out[index], columns)
    for columns, weights in _weighted(patients, resamples, rng) if large else ():
        for index in large:
            mine = weights[groups[index]]
            _summarise(own[index], moments[index], mine, out[index], columns)
    return out


def _moments(figures: Sequence[Figure]) -> Singles:
    """What is summed over patients: 1, then residual and its square, and for rates three more."""
    rows = [np.ones(len(figures[0].top))]
    for figure in figures:
        rest = figure.residuals
        rows += [rest, rest**2]
        if figure.bottom is not None:
            rows += [figure.bottom, rest * figure.bottom, figure.bottom**2]
    return np.stack(rows).astype(np.float32)


def _drawn(count: int, resamples: int, rng: np.random.Generator) -> Iterator[tuple[slice, Singles]]:
    """How often each of `count` patients is drawn, (count, resamples), in pieces."""
    step = max(1, CHUNK_CELLS // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield slice(start, start + size), times.T.astype(np.float32)


def _weighted(
    count: int, resamples: int, rng: np.random.Generator
) -> Iterator[tuple[slice, Singles]]:
    """Poisson(1) weights of all patients, (count, resamples), in pieces; 16 bits a weight."""
    table = np.zeros(1 << 16, np.float32)
    edges = np.round(stats.poisson.cdf(np.arange(9), 1) * (1 << 16)).astype(int)
    for edge in edges:
        table[edge:] += 1
    step = max(1, CHUNK_CELLS // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        yield (
            slice(start, start + size),
            table[rng.integers(1 << 16, size=(count, size), dtype=np.uint16)],
        )


def _summarise(
    mine: Sequence[Figure],
    moments: Singles,
    weights: Singles,
    out: Replicates,
    columns: slice,
) -> None:
    sums = (moments @ weights).astype(np.float64)  # (moments, resamples)
    count, row = sums[0], 1
    with np.errstate(divide="ignore", invalid="ignore"):
        for index, figure in enumerate(mine):
            rest, squares = sums[row], sums[row + 1]
            if figure.bottom is None:
                below, shift = count, rest / count
                spread = squares - shift * rest
                row += 2
            else:
                below, shift = sums[row + 2], rest / sums[row + 2]
                spread = squares - 2 * shift * sums[row + 3] + shift**2 * sums[row + 4]
                row += 5
            spread = np.where(spread > 1e-6 * squares, spread, 0.0)  # beneath: rounding
            errors = np.sqrt(spread * count / (count - 1)) / below
            out.values[index, columns] = figure.value + shift
            out.errors[index, columns] = errors


def mean_interval(figure: Figure, values: Singles, errors: Singles) -> tuple[float, float]:
    """Studentised bootstrap interval with equal tails of one figure of one group.

    Args:
        figure: of the group's patients.
        values: of the resamples, (resamples,).
        errors: their standard errors, (resamples,).

    Returns:
        The interval; infinite where so few patients say nothing about the spread.
    """
    centre, error = figure.value, standard_error(figure)
    if error == 0:
        return centre, centre
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = (values.astype(np.float64) - centre) / errors
    studentised = studentised[~np.isnan(studentised)]
    if not len(studentised):
        return float("-inf"), float("inf")
    tail = (1 - LEVEL) / 2
    low = float(np.quantile(studentised, tail, method="lower"))
    high = float(np.quantile(studentised, 1 - tail, method="higher"))
    return centre - high * error, centre - low * error


def closed_interval(
    figure: Figure, drawn: tuple[Singles, Singles], bound: float
) -> tuple[float, float]:
    """Interval of a mean inside what is possible, 0 to `bound`.

    Where nearly all patients have the same value, resamples without any spread leave an end open.
    A bounded metric then gets its bound. One without a bound gets the end of the BCa interval, if
    it has five patients or more. `drawn` are values and errors as in `mean_interval`.
    """
    low, high = mean_interval(figure, *drawn)
    if np.isinf(bound) and np.isinf(high) and len(figure.top) >= 5:
        high = bca_interval(figure, drawn[0])[1]
    return max(low, 0.0), min(high, bound)


def bca_interval(figure: Figure, values: Singles) -> tuple[float, float]:
    """BCa interval of one figure of one group; arguments as in `mean_interval`."""
    # The jackknife deviations of a mean, or a linearised rate, are proportional to the residuals.
    return bca(figure.value, values, figure.residuals, len(figure.top), LEVEL)


def bca(
    value: float,
    replicates: Singles | Floats,
    influence: Floats,
    count: int,
    level: float,
) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987) at expanded levels (Hesterberg 2015).

    The normal quantile z is replaced by sqrt(n / (n - 1)) t(n - 1).

    Args:
        value: what was estimated.
        replicates: of the resamples, (resamples,).
        influence: what each patient does to the value, on any scale, (patients,).
        count: patients that the value rests on, n.
        level: of the interval.
    """
    spread = float((influence**2).sum())
    if spread < 1e-24 or count < 2:  # beneath: rounding
        return value, value
    acceleration = float((influence**3).sum()) / (6 * spread**1.5)
    below = np.mean(replicates < value) + np.mean(replicates == value) / 2
    margin = 1 / len(replicates)
    bias = float(stats.norm.ppf(np.clip(below, margin, 1 - margin)))
    reach = float(np.sqrt(count / (count - 1)) * stats.t.ppf((1 + level) / 2, count - 1))
    low, high = (_accelerated(bias, sign * reach, acceleration) for sign in (-1, 1))
    return float(np.quantile(replicates, low)), float(np.quantile(replicates, high))


def _accelerated(bias: float, quantile: float, acceleration: float) -> float:
    """Level of the BCa percentile; at its pole the level is that of the tail itself."""
    shifted = bias + quantile
    denominator = 1 - acceleration * shifted
    if denominator <= 0:
        return float(quantile > 0)
    return float(stats.norm.cdf(bias + shifted / denominator))


def median_interval(values: Floats) -> tuple[float, float]:
    """Interval of a median from order statistics, interpolated between two neighbouring ones.

    With fewer than six patients even the smallest and the largest value hold the median less often
    than 95%; they are given then.
    """
    ordered = np.sort(values)
    count = len(ordered)
    half = count // 2
    # covers(k): probability that the median lies between the k-th from below and from above.
    covers = 1 - 2 * stats.binom.cdf(np.arange(half + 1) - 1, count, 0.5)
    depth = int(np.searchsorted(-covers, -LEVEL, side="right")) - 1
    if depth < 1:
        return float(ordered[0]), float(ordered[-1])
    inner = min(depth + 1, half) if half > depth else depth
    share = 0.0
    if inner > depth:
        excess = (covers[depth] - LEVEL) / (covers[depth] - covers[inner])
        share = (count - depth) * excess / (depth + (count - 2 * depth) * excess)
    low = (1 - share) * ordered[depth - 1] + share * ordered[inner - 1]
    high = (1 - share) * ordered[count - depth] + share * ordered[count - inner]
    return float(low), float(high)


def gap_interval(
    groups: Sequence[Figure], replicates: Sequence[tuple[Singles, Singles]]
) -> tuple[float, float]:
    """Interval of the largest difference between two groups' figures, over all pairs at once.

    Args:
        groups: the figure of each group's patients.
        replicates: values and standard errors of each group's resamples, each (resamples,).

    Returns:
        The interval of highest minus lowest figure. It may reach below zero: then the order of the
        two groups is open. Infinite where so few patients say nothing about the spread.
    """
    values = [group.value for group in groups]
    errors = [standard_error(group) for group in groups]
    shifts = [drawn - value for (drawn, _), value in zip(replicates, values, strict=True)]
    squares = [drawn**2 for _, drawn in replicates]
    largest = np.zeros(len(replicates[0][0]))
    for first, second in combinations(range(len(groups)), 2):
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(shifts[first] - shifts[second]) / np.sqrt(squares[first] + squares[second])
        largest = np.fmax(largest, t)  # fmax skips 0 / 0
    critical = float(np.quantile(largest, LEVEL, method="higher"))
    order = np.argsort(values, kind="stable")  # two groups, also where all are alike
    best, worst = int(order[-1]), int(order[0])
    gap, scale = values[best] - values[worst], float(np.hypot(errors[best], errors[worst]))
    reach = critical * scale if scale > 0 else 0.0
    return gap - reach, gap + reach
