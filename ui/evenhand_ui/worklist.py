"""The worklist: test cases of a run, where each stands for who asks, and what comes next."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evenhand.errors import ReviewError
from evenhand.review import STAGE_OF, Entry, Role, Stage, State, check_task
from evenhand_ui.masks import MaskSummary, summarise_mask
from evenhand_ui.order import disagreement, group_of, in_turns
from evenhand_ui.readings import CaseReview
from evenhand_ui.runs import ReviewRun

__all__ = ["WorkItem", "build_worklist", "count_states", "next_open", "select"]


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One case as one person in one role may know it.

    `latest` is the latest decision that they may see, of any mask of this arm;
    `decided` the one that they would replace. `todo`: it waits for them.
    `unaided`: its proposal is not shown to them yet, nor its size.
    """

    case_id: str
    hospital: str
    state: State
    proposal: MaskSummary
    latest: Entry | None
    decided: Entry | None = None
    todo: bool = False
    may_decide: bool = True
    unaided: bool = False
    uncertainty: float | None = None
    disagreement: float = 0.0
    group: tuple[str, ...] = ()

    @property
    def doubt(self) -> float:
        """What speaks for reading it soon: the model's own doubt, and how far models differ."""
        return (self.uncertainty or 0.0) + self.disagreement

    @property
    def reader(self) -> str:
        """Who decided last; empty: nobody yet."""
        return self.latest.decision.reader if self.latest is not None else ""


def build_worklist(
    run: ReviewRun,
    reviews: Mapping[str, CaseReview],
    *,
    person_id: str = "",
    role: Role = Role.READER,
) -> list[WorkItem]:
    """Return the cases that a person in a role may know of, in the order of the worklist.

    Args:
        run: the run under review.
        reviews: what was decided about each case.
        person_id: who asks; empty: nobody has said who they are yet.
        role: as what.

    Raises:
        DataError: a proposed mask is damaged or belongs to no case.
    """
    items = [
        _item(run, case_id, review, person_id, role)
        for case_id, review in reviews.items()
        if _concerns(review, role)
    ]
    if not any(item.doubt for item in items):  # nothing is known: by hospital and id
        return sorted(items, key=lambda i: (i.hospital, i.case_id))
    return in_turns(
        items, group=lambda i: i.group, doubt=lambda i: i.doubt, name=lambda i: i.case_id
    )


def _concerns(review: CaseReview, role: Role) -> bool:
    if role is Role.SECOND_READER:
        return review.standing.wants_second
    return review.standing.sealed if role is Role.ADJUDICATOR else role is not Role.ADMIN


def _item(run: ReviewRun, case_id: str, review: CaseReview, person_id: str, role: Role) -> WorkItem:
    standing, stage = review.standing, STAGE_OF[role]
    own = standing.at(stage)
    seen = review.visible_to(person_id, role)
    may = _may(review, person_id, role)
    unaided = review.unaided_now(person_id, role)
    if unaided and own not in seen:
        state = State.OPEN  # what others have said is not told
    elif role is Role.AUDITOR or standing.sealed or not standing.wants_second:
        state = standing.state
    else:  # whether the other reading is there is not told
        state = State.OPEN if own is None else State.HALF_READ
    waiting = standing.state is State.DISPUTED if stage is Stage.ADJUDICATION else own is None
    return WorkItem(
        case_id=case_id,
        hospital=run.hospital_of[case_id],
        state=state,
        proposal=summarise_mask(run.mask_path(case_id)),
        latest=seen[-1] if seen else None,
        decided=own if own in seen else None,
        todo=may and waiting,
        may_decide=may,
        unaided=unaided,
        uncertainty=run.uncertainty_of.get(case_id),
        disagreement=disagreement(run, case_id),
        group=group_of(run.case(case_id).patient),
    )


def _may(review: CaseReview, person_id: str, role: Role) -> bool:
    try:
        check_task(person_id, role, review.entries, review.standing, write=True)
    except ReviewError:
        return False
    return True


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
    """Case id of the first item to do after the case `after`, going round; None: all are done."""
    ids = [item.case_id for item in items]
    start = ids.index(after) + 1 if after in ids else 0
    around = [*items[start:], *items[:start]]
    return next((item.case_id for item in around if item.todo and item.case_id != after), None)
