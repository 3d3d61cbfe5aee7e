"""What left for an archive: who sent it, when, which object, where to, under which decision.

Two rows a sending: one before the object goes out, one that says what came of it. A
sending that only has the first was broken off: whether the archive has the object is not
known. Rows are appended and chained by hash like decisions, in a chain of their own, and
each names the decision that it was sent under, and the mask that this one stands for.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import select

from evenhand.errors import ReviewError
from evenhand.review.store import GENESIS_SHA256, ChainCheck, ReviewStore
from evenhand.review.tables import DecisionRow, SendingRow, content_sha256, fault_of

__all__ = [
    "Sending",
    "SendingEntry",
    "SendingStep",
    "append_sending",
    "sendings",
    "verify_sendings",
]

_ROW_SCHEMA = 1
"""Raised when the columns of a sending change."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        if not (_SHA256.fullmatch(self.mask_sha256) and _SHA256.fullmatch(self.decision_sha256)):
            raise ReviewError("A sending's hashes must have 64 hex digits.")


@dataclass(frozen=True, kw_only=True)
class SendingEntry:
    """A step as it stands in the trail; `position` counts from 1."""

    position: int
    at_utc: datetime
    sending: Sending
    previous_sha256: str
    sha256: str


def append_sending(store: ReviewStore, sending: Sending) -> SendingEntry:
    """Write one step at the end of the chain of sendings.

    Raises:
        ReviewError: the database cannot be used; nothing was recorded.
        ResourceError: the disk is full; nothing was recorded.
    """
    with store.transaction(write=True) as session:
        last = session.scalars(
            select(SendingRow).order_by(SendingRow.position.desc()).limit(1)
        ).first()
        row = SendingRow(
            **{**vars(sending), "step": sending.step.value},
            position=1 if last is None else last.position + 1,
            at_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
            row_schema=_ROW_SCHEMA,
            previous_sha256=GENESIS_SHA256 if last is None else last.sha256,
        )
        row.sha256 = content_sha256(row)
        session.add(row)
        session.flush()
        return _to_entry(row)


def sendings(store: ReviewStore, *, arm: str | None = None) -> list[SendingEntry]:
    """Return all steps of sendings, oldest first; all, or those of one arm.

    Raises:
        ReviewError: a row was damaged; `verify_sendings` says where.
    """
    query = select(SendingRow).order_by(SendingRow.position)
    if arm is not None:
        query = query.where(SendingRow.arm == arm)
    with store.transaction() as session:
        return [_to_entry(row) for row in session.scalars(query)]


def verify_sendings(store: ReviewStore) -> ChainCheck:
    """Walk the chain of sendings; each must name a decision that is there, and its mask."""
    length, broken_at, why, previous = 0, None, "", GENESIS_SHA256
    with store.transaction() as session:
        mask_of = {row.sha256: _mask_sha256(row) for row in session.scalars(select(DecisionRow))}
        for row in session.scalars(select(SendingRow).order_by(SendingRow.position)):
            length += 1
            if broken_at is None:
                why = fault_of(row, position=length, previous_sha256=previous)
                if not why and mask_of.get(row.decision_sha256) != row.mask_sha256:
                    why = "its decision is not there, or is about another mask"
                broken_at = length if why else None
            previous = row.sha256
    return ChainCheck(length=length, broken_at=broken_at, why=why, head_sha256=previous)


def _mask_sha256(row: DecisionRow) -> str:
    return row.corrected_sha256 or row.proposed_sha256


def _to_entry(row: SendingRow) -> SendingEntry:
    try:
        return SendingEntry(
            position=row.position,
            at_utc=datetime.fromisoformat(row.at_utc),
            sending=Sending(
                step=SendingStep(row.step),
                case_id=row.case_id,
                arm=row.arm,
                sender=row.sender,
                object_uid=row.object_uid,
                host=row.host,
                mask_sha256=row.mask_sha256,
                decision_sha256=row.decision_sha256,
            ),
            previous_sha256=row.previous_sha256,
            sha256=row.sha256,
        )
    except (ValueError, TypeError, ReviewError):
        raise ReviewError(
            f"Sending {row.position} of the review database was damaged or changed by hand; "
            "look with `evenhand review verify RUN` and restore a backup."
        ) from None
