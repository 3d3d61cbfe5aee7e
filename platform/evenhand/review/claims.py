"""Claims: who has a case open now, so that two readers do not work on it unawares.

A claim is a courtesy with an end, not a part of the trail: it runs out when its
reader does nothing, and another reader may take the case over. Each stage has its
own: a second reader does not learn who reads the case first.
"""

from dataclasses import dataclass

from sqlalchemy import delete, select

from evenhand.review.records import Stage
from evenhand.review.store import ReviewStore
from evenhand.review.tables import ClaimRow

__all__ = ["CLAIM_S", "Claim", "active_claims", "claim_case", "release_claim"]

CLAIM_S = 15 * 60.0
"""How long a claim lasts after its reader last did something."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who has a case, since when and until when (seconds since the epoch)."""

    case_id: str
    reader: str
    since_s: float
    until_s: float


def claim_case(
    store: ReviewStore,
    arm: str,
    case_id: str,
    reader: str,
    *,
    now_s: float,
    stage: Stage = Stage.FIRST,
    take_over: bool = False,
) -> Claim:
    """Claim a case, or renew one's claim; return whose it is now, which may be another's.

    Args:
        store: the review database.
        arm: whose proposed masks are reviewed.
        case_id: the case.
        reader: who wants it.
        now_s: seconds since the epoch.
        stage: as which reading of the case.
        take_over: take it even where another reader has it.

    Raises:
        ReviewError: the database cannot be used.
    """
    with store.transaction(write=True) as session:
        row = session.get(ClaimRow, (arm, case_id, stage.value))
        if row is None:
            row = ClaimRow(
                arm=arm,
                case_id=case_id,
                stage=stage.value,
                reader=reader,
                since_s=now_s,
                until_s=now_s,
            )
            session.add(row)
        elif row.reader != reader:
            if row.until_s > now_s and not take_over:
                return _claim(row)
            row.reader, row.since_s = reader, now_s
        row.until_s = now_s + CLAIM_S
        return _claim(row)


def release_claim(
    store: ReviewStore, arm: str, case_id: str, reader: str, *, stage: Stage = Stage.FIRST
) -> None:
    """Give a case back, if it is this reader's."""
    with store.transaction(write=True) as session:
        session.execute(
            delete(ClaimRow).where(
                ClaimRow.arm == arm,
                ClaimRow.case_id == case_id,
                ClaimRow.stage == stage.value,
                ClaimRow.reader == reader,
            )
        )


def active_claims(
    store: ReviewStore, arm: str, *, now_s: float, stage: Stage = Stage.FIRST
) -> dict[str, Claim]:
    """Return the claims of an arm's stage that have not run out, by case id."""
    query = select(ClaimRow).where(
        ClaimRow.arm == arm, ClaimRow.stage == stage.value, ClaimRow.until_s > now_s
    )
    with store.transaction() as session:
        return {row.case_id: _claim(row) for row in session.scalars(query)}


def _claim(row: ClaimRow) -> Claim:
    return Claim(case_id=row.case_id, reader=row.reader, since_s=row.since_s, until_s=row.until_s)
