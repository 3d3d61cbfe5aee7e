"""Intervals of rates over patients, such as missed lesions.

A bootstrap knows nothing of what did not happen: where no lesion was missed, no resample misses
one, and its interval has no width. So rates get the interval of Korn and Graubard (1998), which is
Clopper and Pearson's with as many trials as the lesions are worth once those of one patient are
taken together. With one lesion a patient it holds the truth at least as often as it says. Two
rates are compared by the square-and-add method of Newcombe (1998) and of Zou and Donner (2008).
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import stats

from evenhand_audit.resampling import LEVEL, Figure, standard_error

__all__ = ["planning_error", "rate_gap_interval", "rate_interval"]


def rate_interval(figure: Figure, level: float = LEVEL) -> tuple[float, float]:
    """Interval of one rate.

    Args:
        figure: a rate of a group's patients, from 0 to 1; some patient has something below.
        level: chance with which the interval holds the truth, at least.
    """
    rate, trials = figure.value, _effective_trials(figure, level)
    events, tail = rate * trials, (1 - level) / 2
    low = 0.0 if rate <= 0 else float(stats.beta.ppf(tail, events, trials - events + 1))
    high = 1.0 if rate >= 1 else float(stats.beta.ppf(1 - tail, events + 1, trials - events))
    return low, high


def _effective_trials(figure: Figure, level: float) -> float:
    """How many independent lesions carry as much as these, fewer for few patients."""
    assert figure.bottom is not None  # noqa: S101 - a rate has it
    rate, patients, trials = figure.value, len(figure.top), float(figure.bottom.sum())
    clusters = int(np.count_nonzero(figure.bottom))
    error = standard_error(figure)
    if not 0 < rate < 1 or not 0 < error < np.inf or clusters < 2:
        return float(clusters)
    variance = error**2 * (patients - 1) / patients
    tail = (1 + level) / 2
    freedom = stats.t.ppf(tail, trials - 1) / stats.t.ppf(tail, clusters - 1)
    return min(rate * (1 - rate) / variance * float(freedom) ** 2, trials)


def rate_gap_interval(groups: Sequence[Figure]) -> tuple[float, float]:
    """Interval of highest minus lowest rate, for all pairs of groups at once (Bonferroni).

    Args:
        groups: the rate of each group's patients, two groups or more.
    """
    pairs = len(list(combinations(groups, 2)))
    order = np.argsort([group.value for group in groups], kind="stable")
    lowest, highest = groups[order[0]], groups[order[-1]]
    level = 1 - (1 - LEVEL) / pairs
    (low_1, high_1), (low_2, high_2) = (rate_interval(each, level) for each in (highest, lowest))
    gap = highest.value - lowest.value
    below = np.hypot(highest.value - low_1, high_2 - lowest.value)
    above = np.hypot(high_1 - highest.value, lowest.value - low_2)
    return gap - float(below), gap + float(above)


def planning_error(figure: Figure) -> float:
    """Return the standard error to plan with: of a rate of 0 or 1 that of Agresti and Coull."""
    if figure.bottom is None or 0 < figure.value < 1:
        return standard_error(figure)
    trials = _effective_trials(figure, LEVEL)
    rate = (figure.value * trials + 2) / (trials + 4)
    return float(np.sqrt(rate * (1 - rate) / (trials + 4)))
