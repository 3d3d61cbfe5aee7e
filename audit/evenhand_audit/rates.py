"""Intervals of rates over patients, such as missed lesions.

A bootstrap knows nothing of what did not happen: where no lesion was missed, no resample misses
one, and its interval has no width. So rates get the interval of Korn and Graubard (1998), which is
Clopper and Pearson's with as many trials as the lesions are worth once those of one patient are
taken together. With one lesion a patient it holds the truth at least as often as it says. Two
rates are compared by the square-and-add method of Newcombe (1998) and of Zou and Donner (2008).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import optimize, stats

from evenhand_audit.resampling import LEVEL, Figure, standard_error

__all__ = [
    "Rate",
    "most_missed",
    "planning_error",
    "rate_gap_interval",
    "rate_interval",
    "rate_p_value",
    "rates_gap_interval",
]

LEAST_P_VALUE = 1e-12
"""Smaller ones are not told apart."""


@dataclass(frozen=True)
class Rate:
    """One rate of one group, from 0 to 1, and what its interval needs."""

    value: float
    error: float
    """Standard error by linearisation."""
    patients: int
    trials: float
    """Lesions."""
    clusters: float
    """Patients with a lesion, or a lower bound of their number."""

    @classmethod
    def of(cls, figure: Figure) -> "Rate":
        """From the patients themselves; some patient has something below."""
        assert figure.bottom is not None  # noqa: S101 - a rate has it
        clusters = float(np.count_nonzero(figure.bottom))
        trials = float(figure.bottom.sum())
        return cls(figure.value, standard_error(figure), len(figure.top), trials, clusters)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Hold the truth with a chance of `level`, at least where each patient has one lesion."""
        trials = self._effective_trials(level)
        events, tail = self.value * trials, (1 - level) / 2
        none, every = self.value <= 0, self.value >= 1
        low = 0.0 if none else float(stats.beta.ppf(tail, events, trials - events + 1))
        high = 1.0 if every else float(stats.beta.ppf(1 - tail, events + 1, trials - events))
        return low, high

    @property
    def planning_error(self) -> float:
        """The standard error to plan with: of a rate of 0 or 1 that of Agresti and Coull."""
        if 0 < self.value < 1:
            return self.error
        trials = self._effective_trials(LEVEL)
        rate = (self.value * trials + 2) / (trials + 4)
        return float(np.sqrt(rate * (1 - rate) / (trials + 4)))

    def _effective_trials(self, level: float) -> float:
        """How many independent lesions carry as much as these, fewer for few patients."""
        rate = self.value
        if not 0 < rate < 1 or not 0 < self.error < np.inf or self.clusters < 2:
            return self.clusters
        variance = self.error**2 * (self.patients - 1) / self.patients
        tail = (1 + level) / 2
        freedom = stats.t.ppf(tail, self.trials - 1) / stats.t.ppf(tail, self.clusters - 1)
        return min(rate * (1 - rate) / variance * float(freedom) ** 2, self.trials)


def most_missed(missed: int, patients: int) -> float:
    """Upper end of Clopper and Pearson's one-sided interval of a share of patients.

    Golden: none of 15 leaves 1 - 0.05^(1/15) = 18.1%.
    """
    return float(stats.beta.ppf(LEVEL, missed + 1, patients - missed)) if missed < patients else 1.0


def rate_interval(figure: Figure) -> tuple[float, float]:
    """Interval of one rate of a group's patients."""
    return Rate.of(figure).interval()


def rate_gap_interval(groups: Sequence[Figure]) -> tuple[float, float]:
    """Interval of highest minus lowest rate of groups of patients, as `rates_gap_interval`."""
    return rates_gap_interval([Rate.of(each) for each in groups])


def rates_gap_interval(groups: Sequence[Rate], level: float = LEVEL) -> tuple[float, float]:
    """Interval of highest minus lowest rate, for all pairs of groups at once (Bonferroni).

    Args:
        groups: two or more.
        level: of the interval.
    """
    pairs = len(list(combinations(groups, 2)))
    order = np.argsort([group.value for group in groups], kind="stable")
    return _difference(groups[order[-1]], groups[order[0]], 1 - (1 - level) / pairs)


def _difference(highest: Rate, lowest: Rate, level: float) -> tuple[float, float]:
    (low_1, high_1), (low_2, high_2) = (each.interval(level) for each in (highest, lowest))
    gap = highest.value - lowest.value
    below = np.hypot(highest.value - low_1, high_2 - lowest.value)
    above = np.hypot(high_1 - highest.value, lowest.value - low_2)
    return gap - float(below), gap + float(above)


def rate_p_value(first: Rate, second: Rate) -> float:
    """Level at which the interval of the difference just reaches 0; 1 where the rates are equal."""
    highest, lowest = sorted((first, second), key=lambda each: each.value, reverse=True)
    if highest.value == lowest.value:
        return 1.0

    def lower_end(exponent: float) -> float:
        return _difference(highest, lowest, -np.expm1(exponent))[0]

    least = float(np.log(LEAST_P_VALUE))
    if lower_end(least) > 0:
        return LEAST_P_VALUE
    if lower_end(-1e-6) < 0:
        return 1.0
    return float(np.exp(optimize.brentq(lower_end, least, -1e-6, xtol=1e-6)))


def planning_error(figure: Figure) -> float:
    """Return the standard error to plan with, of a mean or of a rate."""
    return standard_error(figure) if figure.bottom is None else Rate.of(figure).planning_error
