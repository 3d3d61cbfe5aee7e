"""Readings of cases: which are read twice or unaided, where each stands, who may see what."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.records import Case
from evenhand.metrics import dice_of
from evenhand.review import (
    STAGE_OF,
    Entry,
    ReviewStore,
    Role,
    Standing,
    Verdict,
    drawn,
    stand,
    visible_to,
)
from evenhand_ui.masks import read_mask, recorded_mask, summarise_mask
from evenhand_ui.rules import Rules, rules_of
from evenhand_ui.runs import ReviewRun
from evenhand_ui.tickets import page_key

__all__ = ["CaseReview", "Plan", "decided_mask", "review_all", "review_case"]

_NO_READING = frozenset({Verdict.CANNOT_JUDGE, Verdict.WITHDRAW})
"""What a reader may say without having read the case."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run's cases are read: its rules, and the key that the lots are drawn with."""

    rules: Rules
    key: bytes

    @classmethod
    def of(cls, run: ReviewRun) -> "Plan":
        """Read rules and key that lie beside a run's decisions; the key is made if need be."""
        folder = run.database.parent
        return cls(rules=rules_of(folder), key=page_key(folder / "page.key"))

    def twice(self, arm: str, case_id: str, proposed_sha256: str) -> bool:
        """Whether a case gets a second reading."""
        share = self.rules.second_share
        return drawn(self.key, f"second\n{arm}", case_id, proposed_sha256, share)

    def unaided(self, arm: str, case_id: str, proposed_sha256: str) -> bool:
        """Whether a case is judged before its proposal is shown."""
        share = self.rules.unaided_share
        return drawn(self.key, f"unaided\n{arm}", case_id, proposed_sha256, share)


@dataclass(frozen=True, kw_only=True)
class CaseReview:
    """All decisions about a case, in order, and what those about its present proposal come to."""

    entries: tuple[Entry, ...]
    standing: Standing
    proposed_sha256: str
    starts_unaided: bool

    def unaided_now(self, person_id: str, role: Role) -> bool:
        """Whether a person must judge the case before they may see the proposal.

        That they cannot judge it is no reading: the proposal stays hidden.
        """
        if not self.starts_unaided or role not in {Role.READER, Role.SECOND_READER}:
            return False
        return not any(
            e.decision.reader == person_id
            and e.decision.proposed_sha256 == self.proposed_sha256
            and e.decision.verdict not in _NO_READING
            for e in self.entries
        )

    def visible_to(self, person_id: str, role: Role) -> list[Entry]:
        """Return the decisions that a person may see; before their unaided reading, their own."""
        seen = visible_to(person_id, self.entries, self.standing, role=role)
        if self.unaided_now(person_id, role):
            return [entry for entry in seen if entry.decision.reader == person_id]
        return seen

    def unaided_of(self, person_id: str, role: Role) -> Entry | None:
        """Return what a person said in a role before they were shown the present proposal."""
        own = (
            entry
            for entry in reversed(self.entries)
            if entry.decision.reader == person_id
            and entry.decision.stage is STAGE_OF.get(role)
            and entry.decision.proposed_sha256 == self.proposed_sha256
            and entry.decision.verdict is Verdict.UNAIDED
        )
        return next(own, None)

    def own(self, person_id: str, role: Role) -> Entry | None:
        """Return the decision that counts of what this person may go on with."""
        entry = self.standing.at(STAGE_OF.get(role, STAGE_OF[Role.READER]))
        return entry if entry in self.visible_to(person_id, role) else None


def review_case(run: ReviewRun, store: ReviewStore, plan: Plan, case_id: str) -> CaseReview:
    """Look up one case.

    Raises:
        EvenhandError: the database or a mask cannot be read.
    """
    return _review(run, plan, case_id, store.entries(case_id=case_id, arm=run.arm))


def review_all(run: ReviewRun, store: ReviewStore, plan: Plan) -> dict[str, CaseReview]:
    """Look up all cases of the run's arm, by id.

    Raises:
        EvenhandError: the database or a mask cannot be read.
    """
    own: dict[str, list[Entry]] = defaultdict(list)
    for entry in store.entries(arm=run.arm):
        own[entry.decision.case_id].append(entry)
    return {case_id: _review(run, plan, case_id, own[case_id]) for case_id in run.hospital_of}


def decided_mask(run: ReviewRun, case: Case, entry: Entry) -> NDArray[np.uint8]:
    """Return the mask (i, j, k) that a decision stands for: the recorded or the proposed one.

    Raises:
        DataError: it is missing, damaged or was changed.
    """
    if entry.decision.verdict in {Verdict.CORRECT, Verdict.UNAIDED}:
        return recorded_mask(run.database.parent, entry, case)
    return read_mask(run.mask_path(case.case_id), case)


def _review(run: ReviewRun, plan: Plan, case_id: str, entries: Sequence[Entry]) -> CaseReview:
    sha256 = summarise_mask(run.mask_path(case_id)).sha256
    standing = stand(
        entries,
        sha256,
        wants_second=plan.twice(run.arm, case_id, sha256),
        threshold=plan.rules.agreement_dice,
        dice_of=lambda one, two: _dice(run, one, two),
    )
    return CaseReview(
        entries=tuple(entries),
        standing=standing,
        proposed_sha256=sha256,
        starts_unaided=plan.unaided(run.arm, case_id, sha256),
    )


def _dice(run: ReviewRun, one: Entry, two: Entry) -> float:
    def voxels(entry: Entry) -> str:
        return entry.decision.corrected_sha256 or entry.decision.proposed_sha256

    if voxels(one) == voxels(two):
        return 1.0
    return _dice_of(run, one, two)


@lru_cache(maxsize=4096)  # entries never change
def _dice_of(run: ReviewRun, one: Entry, two: Entry) -> float:
    case = run.case(one.decision.case_id)
    first, second = (decided_mask(run, case, entry) for entry in (one, two))
    return dice_of(first, second)
