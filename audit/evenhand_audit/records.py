"""What an audit finds, as frozen records; `audit.json` is these records written out.

Vocabulary follows fairlearn's MetricFrame: overall, by_group, difference, ratio, worst group
(group_min, or group_max where less is better).
"""

from dataclasses import dataclass
from typing import Literal

from evenhand_audit.inference import Effect
from evenhand_audit.mixed import Adjusted

__all__ = [
    "FAMILY_LEVEL",
    "METRICS",
    "MISSED_UNDER",
    "OPTIONAL_METRICS",
    "ArmAudit",
    "AttributeAudit",
    "Audit",
    "Check",
    "Detectable",
    "Difference",
    "EquityScaled",
    "Estimate",
    "Family",
    "GroupAudit",
    "Metric",
    "Missed",
    "SkewedErrors",
    "Summary",
    "Withheld",
    "number",
]

FAMILY_LEVEL = 0.05
"""Chance of any false finding in a whole report that is allowed."""

MISSED_UNDER = 0.1
"""Dice of a case under which its tumour counts as missed."""

MINUS = "\N{MINUS SIGN}"
"""Minus as print sets it: as wide as a digit."""


@dataclass(frozen=True)
class Metric:
    """One figure per case that the audit puts together over patients."""

    column: str
    name: str
    higher_is_better: bool
    bound: float
    """Largest possible difference between two means; infinite for distances."""
    parts: tuple[str, str] | None = None
    """For a rate: the columns whose sums are divided. None: the mean of `column`."""


METRICS = (
    Metric("dice", "Dice", higher_is_better=True, bound=1.0),
    Metric("hd95", "HD95", higher_is_better=False, bound=float("inf")),
    Metric("nsd", "NSD", higher_is_better=True, bound=1.0),
)
"""Metrics of every table, in the order of the report."""

OPTIONAL_METRICS = (
    Metric(
        "missed_lesions",
        "missed lesions",
        higher_is_better=False,
        bound=1.0,
        parts=("lesions_missed", "lesions_reference"),
    ),
    Metric(
        "false_lesions",
        "false lesions",
        higher_is_better=False,
        bound=1.0,
        parts=("lesions_predicted_false", "lesions_predicted"),
    ),
    Metric("lesion_f1", "lesion F1", higher_is_better=True, bound=1.0),
    Metric("calibration_error", "calibration error", higher_is_better=False, bound=1.0),
)
"""Metrics of tables that hold what they need for every case of an arm."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One metric over the patients of one group."""

    mean: Estimate
    """The mean over patients; of a rate the sum over the sum."""
    median: Estimate | None
    """None for a rate."""


@dataclass(frozen=True)
class Missed:
    """Patients of whose tumour next to nothing was found: Dice under `MISSED_UNDER`."""

    patients: int
    at_most: float
    """Largest share of such patients with which so few in the sample have a chance of 5% or more
    (Clopper and Pearson, one-sided): what a sample without any does not rule out."""


@dataclass(frozen=True)
class GroupAudit:
    """One published row: a group, the pool of small groups, or everybody."""

    group: str
    patients: int
    cases: int
    metrics: dict[str, Summary]
    """By metric column."""
    missed: Missed


@dataclass(frozen=True)
class Detectable:
    """The smallest true gap that this sample would have found in 80% of repeats."""

    smallest: float
    """Between the two groups that are known best."""
    largest: float
    """Between the two that are known worst: with any smaller gap, finding none says little."""


@dataclass(frozen=True)
class Difference:
    """The largest gap of one metric between two groups of an attribute."""

    best_group: str
    worst_group: str
    gap: Estimate
    """Best minus worst mean, absolute, with an interval that holds for all pairs at once."""
    ratio: float | None
    """Smallest over largest group mean (fairlearn: ratio)."""
    worst_again: float
    """Share of resamples in which the same group is the worst."""
    p_value: float
    """Of the permutation test that no two groups differ."""
    p_holm: float
    """Corrected for all comparisons of the report (Holm): chance of any false finding."""
    p_fdr: float
    """Likewise after Benjamini and Hochberg: share of false findings."""
    comparisons: int
    """Tests of the whole report, for which the two are corrected."""
    effect: Effect | None
    """Cliff's delta of best over worst group, positive where best is better; None for rates."""
    detectable: Detectable
    adjusted: Adjusted | None
    """The gap between like patients; None where it was not asked for."""

    @property
    def beyond_chance(self) -> bool:
        """Whether the gap is found: by the test, all comparisons considered, and by its interval.

        The two may disagree where few very bad cases make a gap; then it is not found.
        """
        return self.p_holm <= FAMILY_LEVEL and self.gap.low > 0

    @property
    def hint(self) -> bool:
        """Whether it would be a finding if nothing else had been compared."""
        return not self.beyond_chance and self.p_value <= FAMILY_LEVEL


@dataclass(frozen=True)
class EquityScaled:
    """Equity-scaled mean Dice, each figure with its range had patients been dealt out at random."""

    by_sum: float
    """I / (1 + sum |I - I_g|): FairSeg, Tian et al., ICLR 2024."""
    by_sum_at_random: tuple[float, float]
    by_std: float
    """I / (1 + std of the group means, population): FairMedFM, Jin et al., NeurIPS 2024."""
    by_std_at_random: tuple[float, float]


@dataclass(frozen=True)
class SkewedErrors:
    """Largest over smallest group mean of 1 - Dice, with its range at random; 1 is equality."""

    ratio: float
    at_random: tuple[float, float]


@dataclass(frozen=True)
class AttributeAudit:
    """One attribute, or a pair of them: its groups and how far they lie apart."""

    attribute: str
    by_group: tuple[GroupAudit, ...]
    pooled: tuple[str, ...]
    """Groups that are shown together only."""
    difference: dict[str, Difference]
    """By metric column; empty where fewer than two rows can be shown."""
    equity_scaled_dice: EquityScaled | None
    skewed_error_ratio: SkewedErrors | None


@dataclass(frozen=True)
class Check:
    """One limit of the config held against one attribute of one arm."""

    limit: str
    words: str
    attribute: str
    value: float | None
    """None where it could not be computed."""
    warn: float | None
    fail: float | None
    lower_is_worse: bool
    verdict: Literal["pass", "warn", "fail"]
    reason: str


@dataclass(frozen=True)
class ArmAudit:
    """One arm under one prompt."""

    arm: str
    prompt: str
    overall: GroupAudit
    empty_masks: dict[str, int]
    """Cases by which mask is empty: reference, prediction, both."""
    metrics: tuple[Metric, ...]
    """What could be computed of this arm."""
    incomplete: tuple[str, ...]
    """Metrics left out: a part of the cases lacks them, or a row of a rate has nothing to count."""
    attributes: tuple[AttributeAudit, ...]
    intersections: tuple[AttributeAudit, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Withheld:
    """An arm and prompt of which nothing may be shown."""

    arm: str
    prompt: str
    reason: str


@dataclass(frozen=True)
class Family:
    """All tests of a report, which are corrected together."""

    comparisons: int
    """One for each arm and prompt, attribute or pair that has two rows, and metric."""
    permutations: int
    """Most deals of a test."""
    within_hospital: bool


@dataclass(frozen=True)
class Audit:
    """A whole prediction table, judged."""

    arms: tuple[ArmAudit, ...]
    withheld: tuple[Withheld, ...]
    units: str
    nsd_tolerance: float
    minimum_group: int
    resamples: int
    seed: int
    age_edges: tuple[float, ...]
    family: Family
    registered: bool
    """Whether earlier reports were looked at, so that two together give nobody away."""


def number(value: float, column: str = "dice") -> str:
    """Write a figure as tables do: shares with three decimals, distances with one."""
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:.1f}" if column == "hd95" else f"{value:.3f}"
    return text.replace("-", MINUS)
