"""What several hospitals' sums say together: means, gaps, intervals and tests of normal theory.

Groups that any hospital told only together are told together here: one row holds them and what
other hospitals told of them one by one. Every figure is then exactly that of an analysis of all
rows with these groups put together. A hospital that told nothing but one row of an attribute, all
its groups together, is left out of that attribute, and named.
"""

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
    """Welch's interval, for all pairs of groups at once (Bonferroni)."""
    p_value: float
    """Of the largest Welch t, for all pairs of groups (Bonferroni)."""
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
    means = {}
    for metric in metrics:
        value, error = summary(patients, _added(rows, metric.column))
        reach = float(stats.t.ppf((1 + LEVEL) / 2, max(patients - 1, 1))) * error
        means[metric.column] = Estimate(value, value - reach, value + reach)
    return PooledGroup(name, tuple(sorted(set(members))), patients, means)


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
            known = [
                (each.group, each.patients, *summary(each.patients, _added(rows, metric.column)))
                for each, rows in zip(found, groups.values(), strict=True)
            ]
            if all(np.isfinite(each[2]) and np.isfinite(each[3]) for each in known):
                gaps[metric.column] = _gap(known, metric, comparisons)
    return PooledAttribute(attribute, found, gaps, without)


def _gap(
    known: Sequence[tuple[str, int, float, float]], metric: Metric, comparisons: int
) -> PooledGap:
    """Largest gap of groups, each (name, patients, value, error)."""
    order = sorted(known, key=lambda each: each[2], reverse=metric.higher_is_better)
    best, worst = order[0], order[-1]
    pairs = list(combinations(known, 2))
    gap = abs(best[2] - worst[2])
    error, freedom = _welch(best, worst)
    level = 1 - (1 - LEVEL) / len(pairs)
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p_value = min(1.0, len(pairs) * min(_p_value(*pair) for pair in pairs))
    wide = max(pairs, key=lambda pair: _welch(*pair)[0])
    detectable = detectable_gap(
        (wide[0][3], wide[1][3]), (wide[0][1], wide[1][1]), FAMILY_LEVEL / len(pairs) / comparisons
    )
    interval = Estimate(gap, gap - reach, gap + reach)
    return PooledGap(best[0], worst[0], interval, p_value, p_value, min(detectable, metric.bound))


def _welch(
    first: tuple[str, int, float, float], second: tuple[str, int, float, float]
) -> tuple[float, float]:
    """Standard error of a difference and its degrees of freedom (Welch and Satterthwaite)."""
    variances = first[3] ** 2, second[3] ** 2
    error = float(np.sqrt(sum(variances)))
    if error == 0:
        return 0.0, float("inf")
    parts = variances[0] ** 2 / (first[1] - 1) + variances[1] ** 2 / (second[1] - 1)
    return error, error**4 / parts


def _p_value(first: tuple[str, int, float, float], second: tuple[str, int, float, float]) -> float:
    error, freedom = _welch(first, second)
    if error == 0:
        return 1.0 if first[2] == second[2] else 0.0
    return float(2 * stats.t.sf(abs(first[2] - second[2]) / error, freedom))


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
