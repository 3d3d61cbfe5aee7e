"""What an audit found, in sentences for a clinician. Numbers keep their intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

from evenhand_audit.disclosure import POOL
from evenhand_audit.records import METRICS, ArmAudit, AttributeAudit, Audit, Difference, GroupAudit

__all__ = [
    "UNKNOWN_FIGURE",
    "Finding",
    "arm_name",
    "attribute_name",
    "finding_of",
    "headline_arm",
    "number",
]

MINUS = "\N{MINUS SIGN}"
"""Minus as print sets it: as wide as a digit."""

UNKNOWN_FIGURE = "\N{EN DASH}"
"""What stands in a table where a figure is not known."""

PREFERRED_ARMS = ("federated", "federated-private", "pooled")
"""Whose finding leads page one; else the first arm of the table. A fixed order, not the result."""


@dataclass(frozen=True)
class Finding:
    """One arm's largest gap in Dice, said plainly."""

    arm: str
    attribute: str
    difference: Difference
    sentence: str
    sureness: str
    agreement: str


def number(value: float, column: str = "dice") -> str:
    """Write a figure as tables do: shares with three decimals, distances with one."""
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:.1f}" if column == "hd95" else f"{value:.3f}"
    return text.replace("-", MINUS)


def arm_name(arm: ArmAudit) -> str:
    """Arm and prompt, as every table and plot names them."""
    return f"{arm.arm} · {arm.prompt}"


def attribute_name(attribute: str) -> str:
    """`age_group` as a person writes it."""
    return attribute.replace("_", " ")


def headline_arm(audit: Audit) -> ArmAudit:
    """Pick the arm that leads page one: by name, and without a prompt where there is a choice."""

    def rank(arm: ArmAudit) -> tuple[int, bool]:
        known = arm.arm in PREFERRED_ARMS
        place = PREFERRED_ARMS.index(arm.arm) if known else len(PREFERRED_ARMS)
        return place, known and arm.prompt != "automatic"

    return min(audit.arms, key=rank)


def finding_of(arm: ArmAudit) -> Finding | None:
    """Say an arm's largest gap in Dice; one beyond chance goes before a larger one that is not.

    Returns None where no attribute has two groups that can be shown.
    """
    candidates = [found for found in arm.attributes if "dice" in found.difference]
    if not candidates:
        return None
    found = max(
        candidates,
        key=lambda each: (
            each.difference["dice"].beyond_chance,
            each.difference["dice"].gap.value,
        ),
    )
    difference = found.difference["dice"]
    return Finding(
        arm=arm_name(arm),
        attribute=found.attribute,
        difference=difference,
        sentence=_sentence(found, difference),
        sureness=_sureness(difference),
        agreement=_agreement(found.difference),
    )


def _sentence(found: AttributeAudit, difference: Difference) -> str:
    rows = {row.group: row for row in found.by_group}
    worst, best = rows[difference.worst_group], rows[difference.best_group]
    gap = difference.gap
    return (
        f"{_people(found.attribute, worst.group)} have the lowest mean Dice: "
        f"{number(worst.metrics['dice'].mean.value)} ({_count(worst)}), against "
        f"{number(best.metrics['dice'].mean.value)} ({_count(best)}) for "
        f"{_people(found.attribute, best.group, starts=False)}. "
        f"The gap is {number(gap.value)} "
        f"(95% interval {number(gap.low)} to {number(gap.high)})."
    )


def _sureness(difference: Difference) -> str:
    share = difference.worst_again
    often = "more than 99%" if share > 0.99 else f"{share:.0%}"
    again = f"The same group came out worst in {often} of resamples."
    if difference.beyond_chance:
        return f"That is more than chance among these patients explains. {again}"
    return (
        "Chance alone could make a gap of this size, and a true gap of up to "
        f"{number(difference.gap.high)} is not ruled out: with this few patients, no gap found "
        f"does not mean no gap. {again}"
    )


def _agreement(differences: Mapping[str, Difference]) -> str:
    """Whether the other metrics name the same group: Dice alone punishes small tumours."""
    worst = differences["dice"].worst_group
    others = [metric for metric in METRICS if metric.column != "dice"]
    same = [metric.name for metric in others if differences[metric.column].worst_group == worst]
    if len(same) == len(others):
        return f"{' and '.join(same)} name the same group as worst."
    if same:
        missing = next(metric.name for metric in others if metric.name not in same)
        return (
            f"{same[0]} names the same group as worst, {missing} does not: "
            "part of the gap may come from tumour size."
        )
    return (
        f"Neither {' nor '.join(metric.name for metric in others)} names the same group as "
        "worst: the gap in Dice may come from tumour size."
    )


def _count(row: GroupAudit) -> str:
    """Patients of a row, kept on one line."""
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{row.patients}"


def _people(attribute: str, group: str, *, starts: bool = True) -> str:
    name = attribute_name(attribute)
    if group == POOL:
        text = f"patients of the small groups of {name} taken together"
    elif group == "unknown":
        text = f"patients whose {name} is unknown"
    elif attribute == "age_group":
        text = f"patients aged {group}"
    else:
        text = f"patients of {name} {group}"
    return text[0].upper() + text[1:] if starts else text
