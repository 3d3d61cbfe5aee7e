"""What several hospitals' noised sums say together, with intervals that know of the noise.

A mean is a noised sum over a noised number. Its error has two parts: that of the patients, from
their spread, and that of the noise, whose deviation each hospital tells. Spread itself is noised,
so its upper 95% bound is taken, and never more than what lies between 0 and 1 can have: intervals
err to the wide side. A group that noise could have made out of nothing is not shown.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from evenhand.errors import DataError
from evenhand_audit.across.gaps import Known, gap_of
from evenhand_audit.across.noised import NOISED_COLUMNS, NoisedGroup, NoisedSums
from evenhand_audit.across.pool import (
    HOSPITAL,
    Pooled,
    PooledArm,
    PooledAttribute,
    PooledGroup,
    check_hospitals,
    tests_of,
    with_holm,
)
from evenhand_audit.arms import EVERYBODY
from evenhand_audit.records import METRICS, Metric

__all__ = ["noised_mean", "pool_noised"]

CERTAIN = 3.0
"""A group's number must be so many deviations of its noise."""

UPPER = 1.645
"""Normal quantile of a one-sided 95% bound."""

Told = Sequence[tuple[NoisedGroup, float]]
"""Groups that are put together, each with the deviation of its noise; 0 on an exact number."""


def noised_mean(
    count: float, sums: tuple[float, float], variance: float, *, exact: bool
) -> tuple[float, float]:
    """Mean of x from sums of y = 2x - 1 and y^2, and its standard error with that of the noise.

    Args:
        count: patients.
        sums: of y and y^2.
        variance: of the noise on each number.
        exact: the count has no noise.
    """
    mean = float(np.clip(sums[0] / count, -1, 1))
    of_count = 0.0 if exact else variance
    noise = (variance + mean**2 * of_count) / count**2
    square = float(np.clip(sums[1] / count, 0, 1))
    of_square = (variance + square**2 * of_count) / count**2
    spread = max(square - mean**2, 0.0) + UPPER * np.sqrt(of_square + 4 * mean**2 * noise)
    spread = min(spread, 1 - mean**2)
    error = np.sqrt(spread / max(count - 1, 1) + noise)
    return (mean + 1) / 2, float(error) / 2


def pool_noised(hospitals: Sequence[NoisedSums]) -> Pooled:
    """Put the noised sums of several hospitals together.

    Raises:
        DataError: fewer than two hospitals, one twice, or settings that differ.
    """
    check_hospitals(hospitals)
    metrics = [each for each in METRICS if each.column in NOISED_COLUMNS]
    keys = [list(dict.fromkeys((g.arm, g.prompt) for g in each.groups)) for each in hospitals]
    common = [key for key in keys[0] if all(key in each for each in keys)]
    if not common:
        raise DataError("The hospitals have no arm and prompt in common, so nothing can be pooled.")
    everything = dict.fromkeys(key for each in keys for key in each)
    draft = [_arm(key, hospitals, metrics, 1) for key in common]
    comparisons = len(tests_of(draft))
    arms = [_arm(key, hospitals, metrics, comparisons) for key in common]
    return Pooled(
        hospitals=tuple(each.hospital for each in hospitals),
        settings=hospitals[0].settings,
        arms=with_holm(arms),
        comparisons=comparisons,
        left_out=tuple(" · ".join(key) for key in everything if key not in common),
        privacy={each.hospital: each.privacy for each in hospitals},
    )


def _arm(
    key: tuple[str, str],
    hospitals: Sequence[NoisedSums],
    metrics: Sequence[Metric],
    comparisons: int,
) -> PooledArm:
    told: dict[str, dict[str, list[tuple[NoisedGroup, float]]]] = {}
    for hospital in hospitals:
        deviation = float(hospital.privacy["deviation"])
        for each in hospital.groups:
            if (each.arm, each.prompt) == key:
                place = told.setdefault(each.attribute, {}).setdefault(each.group, [])
                place.append((each, deviation))
    everybody = told.pop("")[""]
    alone = {hospital.hospital: [each] for hospital, each in zip(hospitals, everybody, strict=True)}
    minimum = int(hospitals[0].settings["minimum_group"])
    found = [_attribute(HOSPITAL, alone, metrics, comparisons, minimum)]
    found += [_attribute(name, each, metrics, comparisons, minimum) for name, each in told.items()]
    overall = _group(EVERYBODY, everybody, metrics)
    return PooledArm(*key, overall, tuple(found))


def _attribute(
    attribute: str,
    groups: Mapping[str, Told],
    metrics: Sequence[Metric],
    comparisons: int,
    minimum: int,
) -> PooledAttribute:
    exact = attribute == HOSPITAL
    shown = {
        name: told
        for name, told in groups.items()
        if exact or _count(told) >= max(minimum, CERTAIN * np.sqrt(_variance(told)))
    }
    gaps = {}
    if len(shown) > 1:
        for metric in metrics:
            known = [_known(name, told, metric, exact=exact) for name, told in shown.items()]
            gaps[metric.column] = gap_of(known, metric, comparisons)
    found = tuple(_group(name, told, metrics, exact=exact) for name, told in shown.items())
    hidden = tuple(name for name in groups if name not in shown)
    return PooledAttribute(attribute, found, gaps, (), hidden)


def _group(name: str, told: Told, metrics: Sequence[Metric], *, exact: bool = True) -> PooledGroup:
    means = {each.column: _known(name, told, each, exact=exact).estimate() for each in metrics}
    return PooledGroup(name, (name,), max(round(_count(told)), 1), means)


def _known(name: str, told: Told, metric: Metric, *, exact: bool) -> Known:
    count = _count(told)
    one, two = np.sum([each.sums[metric.column] for each, _ in told], axis=0)
    value, error = noised_mean(count, (float(one), float(two)), _variance(told), exact=exact)
    return Known(name, max(round(count), 2), value, error, None, metric.bound)


def _count(told: Told) -> float:
    return sum(each.count for each, _ in told)


def _variance(told: Told) -> float:
    return sum(deviation**2 for _, deviation in told)
