"""Limits from the config, held against what was found: pass, warn or fail, each with the reason.

A sample that is too small to rule a failure out does not pass:

- **fail**: the figure is beyond the `fail` limit.
- **warn**: it is beyond the `warn` limit, or within all limits but its 95% interval reaches beyond
  `fail` (beyond `warn` where no `fail` is set).
- **pass**: neither.

The gap between like patients is that of the two groups that lie furthest apart before anything is
held equal; the reason says so. Where it could not be computed, its limit warns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from evenhand.config import Threshold, ThresholdConfig
from evenhand_audit.records import ArmAudit, AttributeAudit, Check, Estimate, number

__all__ = ["checks_of", "judge", "verdict_of"]

Verdict = Literal["pass", "warn", "fail"]

ORDER: tuple[Verdict, ...] = ("pass", "warn", "fail")
"""From good to bad."""


@dataclass(frozen=True)
class _Rule:
    """How one limit's figure is read off an attribute."""

    words: str
    column: str
    lower_is_worse: bool
    read: Callable[[AttributeAudit], Estimate | None]
    missing: Callable[[AttributeAudit], str] = lambda _: ""
    """Why there is no figure, where one was asked for and could not be computed."""
    adds: str = ""
    """A sentence behind every reason."""


def _gap(column: str) -> Callable[[AttributeAudit], Estimate | None]:
    def read(found: AttributeAudit) -> Estimate | None:
        difference = found.difference.get(column)
        return difference.gap if difference else None

    return read


def _adjusted(found: AttributeAudit) -> Estimate | None:
    difference = found.difference.get("dice")
    adjusted = difference.adjusted if difference else None
    if adjusted is None or adjusted.value is None:
        return None
    low, high = float(adjusted.low or 0.0), float(adjusted.high or 0.0)
    if adjusted.value >= 0:
        return Estimate(adjusted.value, max(low, 0.0), high)
    return Estimate(-adjusted.value, max(-high, 0.0), -low)


def _not_adjusted(found: AttributeAudit) -> str:
    difference = found.difference.get("dice")
    adjusted = difference.adjusted if difference else None
    return adjusted.note if adjusted is not None and adjusted.value is None else ""


def _worst(found: AttributeAudit) -> Estimate | None:
    if not found.by_group:
        return None
    return min((row.metrics["dice"].mean for row in found.by_group), key=lambda mean: mean.value)


def _equity(found: AttributeAudit) -> Estimate | None:
    scaled = found.equity_scaled_dice
    return Estimate(scaled.by_sum, scaled.by_sum, scaled.by_sum) if scaled else None


def _skewed(found: AttributeAudit) -> Estimate | None:
    skewed = found.skewed_error_ratio
    return Estimate(skewed.ratio, skewed.ratio, skewed.ratio) if skewed else None


RULES: dict[str, _Rule] = {
    "dice_gap": _Rule("largest gap in mean Dice", "dice", False, _gap("dice")),
    "adjusted_dice_gap": _Rule(
        "gap in Dice between like patients",
        "dice",
        False,
        _adjusted,
        missing=_not_adjusted,
        adds=" It is the gap of the two groups that lie furthest apart before hospital and tumour "
        "size are held equal; other pairs are not held against the limit.",
    ),
    "hd95_gap": _Rule("largest gap in mean HD95", "hd95", False, _gap("hd95")),
    "nsd_gap": _Rule("largest gap in mean NSD", "nsd", False, _gap("nsd")),
    "worst_group_dice": _Rule("mean Dice of the worst group", "dice", True, _worst),
    "equity_scaled_dice": _Rule("equity-scaled Dice (by sum)", "dice", True, _equity),
    "skewed_error_ratio": _Rule("skewed error ratio", "dice", False, _skewed),
    "missed_lesions_gap": _Rule(
        "largest gap in missed lesions", "missed_lesions", False, _gap("missed_lesions")
    ),
    "calibration_gap": _Rule(
        "largest gap in calibration error", "calibration_error", False, _gap("calibration_error")
    ),
}
"""One for each field of `ThresholdConfig`."""


def checks_of(arm: ArmAudit, limits: ThresholdConfig) -> tuple[Check, ...]:
    """Hold one arm against all limits, one check for each limit and attribute or pair."""
    return tuple(
        check
        for name, rule in RULES.items()
        if (limit := getattr(limits, name)) is not None
        for check in _checks(arm, name, rule, limit)
    )


def _checks(arm: ArmAudit, name: str, rule: _Rule, limit: Threshold) -> Iterator[Check]:
    for found in (*arm.attributes, *arm.intersections):
        estimate, why = rule.read(found), rule.missing(found)
        if estimate is None and not why:
            continue
        verdict: Verdict = "warn"
        reason = f"Nothing is ruled out: {why}"
        if estimate is not None:
            verdict, reason = judge(estimate, limit, lower_is_worse=rule.lower_is_worse,
                                    column=rule.column)  # fmt: skip
            reason += rule.adds if len(found.by_group) > 2 else ""
        yield Check(
            limit=name,
            words=rule.words,
            attribute=found.attribute,
            value=None if estimate is None else estimate.value,
            warn=limit.warn,
            fail=limit.fail,
            lower_is_worse=rule.lower_is_worse,
            verdict=verdict,
            reason=reason,
        )


def judge(
    estimate: Estimate, limit: Threshold, *, lower_is_worse: bool, column: str = "dice"
) -> tuple[Verdict, str]:
    """Say pass, warn or fail, and why, of one figure.

    Args:
        estimate: with low = high = value where there is no interval.
        limit: the limits.
        lower_is_worse: which side is bad.
        column: of the metric, for its number of decimals.
    """
    side = "below" if lower_is_worse else "above"

    def beyond(figure: float, bound: float | None) -> bool:
        return bound is not None and (figure < bound if lower_is_worse else figure > bound)

    value = number(estimate.value, column)
    near = estimate.high if lower_is_worse else estimate.low
    if beyond(estimate.value, limit.fail):
        open_ = (
            ""
            if beyond(near, limit.fail)
            else (f" Its 95% interval reaches {number(near, column)}, so chance may have made it.")
        )
        return "fail", f"{value} is {side} the limit of {number(limit.fail or 0.0, column)}.{open_}"
    if beyond(estimate.value, limit.warn):
        return "warn", f"{value} is {side} {number(limit.warn or 0.0, column)}."
    far = estimate.low if lower_is_worse else estimate.high
    outer = limit.fail if limit.fail is not None else limit.warn
    if beyond(far, outer):
        return "warn", (
            f"{value} is within the limits, but its 95% interval reaches {number(far, column)}: "
            f"{side} {number(outer or 0.0, column)} is not ruled out with this sample."
        )
    ruled_out = "" if estimate.low == estimate.high else ", and so is its 95% interval"
    return "pass", f"{value} is within the limits{ruled_out}."


def verdict_of(checks: tuple[Check, ...]) -> Verdict | None:
    """Worst of several checks; None where there is none."""
    return max((check.verdict for check in checks), key=ORDER.index, default=None)
