"""Where a case stands after its readings: alone, half read, agreed, disputed, adjudicated.

A share of the cases is read twice. Which ones follows from a key and the proposed
mask alone, so nobody chooses them and nobody can foresee them. The second reader is
another person, and neither sees what the other has said or drawn before both are
done (`visible_to`). Where the two differ too much a third person decides.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evenhand.errors import ReviewError
from evenhand.review.records import Entry, Role, Stage, State, Verdict, state_of

__all__ = ["STAGE_OF", "Standing", "check_task", "drawn", "stand", "visible_to"]

STAGE_OF = {
    Role.READER: Stage.FIRST,
    Role.SECOND_READER: Stage.SECOND,
    Role.ADJUDICATOR: Stage.ADJUDICATION,
    Role.AUDITOR: Stage.FIRST,
}
"""As which reading a role opens a case; an auditor only looks."""

_WITH_MASK = frozenset({Verdict.ACCEPT, Verdict.CORRECT})


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the readings of one case's present proposal come to.

    `first`, `second` and `adjudication` are the decisions that count (None: there
    is none), `dice` compares the masks of first and second (None: one of them has
    no mask), `agreed` says whether they are near enough (None: not both are there).
    """

    wants_second: bool
    first: Entry | None
    second: Entry | None
    adjudication: Entry | None
    dice: float | None
    agreed: bool | None

    @property
    def sealed(self) -> bool:
        """Whether both readings are there, so that neither may be changed any more."""
        return self.wants_second and self.first is not None and self.second is not None

    @property
    def final(self) -> Entry | None:
        """The decision that stands for the case; None: there is none yet."""
        if self.adjudication is not None:
            return self.adjudication
        if not self.wants_second:
            return self.first
        return self.first if self.agreed else None

    @property
    def state(self) -> State:
        """What the worklist says."""
        if self.final is not None:
            return state_of(self.final, self.final.decision.proposed_sha256)
        if self.agreed is False:
            return State.DISPUTED
        half = self.wants_second and (self.first is not None or self.second is not None)
        return State.HALF_READ if half else State.OPEN

    def at(self, stage: Stage) -> Entry | None:
        """Return the decision of one stage."""
        return {
            Stage.FIRST: self.first,
            Stage.SECOND: self.second,
            Stage.ADJUDICATION: self.adjudication,
        }[stage]


def drawn(key: bytes, label: str, case_id: str, proposed_sha256: str, share: float) -> bool:
    """Whether the lot of a case falls within a share, 0 to 1.

    Args:
        key: secret; without it nobody can tell which cases are drawn.
        label: what is drawn for, so that one lot says nothing about another.
        case_id: the case.
        proposed_sha256: of its proposed mask.
        share: part of all cases that is drawn, on average.
    """
    message = f"{label}\n{case_id}\n{proposed_sha256}".encode()
    lot = int.from_bytes(hmac.digest(key, message, hashlib.sha256)[:8])
    return lot < share * 2**64


def stand(
    entries: Sequence[Entry],
    proposed_sha256: str,
    *,
    wants_second: bool,
    threshold: float,
    dice_of: Callable[[Entry, Entry], float],
) -> Standing:
    """Work out where a case stands.

    Args:
        entries: all decisions about the case, in order.
        proposed_sha256: of the mask that is proposed now; decisions about others do not count.
        wants_second: whether the case is drawn to be read twice; one of which there is a
            second reading or an adjudication already stays so, whatever is drawn now.
        threshold: Dice from which on two masks agree.
        dice_of: compares the masks of two decisions that have one.
    """
    wants_second = wants_second or any(
        entry.decision.proposed_sha256 == proposed_sha256
        and entry.decision.stage in {Stage.SECOND, Stage.ADJUDICATION}
        for entry in entries
    )
    latest: dict[Stage, Entry] = {}
    for entry in entries:
        decision = entry.decision
        if decision.proposed_sha256 != proposed_sha256 or decision.verdict is Verdict.UNAIDED:
            continue
        if decision.verdict is Verdict.WITHDRAW:
            latest.pop(decision.stage, None)
        else:
            latest[decision.stage] = entry
    first, second = latest.get(Stage.FIRST), latest.get(Stage.SECOND)
    third = latest.get(Stage.ADJUDICATION)
    if third is not None and any(
        reading is None or reading.position > third.position for reading in (first, second)
    ):
        third = None  # it was about readings that are no more
    dice, agreed = None, None
    if first is not None and second is not None:
        verdicts = (first.decision.verdict, second.decision.verdict)
        if _WITH_MASK.issuperset(verdicts):
            dice = dice_of(first, second)
            agreed = dice >= threshold
        else:
            agreed = verdicts[0] is verdicts[1]
    return Standing(
        wants_second=wants_second,
        first=first,
        second=second,
        adjudication=third,
        dice=dice,
        agreed=agreed,
    )


def visible_to(
    person_id: str, entries: Sequence[Entry], standing: Standing, *, role: Role
) -> list[Entry]:
    """Return the decisions about a case that a person may see.

    Of a case that is read twice, readers see only their own until both readings are
    there: neither the mask nor the decision nor the name of the other.
    """
    if not standing.wants_second or standing.sealed or role is Role.AUDITOR:
        return list(entries)
    return [entry for entry in entries if entry.decision.reader == person_id]


def check_task(
    person_id: str, role: Role, entries: Sequence[Entry], standing: Standing, *, write: bool
) -> None:
    """Refuse a person who may not read, or not decide, this case in this role.

    Raises:
        ReviewError: one sentence why; it gives away nothing about another's reading.
    """
    if role is Role.ADMIN:
        raise ReviewError("An administrator sees no cases; choose another role at the left.")
    if role is Role.AUDITOR:
        if write:
            raise ReviewError("An auditor looks, and decides nothing.")
        return
    stages = {e.decision.stage for e in entries if e.decision.reader == person_id}
    if role is Role.ADJUDICATOR:
        _check_adjudicator(standing, stages)
    else:
        _check_reader(STAGE_OF[role], standing, stages)
        if write:
            _check_open(STAGE_OF[role], standing, person_id)


def _check_adjudicator(standing: Standing, stages: set[Stage]) -> None:
    if not standing.sealed:
        raise ReviewError("There is nothing to adjudicate: not both readings are there.")
    if stages & {Stage.FIRST, Stage.SECOND}:
        raise ReviewError("You have read this case yourself; another person adjudicates.")


def _check_reader(stage: Stage, standing: Standing, stages: set[Stage]) -> None:
    if stage is Stage.SECOND and not standing.wants_second:
        raise ReviewError("This case is not read twice.")
    if standing.wants_second and stages - {stage}:
        raise ReviewError("You have read this case in another role; another person reads it now.")


def _check_open(stage: Stage, standing: Standing, person_id: str) -> None:
    if standing.sealed:
        raise ReviewError("Both readings of this case are done; only an adjudicator changes it.")
    there = standing.at(stage)
    if standing.wants_second and there is not None and there.decision.reader != person_id:
        raise ReviewError("Another reader has done this reading already.")
