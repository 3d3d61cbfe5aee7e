"""Tests for differences, corrections for many of them, and sizes of effects.

The test is a permutation test: patients are dealt out to the groups anew, and the largest |t| over
pairs of groups (Welch's, so that unequal spread is allowed: Janssen 1997; Chung and Romano 2013)
is compared with the one that was seen. Where asked, patients are dealt out inside their hospital
only, after each hospital's own mean is taken away: a difference between hospitals then makes no
difference between sexes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evenhand_audit.resampling import LEVEL, Figure

__all__ = [
    "Dealt",
    "Effect",
    "cliffs_delta",
    "corrected",
    "permutation_tests",
]

LOOK = 1000
"""Permutations after which a comparison that is far from any finding is settled."""

SETTLED = 100
"""As many of the first `LOOK` at least as extreme as what was seen settle it: p is near 0.1."""

CHUNK_CELLS = 2_000_000
"""Patients x moments x permutations held at once."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Dealt:
    """What dealing patients out by lot gave for one attribute."""

    p_values: Floats
    """Of each figure, (figures,)."""
    values: Floats
    """Figures of the groups in the first deals, (deals, groups, figures)."""


@dataclass(frozen=True)
class Effect:
    """Cliff's delta: how much more often a patient of one group does better than one of another.

    From -1 to 1; 0 is equality.
    """

    delta: float
    low: float
    high: float


def permutation_tests(
    figures: Sequence[Figure],
    groupings: Sequence[Sequence[Indices]],
    permutations: int,
    rng: np.random.Generator,
    strata: Sequence[Indices | None] | None = None,
) -> list[Dealt]:
    """Test every figure for equality over the groups of every grouping.

    Args:
        figures: of all patients.
        groupings: each the members of its groups, which together are all patients.
        permutations: most deals; a comparison that is plainly open after `LOOK` gets no more.
        rng: the source of randomness.
        strata: for each grouping the stratum of each patient, (patients,), or None for none.
    """
    strata = strata or [None] * len(groupings)
    states = [_Test(figures, groups, stratum) for groups, stratum in
              zip(groupings, strata, strict=True)]  # fmt: skip
    patients = len(figures[0].top)
    done = 0
    for limit in (min(LOOK, permutations), permutations):
        for orders in _orders(patients, limit - done, rng, len(figures)):
            running = None
            for state in states:
                if state.settled:
                    continue
                if state.stratified:
                    sums = state.sums(state.dealt(orders))
                else:  # one deal serves all groupings: each reads off its own places
                    if running is None:
                        running = np.cumsum(state.moments[orders], axis=1)
                    sums = state.between(running)
                state.take(sums, keep=done == 0)
        done = limit
        for state in states:
            state.look()
    return [state.result() for state in states]


def _orders(
    patients: int, permutations: int, rng: np.random.Generator, figures: int
) -> Iterator[Indices]:
    step = max(1, CHUNK_CELLS // (patients * (1 + 2 * figures)))
    for start in range(0, permutations, step):
        size = min(step, permutations - start)
        yield rng.permuted(np.broadcast_to(np.arange(patients), (size, patients)), axis=1)


class _Test:
    """One grouping under test."""

    def __init__(
        self,
        figures: Sequence[Figure],
        groups: Sequence[Indices],
        stratum: Indices | None,
    ) -> None:
        self._figures = [_centred(figure, stratum) for figure in figures]
        self.moments = _moments(self._figures)  # (patients, moments)
        self._place = np.concatenate(groups)
        self._stratum = stratum
        self._edges = np.cumsum([0, *(len(group) for group in groups)])
        seen = self.moments[self._place][None]
        self._seen = self._statistics(self.sums(seen))[1][0]
        self._extreme = np.zeros(len(figures), dtype=np.int64)
        self._deals = 0
        self._values: list[Floats] = []
        self.settled = False
        self.stratified = stratum is not None

    def take(self, sums: Floats, *, keep: bool) -> None:
        """Count the deals with these sums of groups, (deals, groups, moments)."""
        values, largest = self._statistics(sums)
        near = self._seen * (1 - 1e-9)  # ties by rounding count as as extreme
        self._extreme += (largest >= near).sum(axis=0)
        self._deals += len(sums)
        if keep:
            self._values.append(values)

    def look(self) -> None:
        """Settle the test if no figure of it can become a finding."""
        self.settled = self.settled or bool((self._extreme >= SETTLED).all())

    def result(self) -> Dealt:
        p_values = (self._extreme + 1) / (self._deals + 1)
        return Dealt(p_values, np.concatenate(self._values))

    def dealt(self, orders: Indices) -> Floats:
        """Moments dealt out inside each stratum, from free orders (deals, patients)."""
        assert self._stratum is not None  # noqa: S101 - for the type checker
        slots = np.argsort(self._stratum[self._place], kind="stable")
        inside = np.argsort(self._stratum[orders], axis=1, kind="stable")
        out = np.empty_like(orders)
        out[:, slots] = np.take_along_axis(orders, inside, axis=1)
        return self.moments[out]

    def sums(self, dealt: Floats) -> Floats:
        """Sums of each group, (deals, groups, moments); groups lie side by side in `dealt`."""
        return self.between(np.cumsum(dealt, axis=1))

    def between(self, running: Floats) -> Floats:
        """The same from running sums."""
        return np.diff(running[:, self._edges[1:] - 1], axis=1, prepend=0.0)

    def _statistics(self, sums: Floats) -> tuple[Floats, Floats]:
        """Figures of the groups, and the largest |t| over pairs, of each deal and figure."""
        values, largest, column = [], [], 1
        count = sums[..., 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            for figure in self._figures:
                top, square = sums[..., column], sums[..., column + 1]
                if figure.bottom is None:
                    below, value = count, top / count
                    spread = square - value * top
                    column += 2
                else:
                    below, value = sums[..., column + 2], top / sums[..., column + 2]
                    cross, squared = sums[..., column + 3], sums[..., column + 4]
                    spread = square - 2 * value * cross + value**2 * squared
                    column += 5
                spread = np.where(spread > 1e-9 * square, spread, 0.0)
                variance = spread * count / (count - 1) / below**2
                values.append(value)
                largest.append(_largest_t(value, variance))
        return np.stack(values, axis=-1), np.stack(largest, axis=-1)


def _centred(figure: Figure, stratum: Indices | None) -> Figure:
    """Shift a mean for exact sums; inside strata, take each stratum's own figure away."""
    if stratum is None:
        if figure.bottom is not None:
            return figure
        return Figure(figure.residuals + 0.0)
    top = figure.top.copy()
    for level in np.unique(stratum):
        mine = np.flatnonzero(stratum == level)
        top[mine] = figure.of(mine).residuals
    return Figure(top, figure.bottom)


def _moments(figures: Sequence[Figure]) -> Floats:
    columns = [np.ones(len(figures[0].top))]
    for figure in figures:
        columns += [figure.top, figure.top**2]
        if figure.bottom is not None:
            columns += [figure.bottom, figure.top * figure.bottom, figure.bottom**2]
    return np.stack(columns, axis=1)


def _largest_t(values: Floats, variances: Floats) -> Floats:
    """Largest |difference| / standard error over pairs of groups; (deals, groups) each."""
    largest = np.zeros(values.shape[:-1])
    for first, second in combinations(range(values.shape[-1]), 2):
        t = np.abs(values[..., first] - values[..., second]) / np.sqrt(
            variances[..., first] + variances[..., second]
        )
        largest = np.fmax(largest, t)  # fmax skips 0 / 0
    return largest


def corrected(p_values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Correct for all tests of a report: Holm's and Benjamini and Hochberg's adjusted p-values.

    Holm bounds the chance of any false finding, whatever the tests have to do with each other.
    Benjamini and Hochberg bound the expected share of false ones among the findings.
    """
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return [], []
    holm, fdr = (multipletests(p_values, method=method)[1] for method in ("holm", "fdr_bh"))
    return [float(p) for p in holm], [float(p) for p in fdr]


def cliffs_delta(first: Floats, second: Floats) -> Effect:
    """Share of pairs in which `first` is larger, less the share in which `second` is.

    Interval: Feng and Cliff (2004), "Monte Carlo evaluation of ordinal d with improved confidence
    interval", Journal of Modern Applied Statistical Methods 3(2).

    Args:
        first: values of one group, (patients,).
        second: of the other, (patients,).
    """
    sizes = len(first), len(second)
    wins = _dominance(first, second)
    losses = _dominance(second, first)
    delta = float(wins.mean())
    if min(sizes) < 2:
        return Effect(delta, -1.0, 1.0)
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, sum(sizes) - 2))
    if abs(delta) == 1:
        fewest = min(sizes)
        reach = (fewest - quantile**2) / (fewest + quantile**2)
        bounds = sorted((delta, delta * max(reach, -1.0)))
        return Effect(delta, bounds[0], bounds[1])
    decided = sum(_decided(first, second)) / (sizes[0] * sizes[1])
    squares = (
        sizes[1] / sizes[0] * ((wins - delta) ** 2).sum()
        + sizes[0] / sizes[1] * ((losses + delta) ** 2).sum()
        - (decided - delta**2)
    ) / ((sizes[0] - 1) * (sizes[1] - 1))
    floor = (1 - delta**2) / (sizes[0] * sizes[1] - 1)
    variance = max(float(squares), floor)
    root = quantile * np.sqrt(variance) * np.sqrt((1 - delta**2) ** 2 + quantile**2 * variance)
    below = 1 - delta**2 + quantile**2 * variance
    low, high = (float((delta - delta**3 + sign * root) / below) for sign in (-1, 1))
    return Effect(delta, max(low, -1.0), min(high, 1.0))


def _dominance(these: Floats, those: Floats) -> Floats:
    """For each of `these`, the share of `those` beneath it less the share above."""
    ordered = np.sort(those)
    beneath = np.searchsorted(ordered, these, side="left")
    above = len(those) - np.searchsorted(ordered, these, side="right")
    shares: Floats = (beneath - above) / len(those)
    return shares


def _decided(first: Floats, second: Floats) -> NDArray[np.intp]:
    """For each of `first`, how many of `second` differ from it."""
    ordered = np.sort(second)
    ties = np.searchsorted(ordered, first, side="right") - np.searchsorted(ordered, first)
    return len(second) - ties
