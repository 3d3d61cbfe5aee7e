"""Whether a measure helped: the same patients before and after, by group.

The gap is that between the best and the worst group **before**; it is followed with its sign, so
that a gap which turns round is not sold as one that is left. Intervals are percentiles of a
bootstrap over patients inside their groups, before and after of a patient kept together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import UsageError
from evenhand_audit.records import Estimate, number
from evenhand_audit.resampling import LEVEL

__all__ = ["GroupChange", "Trial", "judge_trial"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GroupChange:
    """Mean Dice of one group before and after."""

    group: str
    patients: int
    before: Estimate
    after: Estimate
    change: Estimate


@dataclass(frozen=True)
class Trial:
    """What a measure did."""

    overall: GroupChange
    groups: tuple[GroupChange, ...]
    best_before: str
    worst_before: str
    gap_before: Estimate
    gap_after: Estimate
    """Of the same two groups, with its sign."""
    gap_change: Estimate
    verdict: str
    """A sentence."""


def judge_trial(
    before: Floats,
    after: Floats,
    groups: Sequence[str],
    *,
    resamples: int,
    rng: np.random.Generator,
) -> Trial:
    """Compare Dice before and after.

    Args:
        before: Dice of each patient, (patients,).
        after: of the same patients.
        groups: one a patient, two or more different.
        resamples: bootstrap draws.
        rng: the source of randomness.

    Raises:
        UsageError: there is one group only.
    """
    labels = np.array(groups, dtype=object)
    names = sorted(set(groups))
    if len(names) < 2:
        raise UsageError("There is one group only, so there is no gap to follow.")
    both = np.stack([before, after], axis=1)  # (patients, 2)
    drawn, means, counts = {}, {}, {}
    for name in names:
        mine = both[labels == name]
        counts[name], means[name] = len(mine), mine.mean(axis=0)
        weights = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=resamples)
        drawn[name] = weights @ mine / len(mine)  # (resamples, 2)
    shares = np.array([counts[name] for name in names]) / len(labels)
    whole = np.einsum("g,grt->rt", shares, np.stack([drawn[name] for name in names]))
    changes = tuple(_change(name, counts[name], means[name], drawn[name]) for name in names)
    overall = _change("everybody", len(labels), both.mean(axis=0), whole)
    order = sorted(names, key=lambda name: means[name][0])
    worst, best = order[0], order[-1]
    gaps, spread = means[best] - means[worst], drawn[best] - drawn[worst]
    moved = _estimate(gaps[1] - gaps[0], spread[:, 1] - spread[:, 0])
    return Trial(
        overall=overall,
        groups=changes,
        best_before=best,
        worst_before=worst,
        gap_before=_estimate(gaps[0], spread[:, 0]),
        gap_after=_estimate(gaps[1], spread[:, 1]),
        gap_change=moved,
        verdict=_verdict(changes, moved, gaps, worst),
    )


def _change(name: str, count: int, means: Floats, drawn: Floats) -> GroupChange:
    return GroupChange(
        name,
        count,
        _estimate(means[0], drawn[:, 0]),
        _estimate(means[1], drawn[:, 1]),
        _estimate(means[1] - means[0], drawn[:, 1] - drawn[:, 0]),
    )


def _estimate(value: float, drawn: Floats) -> Estimate:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def _verdict(changes: Sequence[GroupChange], moved: Estimate, gaps: Floats, worst: str) -> str:
    amount = f"{number(moved.value)} (95% interval {number(moved.low)} to {number(moved.high)})"
    lowered = [each.group for each in changes if each.change.high < 0]
    if len(lowered) == len(changes):
        return f"It lowers every group; the gap changes by {amount}."
    if moved.low <= 0 <= moved.high:
        extra = f" It lowers {', '.join(lowered)}." if lowered else ""
        return f"Whether the gap changes is open: {amount}.{extra}"
    if moved.low > 0:
        return f"The gap grows: {amount}."
    if gaps[1] < -abs(gaps[0]):
        return f"The gap turns round and is larger than before: it changes by {amount}."
    mine = next(each for each in changes if each.group == worst)
    if mine.change.low > 0:
        gain = f"{worst}, the worst group, is served better"
    elif mine.change.value <= 0:
        gain = f"only because others are served worse: {worst} gains nothing"
    else:
        gain = f"whether {worst} is served better is open"
    return f"The gap narrows: {amount}; {gain}."
