"""What left for an archive: who sent it, when, which object, where to, under which decision.

Two rows a sending: one before the object goes out, one that says what came of it. A
sending that only has the first was broken off: whether the archive has the object is not
known. Rows are appended and chained by hash like decisions, in a chain of their own, and
each names the decision that it was sent under, and the mask that this one stands for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select

from evenhand.errors import ReviewError
from evenhand.review.chain import Chain, ChainCheck, Link
from evenhand.review.records import is_sha256
from evenhand.review.store import ReviewStore
from evenhand.review.tables import DecisionRow, SendingRow

__all__ = [
    "Sending",
    "SendingStep",
    "append_sending",
    "sendings",
    "verify_sendings",
]


class SendingStep(StrEnum):
    """Where a sending stands."""

    BEGUN = "begun"
    """The object goes out now."""
    STORED = "stored"
    """The archive has said that it took the object."""
    FAILED = "failed"
    """The archive refused it, or gave no answer; it may have kept it all the same."""


@dataclass(frozen=True, kw_only=True)
class Sending:
    """One step of sending a case's mask to an archive.

    `sender` is the account on the machine that sent it, `object_uid` the object's SOP
    Instance UID, `host` the archive's host and port. `mask_sha256` is the hash of the
    mask's voxels, `decision_sha256` that of the decision that stood.
    """

    step: SendingStep
    case_id: str
    arm: str
    sender: str
    object_uid: str
    host: str
    mask_sha256: str
    decision_sha256: str

    def __post_init__(self) -> None:
        """Refuse what a later reader of the trail could not make sense of."""
        if not all((self.case_id, self.arm, self.sender, self.object_uid, self.host)):
            raise ReviewError("A sending needs case, arm, sender, object and host; one is empty.")
        if "/" in self.host or "@" in self.host:
            raise ReviewError("Of an archive's address only its host belongs in the trail.")
        if not (is_sha256(self.mask_sha256) and is_sha256(self.decision_sha256)):
            raise ReviewError("A sending's hashes must have 64 hex digits.")


def _columns(sending: Sending) -> Mapping[str, object]:
    return {**vars(sending), "step": sending.step.value}


def _record(row: SendingRow) -> Sending:
    return Sending(
        step=SendingStep(row.step),
        case_id=row.case_id,
        arm=row.arm,
        sender=row.sender,
        object_uid=row.object_uid,
        host=row.host,
        mask_sha256=row.mask_sha256,
        decision_sha256=row.decision_sha256,
    )


_SENDINGS = Chain(row_type=SendingRow, schema=1, columns_of=_columns, record_of=_record)


def append_sending(store: ReviewStore, sending: Sending) -> Link[Sending]:
    """Write one step at the end of the chain of sendings.

    Raises:
        ReviewError: the database cannot be used; nothing was recorded.
        ResourceError: the disk is full; nothing was recorded.
    """
    with store.transaction(write=True) as session:
        return _SENDINGS.append(session, sending)


def sendings(store: ReviewStore, **wanted: str) -> list[Link[Sending]]:
    """Return all steps of sendings, oldest first; `arm=...`: those of one arm.

    Raises:
        ReviewError: a row was damaged; `verify_sendings` says where.
    """
    with store.transaction() as session:
        return _SENDINGS.links(session, **wanted)


def verify_sendings(store: ReviewStore) -> ChainCheck:
    """Walk the chain of sendings; each must name a decision that is there, and its mask."""
    with store.transaction() as session:
        mask_of = {
            row.sha256: row.corrected_sha256 or row.proposed_sha256
            for row in session.scalars(select(DecisionRow))
        }

        def fault(row: SendingRow) -> str:
            fits = mask_of.get(row.decision_sha256) == row.mask_sha256
            return "" if fits else "its decision is not there, or is about another mask"

        return _SENDINGS.check(session, fault)
