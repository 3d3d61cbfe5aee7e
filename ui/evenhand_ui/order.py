"""In which order cases are read: the doubtful first, but of every group alike.

Doubt is what the model says of itself (`uncertainty`, where the run has it) and how
far the run's ways of training differ on the case (`disagreement`). If the list went
by doubt alone, the group that the model knows worst would fill its top, and what is
corrected, and trained on next, would come from that group only. So the list takes
turns: each round holds one case of each group, the most doubtful that is left. At
any place, no two groups that still have cases differ by more than one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from statistics import mean
from typing import TypeVar

from evenhand.cases.records import Patient
from evenhand.experiment.layout import RunFolder
from evenhand.metrics import dice_of
from evenhand_ui.masks import read_mask, summarise_mask
from evenhand_ui.runs import ReviewRun

__all__ = ["disagreement", "group_of", "in_turns"]

AGE_EDGES = (40, 60)
"""Years; ages below, between and from the last one on are groups."""

_Item = TypeVar("_Item")


def group_of(patient: Patient) -> tuple[str, str, str]:
    """Return the subgroup that a patient belongs to: hospital, sex, age."""
    age = patient.age_years
    band = "unknown" if age is None else str(sum(age >= edge for edge in AGE_EDGES))
    return patient.hospital, patient.sex, band


def in_turns(
    items: Iterable[_Item],
    *,
    group: Callable[[_Item], tuple[str, ...]],
    doubt: Callable[[_Item], float],
    name: Callable[[_Item], str],
) -> list[_Item]:
    """Order items so that groups take turns, and each brings its most doubtful first.

    Args:
        items: in any order.
        group: which group an item belongs to.
        doubt: from 0 up; more is sooner.
        name: settles ties, so that the order is always the same.
    """
    by_group: dict[tuple[str, ...], list[_Item]] = defaultdict(list)
    for item in items:
        by_group[group(item)].append(item)
    ranked = {key: sorted(own, key=lambda i: (-doubt(i), name(i))) for key, own in by_group.items()}
    placed = [
        (round_, -doubt(item), key, item)
        for key, own in ranked.items()
        for round_, item in enumerate(own)
    ]
    return [item for *_, item in sorted(placed, key=lambda one: one[:3])]


def disagreement(run: ReviewRun, case_id: str) -> float:
    """Return 1 - Dice between the masks of the run's ways of training, on average; 0 to 1.

    Ways without a mask of the case are left out; with fewer than two it is 0.
    """
    arms = [arm for arm in RunFolder(run.folder).arms() if arm.mask_path(case_id).is_file()]
    hashes = tuple(summarise_mask(arm.mask_path(case_id)).sha256 for arm in arms)
    return _disagreement(run, case_id, tuple(arm.path.name for arm in arms), hashes)


@lru_cache(maxsize=4096)  # found again by the masks' hashes
def _disagreement(
    run: ReviewRun, case_id: str, arms: Sequence[str], hashes: Sequence[str]
) -> float:
    different = dict(zip(hashes, arms, strict=True))
    if len(arms) < 2:
        return 0.0
    case = run.case(case_id)
    masks = {
        sha256: read_mask(RunFolder(run.folder).arm(arm).mask_path(case_id), case)
        for sha256, arm in different.items()
    }
    return mean(
        0.0 if one == two else 1 - dice_of(masks[one], masks[two])
        for one, two in combinations(hashes, 2)
    )
