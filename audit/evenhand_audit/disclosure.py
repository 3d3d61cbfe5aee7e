"""Small groups are not shown, nor can they be computed from what is shown.

A group with fewer patients than the minimum is suppressed. That alone is not enough: where one
group is missing, its mean follows from the overall mean and the other groups'. So what is taken
away is **pooled** into one row, and the pool is enlarged, by the next smallest group each time,
until it holds at least two groups and at least the minimum of patients. Overall minus the shown
groups then gives the pool, which is published anyway, and no single member of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["POOL", "Grouping", "group_safely"]

POOL = "other groups together"
"""Name of the pooled row."""


@dataclass(frozen=True)
class Grouping:
    """Which groups are shown one by one and which only together."""

    shown: tuple[str, ...]
    pooled: tuple[str, ...]
    """Empty, or at least two groups."""

    def label(self, group: str) -> str:
        """Name under which a patient of this group is counted."""
        return POOL if group in self.pooled else group

    @property
    def labels(self) -> tuple[str, ...]:
        """All rows that are published, the pool last."""
        return (*self.shown, POOL) if self.pooled else self.shown


def group_safely(patients: Mapping[str, int], minimum: int) -> Grouping:
    """Decide which groups of one attribute may be shown.

    Args:
        patients: patients of each group, in the order in which groups are to be shown. Together
            they must be at least `minimum`, or nothing may be shown at all.
        minimum: fewest patients that a published row may stand for.

    Raises:
        ValueError: all groups together are fewer than `minimum`.
    """
    if sum(patients.values()) < minimum:
        raise ValueError("fewer patients than the minimum: nothing of them may be shown")
    ascending = sorted(patients, key=lambda group: (patients[group], group))
    small = [group for group in ascending if patients[group] < minimum]
    if not small:
        return Grouping(shown=tuple(patients), pooled=())
    pooled = set(small)
    for group in ascending[len(small) :]:
        if len(pooled) >= 2 and sum(patients[member] for member in pooled) >= minimum:
            break
        pooled.add(group)
    return Grouping(
        shown=tuple(group for group in patients if group not in pooled),
        pooled=tuple(group for group in patients if group in pooled),
    )
