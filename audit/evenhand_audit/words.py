"""What an audit found, in sentences for a clinician. Numbers keep their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evenhand_audit.disclosure import POOL
from evenhand_audit.records import (
    FAMILY_LEVEL,
    METRICS,
    MISSED_UNDER,
    ArmAudit,
    AttributeAudit,
    Audit,
    Difference,
    GroupAudit,
    number,
)

__all__ = [
    "UNKNOWN_FIGURE",
    "Finding",
    "adjusted_in_words",
    "arm_name",
    "attribute_name",
    "finding_of",
    "group_name",
    "headline_arm",
    "number",
    "p_text",
    "reach_of",
    "unseen_misses",
]

UNKNOWN_FIGURE = "\N{EN DASH}"
"""What stands in a table where a figure is not known."""

FEW = 60
"""In a group of fewer patients, none missed leaves room for more than 5% who are."""

NAMED = 4
"""Groups that a sentence names, the smallest first."""

CROSSED = " \N{MULTIPLICATION SIGN} "
"""Between the names of the attributes of a pair."""

POOL_NAMED = 3
"""A pool of so many groups at most is called by their names."""

PREFERRED_ARMS = ("federated", "federated-private", "pooled")
"""Whose finding leads page one; else the first arm of the table. A fixed order, not the result."""


@dataclass(frozen=True)
class Finding:
    """One arm's largest gap in Dice, said plainly."""

    arm: str
    attribute: str
    difference: Difference
    verdict: Literal["gap", "hint", "none"]
    headline: str
    sentence: str
    sureness: str
    like_patients: str
    reach: str
    agreement: str


def arm_name(arm: ArmAudit) -> str:
    """Arm and prompt, as every table and plot names them."""
    return f"{arm.arm} · {arm.prompt}"


def attribute_name(attribute: str) -> str:
    """`age_group` as a person writes it."""
    return attribute.replace("_", " ")


def group_name(group: str, found: AttributeAudit, singles: Sequence[AttributeAudit] = ()) -> str:
    """Name of a row: a pool of few groups is called by their names.

    Args:
        group: as in the record.
        found: the attribute or pair.
        singles: of a pair, the arm's attributes, whose pools were crossed.
    """
    names = found.attribute.split(CROSSED)
    if len(names) == 2:
        pools = {each.attribute: each.pooled for each in singles}
        first, second = (_listed(pools.get(name, ()), "or") for name in names)
        if first and group.startswith(f"{POOL}, "):
            group = first + group.removeprefix(POOL)
        if second and group.endswith(f", {POOL}"):
            group = group.removesuffix(POOL) + second
        return group
    listed = _listed(found.pooled, "and")
    return f"{listed} together" if group == POOL and listed else group


def _listed(groups: Sequence[str], word: str) -> str:
    """Names of a pool's groups; empty where there are too many to name."""
    if not 2 <= len(groups) <= POOL_NAMED:
        return ""
    return f"{', '.join(groups[:-1])} {word} {groups[-1]}"


def headline_arm(audit: Audit) -> ArmAudit:
    """Pick the arm that leads page one: by name, and without a prompt where there is a choice."""

    def rank(arm: ArmAudit) -> tuple[int, bool]:
        known = arm.arm in PREFERRED_ARMS
        place = PREFERRED_ARMS.index(arm.arm) if known else len(PREFERRED_ARMS)
        return place, known and arm.prompt != "automatic"

    return min(audit.arms, key=rank)


def finding_of(arm: ArmAudit) -> Finding | None:
    """Say an arm's largest gap in Dice.

    One that is found goes before a larger one that is not, and an attribute before a pair.

    Returns None where no attribute has two groups that can be shown.
    """
    singles = [(True, found) for found in arm.attributes if "dice" in found.difference]
    pairs = [(False, found) for found in arm.intersections if "dice" in found.difference]
    if not singles and not pairs:
        return None

    def rank(candidate: tuple[bool, AttributeAudit]) -> tuple[bool, bool, float]:
        single, found = candidate
        difference = found.difference["dice"]
        return difference.beyond_chance, single, difference.gap.value

    _, found = max([*singles, *pairs], key=rank)
    difference = found.difference["dice"]
    verdict: Literal["gap", "hint", "none"] = (
        "gap" if difference.beyond_chance else "hint" if difference.hint else "none"
    )
    return Finding(
        arm=arm_name(arm),
        attribute=found.attribute,
        difference=difference,
        verdict=verdict,
        headline=_headline(verdict),
        sentence=_sentence(found, difference),
        sureness=_sureness(difference),
        like_patients=adjusted_in_words(difference),
        reach=reach_of(arm),
        agreement=_agreement(found.difference),
    )


def _headline(verdict: str) -> str:
    if verdict == "gap":
        return "A gap was found."
    if verdict == "hint":
        return "A possible gap, not a finding."
    return "No gap was found. That does not mean that there is none."


def _sentence(found: AttributeAudit, difference: Difference) -> str:
    rows = {row.group: row for row in found.by_group}
    worst, best = rows[difference.worst_group], rows[difference.best_group]
    gap = difference.gap
    return (
        f"{_people(found, worst.group)} have the lowest mean Dice: "
        f"{number(worst.metrics['dice'].mean.value)} ({_count(worst)}), against "
        f"{number(best.metrics['dice'].mean.value)} ({_count(best)}) for "
        f"{_people(found, best.group, starts=False)}. "
        f"The gap is {number(gap.value)} "
        f"(95% interval {number(gap.low)} to {number(gap.high)})."
    )


def _sureness(difference: Difference) -> str:
    share = difference.worst_again
    often = "more than 99%" if share > 0.99 else f"{share:.0%}"
    again = f"The same group came out worst in {often} of resamples."
    looks = _looks(difference.comparisons)
    if difference.beyond_chance:
        return (
            "That is more than chance among these patients explains, also after correcting for "
            f"all {looks} of this report (p\N{NO-BREAK SPACE}{p_text(difference.p_holm)}). {again}"
        )
    if difference.p_holm <= FAMILY_LEVEL:
        return (
            "The test finds it, also after correcting for all "
            f"{looks} of this report (p\N{NO-BREAK SPACE}{p_text(difference.p_holm)}), but the "
            "interval reaches below zero: few very bad cases make this gap. It is not counted as "
            f"found. {again}"
        )
    if difference.hint:
        return (
            f"Had nothing else been compared it would count as found (p\N{NO-BREAK SPACE}"
            f"{p_text(difference.p_value)}). Among {looks}, chance makes such a gap often enough "
            f"(corrected p\N{NO-BREAK SPACE}{p_text(difference.p_holm)}). {again}"
        )
    return (
        f"Chance alone could make a gap of this size (corrected p\N{NO-BREAK SPACE}"
        f"{p_text(difference.p_holm)}), and a true gap of up to "
        f"{number(difference.gap.high)} is not ruled out: no gap found does not mean no "
        f"gap. {again}"
    )


def _looks(comparisons: int) -> str:
    return f"{comparisons} comparison{'s' if comparisons > 1 else ''}"


def p_text(value: float) -> str:
    """Write a p-value with its sign of relation."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}" if value < 0.1 else f"= {value:.2f}"


def reach_of(arm: ArmAudit) -> str:
    """Say which gaps in Dice this sample could have found at all; empty where none is compared."""
    parts = [
        f"{attribute_name(found.attribute)} {number(difference.detectable.largest)}"
        for found in arm.attributes
        if (difference := found.difference.get("dice")) is not None
    ]
    if not parts:
        return ""
    return (
        "This sample could only have found gaps above these, four times in five (between the two "
        f"groups that are known worst): {', '.join(parts)}."
    )


def unseen_misses(arm: ArmAudit) -> str:
    """Say what share of missed patients small groups without one do not rule out; empty if none."""
    rows = [
        (found, row)
        for found in arm.attributes
        for row in found.by_group
        if not row.missed.patients and row.patients < FEW
    ]
    if not rows:
        return ""
    rows = sorted(rows, key=lambda each: each[1].patients)[:NAMED]
    shares = ", ".join(
        f"{row.missed.at_most:.0%} of {_people(found, row.group, starts=False)} ({_count(row)})"
        for found, row in rows
    )
    return (
        f"Where nobody was missed (Dice under {MISSED_UNDER:g}), a small sample does not rule out "
        f"that many are: up to {shares}. The interval of a mean knows nothing of a miss that is "
        "not in the sample. The tables have the other groups."
    )


def adjusted_in_words(difference: Difference) -> str:
    """Say what is left of a gap between like patients; empty where nobody asked."""
    adjusted = difference.adjusted
    if adjusted is None:
        return ""
    if adjusted.value is None or adjusted.low is None or adjusted.high is None:
        return adjusted.note
    *first, last = adjusted.held_equal or ("",)
    equal = f"{', '.join(first)} and {last}" if first else last
    if not equal:
        return "Nothing could be held equal: hospital and tumour size do not vary."
    at_once = f", for all {adjusted.pairs} pairs of groups at once" if adjusted.pairs > 1 else ""
    left = (
        f"Between patients with {equal} held equal the gap of these two groups is "
        f"{number(adjusted.value)} "
        f"(95% interval {number(adjusted.low)} to {number(adjusted.high)}{at_once})."
    )
    one = len(adjusted.held_equal) == 1
    if adjusted.low > 0:
        return f"{left} So {'this does' if one else 'these do'} not explain it."
    if difference.gap.value and adjusted.value < difference.gap.value / 2:
        return f"{left} {'This' if one else 'These'} may explain most of the gap."
    return f"{left} Whether {'this explains' if one else 'these explain'} it is open."


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


def _people(found: AttributeAudit, group: str, *, starts: bool = True) -> str:
    attribute, name = found.attribute, attribute_name(found.attribute)
    if CROSSED in attribute:
        text = (
            f"patients in the small groups of {name} taken together"
            if group == POOL
            else f"patients in the group {group} ({name})"
        )
    elif group == POOL and group_name(group, found) == POOL:
        text = f"patients of the small groups of {name} taken together"
    elif group == POOL:
        text = f"patients of {name} {group_name(group, found)}"
    elif group == "unknown":
        text = f"patients whose {name} is unknown"
    elif attribute == "age_group":
        text = f"patients aged {group}"
    else:
        text = f"patients of {name} {group}"
    return text[0].upper() + text[1:] if starts else text
