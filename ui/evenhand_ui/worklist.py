"""The worklist: test cases of a run, what each one's latest decision says, what comes next."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evenhand.review import Entry, ReviewStore, State, state_of
from evenhand_ui.masks import MaskSummary, summarise_mask
from evenhand_ui.runs import ReviewRun

__all__ = ["WorkItem", "build_worklist", "count_states", "next_open", "select"]


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One case to review. `latest` is the latest decision about it, of any mask of this arm."""

    case_id: str
    hospital: str
    state: State
    proposal: MaskSummary
    latest: Entry | None
    uncertainty: float | None = None

    @property
    def reader(self) -> str:
        """Who decided last; empty: nobody yet."""
        return self.latest.decision.reader if self.latest is not None else ""


def build_worklist(run: ReviewRun, store: ReviewStore) -> list[WorkItem]:
    """Return all cases of the run's arm, the most uncertain first, then by hospital and id.

    Raises:
        DataError: a proposed mask is damaged or belongs to no case.
        ReviewError: the review database is damaged.
    """
    latest = store.latest(run.arm)
    items = []
    for case_id, hospital in run.hospital_of.items():
        proposal = summarise_mask(run.mask_path(case_id))
        entry = latest.get(case_id)
        items.append(
            WorkItem(
                case_id=case_id,
                hospital=hospital,
                state=state_of(entry, proposal.sha256),
                proposal=proposal,
                latest=entry,
                uncertainty=run.uncertainty_of.get(case_id),
            )
        )
    return sorted(items, key=_order)


def _order(item: WorkItem) -> tuple[float, str, str]:
    unsure = -item.uncertainty if item.uncertainty is not None else 0.0
    return unsure, item.hospital, item.case_id


def select(
    items: Sequence[WorkItem],
    *,
    states: Sequence[State] = (),
    hospitals: Sequence[str] = (),
    readers: Sequence[str] = (),
) -> list[WorkItem]:
    """Keep the items of these states, hospitals and last readers; an empty filter lets all pass."""
    return [
        item
        for item in items
        if (not states or item.state in states)
        and (not hospitals or item.hospital in hospitals)
        and (not readers or item.reader in readers)
    ]


def count_states(items: Sequence[WorkItem]) -> dict[State, int]:
    """How many items are in each state; every state is a key."""
    counts = Counter(item.state for item in items)
    return {state: counts[state] for state in State}


def next_open(items: Sequence[WorkItem], after: str | None = None) -> str | None:
    """Case id of the first open item after the case `after`, going round; None: all are done."""
    ids = [item.case_id for item in items]
    start = ids.index(after) + 1 if after in ids else 0
    around = [*items[start:], *items[:start]]
    return next(
        (item.case_id for item in around if item.state is State.OPEN and item.case_id != after),
        None,
    )
