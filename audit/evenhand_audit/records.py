"""What an audit finds, as frozen records; `audit.json` is these records written out.

Vocabulary follows fairlearn's MetricFrame: overall, by_group, difference, worst group
(group_min, or group_max where less is better).
"""

from dataclasses import dataclass

__all__ = [
    "METRICS",
    "ArmAudit",
    "AttributeAudit",
    "Audit",
    "Difference",
    "EquityScaled",
    "Estimate",
    "GroupAudit",
    "Metric",
    "Summary",
    "Withheld",
]


@dataclass(frozen=True)
class Metric:
    """One figure per case that the audit averages."""

    column: str
    name: str
    higher_is_better: bool
    bound: float
    """Largest possible difference between two means; infinite for distances."""


METRICS = (
    Metric("dice", "Dice", higher_is_better=True, bound=1.0),
    Metric("hd95", "HD95", higher_is_better=False, bound=float("inf")),
    Metric("nsd", "NSD", higher_is_better=True, bound=1.0),
)
"""Metrics in the order of tables."""


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
    median: Estimate


@dataclass(frozen=True)
class GroupAudit:
    """One published row: a group, the pool of small groups, or everybody."""

    group: str
    patients: int
    cases: int
    metrics: dict[str, Summary]
    """By metric column."""


@dataclass(frozen=True)
class Difference:
    """The largest gap of one metric between two groups of an attribute."""

    best_group: str
    worst_group: str
    gap: Estimate
    """Best minus worst mean, absolute, with an interval that holds for all pairs at once."""
    worst_again: float
    """Share of resamples in which the same group is the worst."""

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval excludes equality."""
        return self.gap.low > 0


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
class AttributeAudit:
    """One attribute: its groups and how far they lie apart."""

    attribute: str
    by_group: tuple[GroupAudit, ...]
    pooled: tuple[str, ...]
    """Groups that are shown together only."""
    difference: dict[str, Difference]
    """By metric column; empty where fewer than two rows can be shown."""
    equity_scaled_dice: EquityScaled | None


@dataclass(frozen=True)
class ArmAudit:
    """One arm under one prompt."""

    arm: str
    prompt: str
    overall: GroupAudit
    empty_masks: dict[str, int]
    """Cases by which mask is empty: reference, prediction, both."""
    attributes: tuple[AttributeAudit, ...]


@dataclass(frozen=True)
class Withheld:
    """An arm and prompt with too few patients to show anything."""

    arm: str
    prompt: str


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
