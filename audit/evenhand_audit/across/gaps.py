"""Estimates and gaps of groups of which only the number, a figure and its error are known.

Means have Student's and Welch's intervals and tests; where no group varies at all, the test is the
one of permutations. Rates have the interval of `evenhand_audit.rates`, and their test is that
interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from evenhand_audit.power import detectable_gap
from evenhand_audit.rates import Rate, rate_p_value, rates_gap_interval
from evenhand_audit.records import FAMILY_LEVEL, Estimate, Metric
from evenhand_audit.resampling import LEVEL

__all__ = ["Known", "PooledGap", "gap_of"]


@dataclass(frozen=True)
class PooledGap:
    """The largest gap between two groups."""

    best_group: str
    worst_group: str
    gap: Estimate
    """For all pairs of groups at once (Bonferroni): Welch's, of rates the square-and-add one."""
    p_value: float
    """Of the smallest of all pairs of groups, times their number (Bonferroni)."""
    p_holm: float
    """Corrected for all comparisons of all arms (Holm)."""
    detectable: float
    """True gap between the two groups known worst that would be found in 80% of repeats."""

    @property
    def beyond_chance(self) -> bool:
        """Whether the gap is found, all comparisons considered."""
        return self.p_holm <= FAMILY_LEVEL


@dataclass(frozen=True)
class Known:
    """One metric of one group."""

    name: str
    patients: int
    value: float
    error: float
    """Standard error, with that of noise where there is any."""
    rate: Rate | None
    bound: float
    """Of the metric."""

    def estimate(self) -> Estimate:
        """With Student's interval, of a rate with that of its own, inside what is possible."""
        if self.rate is not None:
            return Estimate(self.value, *self.rate.interval())
        reach = float(stats.t.ppf((1 + LEVEL) / 2, max(self.patients - 1, 1))) * self.error
        low, high = self.value - reach, self.value + reach
        return Estimate(self.value, max(low, 0.0), min(high, self.bound))

    @property
    def planning_error(self) -> float:
        """The standard error to plan with."""
        return self.error if self.rate is None else self.rate.planning_error


def gap_of(known: Sequence[Known], metric: Metric, comparisons: int) -> PooledGap:
    """The largest gap of two groups or more; `comparisons` are those of the whole page."""
    order = sorted(known, key=lambda each: each.value, reverse=metric.higher_is_better)
    best, worst = order[0], order[-1]
    pairs = list(combinations(known, 2))
    p_value = min(1.0, len(pairs) * min(_p_value(*pair) for pair in pairs))
    low, high = _gap_interval(known, best, worst, len(pairs))
    errors = {each.name: each.planning_error for each in known}
    wide = max(pairs, key=lambda pair: float(np.hypot(errors[pair[0].name], errors[pair[1].name])))
    detectable = detectable_gap(
        (errors[wide[0].name], errors[wide[1].name]),
        (wide[0].patients, wide[1].patients),
        FAMILY_LEVEL / len(pairs) / comparisons,
    )
    interval = Estimate(
        abs(best.value - worst.value), max(low, -metric.bound), min(high, metric.bound)
    )
    return PooledGap(
        best.name, worst.name, interval, p_value, p_value, min(detectable, metric.bound)
    )


def _gap_interval(
    known: Sequence[Known], best: Known, worst: Known, pairs: int
) -> tuple[float, float]:
    rates = [each.rate for each in known if each.rate is not None]
    if len(rates) == len(known):
        return rates_gap_interval(rates)
    error, freedom = _welch(best, worst)
    gap, level = abs(best.value - worst.value), 1 - (1 - LEVEL) / pairs
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return gap - reach, gap + reach


def _welch(first: Known, second: Known) -> tuple[float, float]:
    """Standard error of a difference and its degrees of freedom (Welch and Satterthwaite)."""
    variances = first.error**2, second.error**2
    error = float(np.sqrt(sum(variances)))
    if error == 0:
        return 0.0, float("inf")
    parts = variances[0] ** 2 / (first.patients - 1) + variances[1] ** 2 / (second.patients - 1)
    return error, error**4 / parts


def _p_value(first: Known, second: Known) -> float:
    if first.rate is not None and second.rate is not None:
        return rate_p_value(first.rate, second.rate)
    error, freedom = _welch(first, second)
    if error == 0:  # everybody alike in each group: of all deals only this one parts them so
        deals = math.comb(first.patients + second.patients, first.patients)
        return 1.0 if first.value == second.value else min(1.0, 2 / deals)
    return float(2 * stats.t.sf(abs(first.value - second.value) / error, freedom))
