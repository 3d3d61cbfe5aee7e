"""Who was trained on, held against a reference population: the representation table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from evenhand.errors import DataError
from evenhand_audit.disclosure import group_safely
from evenhand_audit.intake_tables import numbers, read_any_table
from evenhand_audit.resampling import LEVEL

__all__ = ["Represented", "read_reference", "representation"]


@dataclass(frozen=True)
class Represented:
    """One group in the cohort and in the population."""

    group: str
    patients: int
    share: float
    low: float
    high: float
    """Clopper and Pearson's interval of the share, for all groups at once (Bonferroni)."""
    reference: float
    """Share in the population."""

    @property
    def ratio(self) -> float:
        """Share here over share there; 1 is as in the population, infinite where there is none."""
        return self.share / self.reference if self.reference else float("inf")

    @property
    def verdict(self) -> str:
        """What may be said beyond chance."""
        if self.high < self.reference:
            return "under-represented"
        if self.low > self.reference:
            return "over-represented"
        return "within chance"


def read_reference(path: Path) -> dict[str, float]:
    """Read a population: columns `group` and `share`, shares or counts; scaled to 1.

    Raises:
        DataError: a column is missing, or a share is no number of 0 or more.
    """
    table = read_any_table(path)
    if not {"group", "share"} <= set(table.columns):
        raise DataError(f"'{path.name}' wants the columns group and share.")
    shares = numbers(table["share"], path.name, "share")
    if shares.isna().any() or (shares < 0).any() or shares.sum() == 0:
        raise DataError(f"'{path.name}' wants a share of 0 or more for every group.")
    total = float(shares.sum())
    found: dict[str, float] = {}
    for group, share in zip(table["group"], shares, strict=True):
        found[str(group)] = found.get(str(group), 0.0) + float(share) / total
    return found


def representation(
    groups: Sequence[str], reference: Mapping[str, float], minimum: int
) -> list[Represented]:
    """Compare the shares of groups among patients with those in a population.

    Groups under the minimum are put together, in both. Patients whose group is not in the
    reference, such as unknown, count as a group that the population does not have.

    Args:
        groups: one a patient.
        reference: share of each group, adding up to 1.
        minimum: fewest patients that a row may stand for.

    Raises:
        DataError: fewer patients than the minimum.
    """
    if len(groups) < minimum:
        raise DataError(f"{len(groups)} patients are too few for a table; {minimum} are wanted.")
    counts = dict.fromkeys(reference, 0) | dict(Counter(groups))
    present = {name: count for name, count in counts.items() if count}
    safe = group_safely(present, minimum)
    pooled_reference: dict[str, float] = {}
    pooled_counts: dict[str, int] = {}
    for name in counts:
        label = safe.label(name)
        pooled_counts[label] = pooled_counts.get(label, 0) + counts[name]
        pooled_reference[label] = pooled_reference.get(label, 0.0) + reference.get(name, 0.0)
    level = 1 - (1 - LEVEL) / len(pooled_counts)
    rows = []
    for name, count in pooled_counts.items():
        ends = stats.binomtest(count, len(groups)).proportion_ci(level, method="exact")
        share = count / len(groups)
        rows.append(
            Represented(
                name, count, share, float(ends.low), float(ends.high), pooled_reference[name]
            )
        )
    return rows
