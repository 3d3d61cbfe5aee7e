"""What several hospitals' sums say together: means, gaps, their intervals and tests.

Intervals and tests are those of `evenhand_audit.across.gaps`. How many patients have a lesion is
not told, so a lower bound is taken, (sum b)^2 over the sum of b^2: the same figure where all have
as many, else a slightly wider interval.

Groups that any hospital told only together are told together here: one row holds them and what
other hospitals told of them one by one. Every figure is then exactly that of an analysis of all
rows with these groups put together. A hospital that told nothing but one row of an attribute, all
its groups together, is left out of that attribute, and named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from evenhand.errors import DataError
from evenhand_audit.across.gaps import Known, PooledGap, gap_of
from evenhand_audit.across.sums import ArmSums, HospitalSums, Row
from evenhand_audit.arms import EVERYBODY
from evenhand_audit.disclosure import POOL
from evenhand_audit.inference import corrected
from evenhand_audit.rates import Rate
from evenhand_audit.records import METRICS, OPTIONAL_METRICS, Estimate, Metric

__all__ = [
    "HOSPITAL",
    "Pooled",
    "PooledArm",
    "PooledAttribute",
    "PooledGroup",
    "check_hospitals",
    "pool",
    "summary",
    "tests_of",
    "with_holm",
]

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
class PooledAttribute:
    """One attribute over all hospitals."""

    attribute: str
    groups: tuple[PooledGroup, ...]
    gaps: dict[str, PooledGap]
    without: tuple[str, ...]
    """Hospitals that told all their groups of this attribute together only."""
    too_noisy: tuple[str, ...] = ()
    """Groups that are not shown, since noise alone could have made them."""


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
    privacy: dict[str, dict[str, Any]] | None = None
    """By hospital what was spent and the noise; None where sums are exact."""


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
    check_hospitals(hospitals)
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
    comparisons = len(tests_of([_arm(key, told[key], 1) for key in common]))
    arms = [_arm(key, told[key], comparisons) for key in common]
    return Pooled(
        hospitals=tuple(each.hospital for each in hospitals),
        settings=hospitals[0].settings,
        arms=with_holm(arms),
        comparisons=comparisons,
        left_out=tuple(" · ".join(key) for key in everything if key not in common),
    )


class _Told(Protocol):
    """What one hospital told, exact or noised."""

    @property
    def hospital(self) -> str: ...
    @property
    def settings(self) -> dict[str, Any]: ...


def check_hospitals(hospitals: Sequence[_Told]) -> None:
    """Refuse fewer than two hospitals, one twice, and settings that differ.

    Raises:
        DataError: with what is wrong.
    """
    names = [each.hospital for each in hospitals]
    if len(names) < 2:
        raise DataError("Sums of two hospitals or more are wanted; name their files.")
    if len(set(names)) < len(names):
        raise DataError("Two files are of the same hospital; name each hospital's once.")
    first = hospitals[0]
    for other in hospitals[1:]:
        for key, value in first.settings.items():
            if other.settings.get(key) != value:
                raise DataError(
                    f"{first.hospital} and {other.hospital} differ in {key}, so their sums mean "
                    "different things. Agree on one and sum up again."
                )


def tests_of(arms: Sequence[PooledArm]) -> list[float]:
    """Return the p-values of all comparisons, in order."""
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
    blocks: list[tuple[set[str], list[Row]]] = []
    for row in rows:
        touching = [each for each in blocks if each[0] & {*row.members}]
        blocks = [each for each in blocks if not each[0] & {*row.members}]
        members = set(row.members).union(*(each[0] for each in touching))
        blocks.append((members, [*(one for each in touching for one in each[1]), row]))
    several = [members for members, _ in blocks if len(members) > 1]
    named: dict[str, list[Row]] = {}
    for members, block in sorted(blocks, key=lambda each: (len(each[0]) > 1, sorted(each[0]))):
        names = {row.group for row in block}
        name = names.pop() if len(names) == 1 else POOL
        taken = name in named or (name == POOL and len(several) > 1)
        named[" or ".join(sorted(members)) if taken else name] = block
    return named


def _group(
    name: str, members: Sequence[str], rows: Sequence[Row], metrics: Sequence[Metric]
) -> PooledGroup:
    patients = sum(row.patients for row in rows)
    means = {metric.column: _known(name, rows, metric).estimate() for metric in metrics}
    return PooledGroup(name, tuple(sorted(set(members))), patients, means)


def _known(name: str, rows: Sequence[Row], metric: Metric) -> Known:
    patients, moments = sum(row.patients for row in rows), _added(rows, metric.column)
    value, error = summary(patients, moments)
    rate = None
    if metric.parts is not None and moments[1] > 0:
        rate = Rate(value, error, patients, moments[1], moments[1] ** 2 / moments[4])
    return Known(name, patients, value, error, rate, metric.bound)


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
                gaps[metric.column] = gap_of(known, metric, comparisons)
    return PooledAttribute(attribute, found, gaps, without)


def with_holm(arms: Sequence[PooledArm]) -> tuple[PooledArm, ...]:
    """Correct all p-values together."""
    tests = tests_of(arms)
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
