"""What several hospitals' sums say together: means, gaps, their intervals and tests.

Means have Student's and Welch's intervals and tests; where no group varies at all, the test is the
one of permutations. Rates have the interval of `evenhand_audit.rates`, and their test is that
interval. How many patients have a lesion is not told, so a lower bound is taken, (sum b)^2 over the
sum of b^2: the same figure where all have as many, else a slightly wider interval.

Groups that any hospital told only together are told together here: one row holds them and what
other hospitals told of them one by one. Every figure is then exactly that of an analysis of all
rows with these groups put together. A hospital that told nothing but one row of an attribute, all
its groups together, is left out of that attribute, and named.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from evenhand.errors import DataError
from evenhand_audit.across.sums import ArmSums, HospitalSums, Row
from evenhand_audit.arms import EVERYBODY
from evenhand_audit.disclosure import POOL
from evenhand_audit.inference import corrected
from evenhand_audit.power import detectable_gap
from evenhand_audit.rates import Rate, rate_p_value, rates_gap_interval
from evenhand_audit.records import FAMILY_LEVEL, METRICS, OPTIONAL_METRICS, Estimate, Metric
from evenhand_audit.resampling import LEVEL

__all__ = ["Pooled", "PooledArm", "PooledAttribute", "PooledGap", "PooledGroup", "pool", "summary"]

HOSPITAL = "hospital"
"""Attribute that comes by itself: each hospital's everybody."""


@dataclass(frozen=True)
class PooledGroup:
    """One group over all hospitals."""

    group: str
    members: tuple[str, ...]
    patients: int
    means: dict[str, Estimate]
    """By metric column; of a rate the sum over the sum."""


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
class PooledAttribute:
    """One attribute over all hospitals."""

    attribute: str
    groups: tuple[PooledGroup, ...]
    gaps: dict[str, PooledGap]
    without: tuple[str, ...]
    """Hospitals that told all their groups of this attribute together only."""


@dataclass(frozen=True)
class PooledArm:
    """One arm and prompt over all hospitals."""

    arm: str
    prompt: str
    overall: PooledGroup
    attributes: tuple[PooledAttribute, ...]


@dataclass(frozen=True)
class Pooled:
    """All hospitals together."""

    hospitals: tuple[str, ...]
    settings: dict[str, Any]
    arms: tuple[PooledArm, ...]
    comparisons: int
    left_out: tuple[str, ...]
    """Arms that not every hospital has."""


def summary(patients: int, moments: Sequence[float]) -> tuple[float, float]:
    """Value and standard error of a mean or rate from its sums, as from the rows themselves.

    Args:
        patients: how many.
        moments: as `evenhand_audit.across.sums.moments_of`.

    Returns:
        The error is infinite for one patient or a rate without anything below.
    """
    if len(moments) == 2:
        value, below = moments[0] / patients, float(patients)
        spread = moments[1] - value * moments[0]
    else:
        top, below, squares, both, bottoms = moments
        if below == 0:
            return float("nan"), float("inf")
        value = top / below
        spread = squares - 2 * value * both + value**2 * bottoms
    if patients < 2:
        return value, float("inf")
    floor = 1e-12 * max(moments[-1], moments[1], 1e-300)  # beneath: rounding
    spread = spread if spread > floor else 0.0
    return value, float(np.sqrt(spread * patients / (patients - 1))) / below


def pool(hospitals: Sequence[HospitalSums]) -> Pooled:
    """Put the sums of several hospitals together.

    Raises:
        DataError: fewer than two hospitals, one twice, or settings that differ.
    """
    names = [each.hospital for each in hospitals]
    if len(names) < 2:
        raise DataError("Sums of two hospitals or more are wanted; name their files.")
    if len(set(names)) < len(names):
        raise DataError("Two files are of the same hospital; name each hospital's once.")
    _check_settings(hospitals)
    keys = [[(arm.arm, arm.prompt) for arm in each.arms] for each in hospitals]
    common = [key for key in keys[0] if all(key in each for each in keys)]
    if not common:
        raise DataError("The hospitals have no arm and prompt in common, so nothing can be pooled.")
    everything = dict.fromkeys(key for each in keys for key in each)
    told = {
        key: {
            each.hospital: next(arm for arm in each.arms if (arm.arm, arm.prompt) == key)
            for each in hospitals
        }
        for key in common
    }
    comparisons = len(_tests([_arm(key, told[key], 1) for key in common]))
    arms = [_arm(key, told[key], comparisons) for key in common]
    return Pooled(
        hospitals=tuple(names),
        settings=hospitals[0].settings,
        arms=_with_holm(arms),
        comparisons=comparisons,
        left_out=tuple(" · ".join(key) for key in everything if key not in common),
    )


def _check_settings(hospitals: Sequence[HospitalSums]) -> None:
    first = hospitals[0]
    for other in hospitals[1:]:
        for key, value in first.settings.items():
            if other.settings.get(key) != value:
                raise DataError(
                    f"{first.hospital} and {other.hospital} differ in {key}, so their sums mean "
                    "different things. Agree on one and sum up again."
                )


def _tests(arms: Sequence[PooledArm]) -> list[float]:
    return [gap.p_value for arm in arms for each in arm.attributes for gap in each.gaps.values()]


def _arm(key: tuple[str, str], told: Mapping[str, ArmSums], comparisons: int) -> PooledArm:
    overall = {name: _everybody(arm) for name, arm in told.items()}
    metrics = [
        each
        for each in (*METRICS, *OPTIONAL_METRICS)
        if all(each.column in row.moments for row in overall.values())
    ]
    attributes = list(
        dict.fromkeys(row.attribute for arm in told.values() for row in arm.rows if row.attribute)
    )
    judge = partial(_attribute, metrics=metrics, comparisons=comparisons)
    found = [judge(HOSPITAL, {name: [row] for name, row in overall.items()}, without=())]
    for attribute in attributes:
        rows = {
            name: [row for row in arm.rows if row.attribute == attribute]
            for name, arm in told.items()
        }
        rows = {name: mine for name, mine in rows.items() if mine}
        without = tuple(name for name, mine in rows.items() if mine[0].group == POOL)
        if len(without) > len(rows) - 2:
            without = ()  # nothing can be compared either way
        kept = [row for name, mine in rows.items() if name not in without for row in mine]
        silent = tuple(name for name in told if name not in rows)
        found.append(judge(attribute, _merged(kept), without=(*without, *silent)))
    everybody = _group(EVERYBODY, (), list(overall.values()), metrics)
    return PooledArm(*key, everybody, tuple(found))


def _everybody(arm: ArmSums) -> Row:
    return next(row for row in arm.rows if not row.attribute)


def _merged(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by group; what any hospital told together is together."""
    together = {name for row in rows if row.group == POOL for name in row.members}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        name = POOL if row.group == POOL or row.group in together else row.group
        groups.setdefault(name, []).append(row)
    return dict(sorted(groups.items(), key=lambda each: (each[0] == POOL, each[0])))


def _group(
    name: str, members: Sequence[str], rows: Sequence[Row], metrics: Sequence[Metric]
) -> PooledGroup:
    patients = sum(row.patients for row in rows)
    means = {metric.column: _known(name, rows, metric).estimate() for metric in metrics}
    return PooledGroup(name, tuple(sorted(set(members))), patients, means)


@dataclass(frozen=True)
class _Known:
    """One metric of one group."""

    name: str
    patients: int
    value: float
    error: float
    rate: Rate | None
    bound: float

    def estimate(self) -> Estimate:
        """With Student's interval, of a rate with that of its own, inside what is possible."""
        if self.rate is not None:
            return Estimate(self.value, *self.rate.interval())
        reach = float(stats.t.ppf((1 + LEVEL) / 2, max(self.patients - 1, 1))) * self.error
        low, high = self.value - reach, self.value + reach
        return Estimate(self.value, max(low, 0.0), min(high, self.bound))

    @property
    def planning_error(self) -> float:
        return self.error if self.rate is None else self.rate.planning_error


def _known(name: str, rows: Sequence[Row], metric: Metric) -> _Known:
    patients, moments = sum(row.patients for row in rows), _added(rows, metric.column)
    value, error = summary(patients, moments)
    rate = None
    if metric.parts is not None and moments[1] > 0:
        rate = Rate(value, error, patients, moments[1], moments[1] ** 2 / moments[4])
    return _Known(name, patients, value, error, rate, metric.bound)


def _added(rows: Sequence[Row], column: str) -> tuple[float, ...]:
    return tuple(float(each) for each in np.sum([row.moments[column] for row in rows], axis=0))


def _attribute(
    attribute: str,
    groups: Mapping[str, Sequence[Row]],
    *,
    metrics: Sequence[Metric],
    comparisons: int,
    without: tuple[str, ...],
) -> PooledAttribute:
    found = tuple(
        _group(name, [each for row in rows for each in row.members], rows, metrics)
        for name, rows in groups.items()
    )
    gaps = {}
    if len(found) > 1:
        for metric in metrics:
            known = [_known(name, rows, metric) for name, rows in groups.items()]
            if all(np.isfinite(each.value) and np.isfinite(each.error) for each in known):
                gaps[metric.column] = _gap(known, metric, comparisons)
    return PooledAttribute(attribute, found, gaps, without)


def _gap(known: Sequence[_Known], metric: Metric, comparisons: int) -> PooledGap:
    """Largest gap of groups."""
    order = sorted(known, key=lambda each: each.value, reverse=metric.higher_is_better)
    best, worst = order[0], order[-1]
    pairs = list(combinations(known, 2))
    p_value = min(1.0, len(pairs) * min(_p_value(*pair) for pair in pairs))
    low, high = _gap_interval(known, best, worst, len(pairs))
    errors = {each.name: each.planning_error for each in known}
    wide = max(pairs, key=lambda pair: math.hypot(*(errors[each.name] for each in pair)))
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
    known: Sequence[_Known], best: _Known, worst: _Known, pairs: int
) -> tuple[float, float]:
    rates = [each.rate for each in known if each.rate is not None]
    if len(rates) == len(known):
        return rates_gap_interval(rates)
    error, freedom = _welch(best, worst)
    gap, level = abs(best.value - worst.value), 1 - (1 - LEVEL) / pairs
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return gap - reach, gap + reach


def _welch(first: _Known, second: _Known) -> tuple[float, float]:
    """Standard error of a difference and its degrees of freedom (Welch and Satterthwaite)."""
    variances = first.error**2, second.error**2
    error = float(np.sqrt(sum(variances)))
    if error == 0:
        return 0.0, float("inf")
    parts = variances[0] ** 2 / (first.patients - 1) + variances[1] ** 2 / (second.patients - 1)
    return error, error**4 / parts


def _p_value(first: _Known, second: _Known) -> float:
    if first.rate is not None and second.rate is not None:
        return rate_p_value(first.rate, second.rate)
    error, freedom = _welch(first, second)
    if error == 0:  # everybody alike in each group: of all deals only this one parts them so
        deals = math.comb(first.patients + second.patients, first.patients)
        return 1.0 if first.value == second.value else min(1.0, 2 / deals)
    return float(2 * stats.t.sf(abs(first.value - second.value) / error, freedom))


def _with_holm(arms: Sequence[PooledArm]) -> tuple[PooledArm, ...]:
    tests = _tests(arms)
    holm = iter(corrected(tests)[0]) if tests else iter(())
    return tuple(
        replace(
            arm,
            attributes=tuple(
                replace(
                    each,
                    gaps={name: replace(gap, p_holm=next(holm)) for name, gap in each.gaps.items()},
                )
                for each in arm.attributes
            ),
        )
        for arm in arms
    )
