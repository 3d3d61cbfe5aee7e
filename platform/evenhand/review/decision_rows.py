"""Decisions as rows of their table, and back."""

import json
from dataclasses import asdict
from datetime import datetime

from evenhand.errors import ReviewError
from evenhand.review.chain import damaged, now_text
from evenhand.review.records import (
    Decision,
    Entry,
    Lesion,
    Reason,
    Signature,
    Stage,
    Verdict,
)
from evenhand.review.tables import SCHEMA_VERSION, DecisionRow

__all__ = ["lesions_text", "to_entry", "to_row"]


def to_row(decision: Decision) -> DecisionRow:
    """Make the row of a decision that is taken now; it has no place in the chain yet."""
    signed = decision.signature
    return DecisionRow(
        decided_at_utc=now_text(),
        case_id=decision.case_id,
        hospital=decision.hospital,
        arm=decision.arm,
        verdict=decision.verdict.value,
        reason=None if decision.reason is None else decision.reason.value,
        comment=decision.comment,
        reader=decision.reader,
        proposed_sha256=decision.proposed_sha256,
        corrected_sha256=decision.corrected_sha256,
        corrected_path=decision.corrected_path,
        seconds=float(decision.seconds),
        strokes=decision.strokes,
        dice=None if decision.dice is None else float(decision.dice),
        hd95=None if decision.hd95 is None else float(decision.hd95),
        backbone=decision.backbone,
        adapter_sha256=decision.adapter_sha256,
        slices_seen=json.dumps(decision.slices_seen, separators=(",", ":")),
        row_schema=SCHEMA_VERSION,
        stage=decision.stage.value,
        login=decision.login,
        signed_name="" if signed is None else signed.name,
        signed_meaning="" if signed is None else signed.meaning,
        signed_with="" if signed is None else signed.method,
        unaided_sha256=decision.unaided_sha256 or "",
        lesions=lesions_text(decision.lesions),
    )


def to_entry(row: DecisionRow) -> Entry:
    """Read a row back.

    Raises:
        ReviewError: it was damaged; `verify` says where.
    """
    try:
        return Entry(
            position=row.position,
            decided_at_utc=datetime.fromisoformat(row.decided_at_utc),
            decision=Decision(
                case_id=row.case_id,
                hospital=row.hospital,
                arm=row.arm,
                verdict=Verdict(row.verdict),
                reason=None if row.reason is None else Reason(row.reason),
                comment=row.comment,
                reader=row.reader,
                proposed_sha256=row.proposed_sha256,
                corrected_sha256=row.corrected_sha256,
                corrected_path=row.corrected_path,
                seconds=row.seconds,
                strokes=row.strokes,
                dice=row.dice,
                hd95=row.hd95,
                backbone=row.backbone,
                adapter_sha256=row.adapter_sha256,
                slices_seen=tuple(json.loads(row.slices_seen)),
                stage=Stage(row.stage),
                login=row.login,
                signature=_signature(row),
                unaided_sha256=row.unaided_sha256 or None,
                lesions=_lesions(row.lesions),
            ),
            previous_sha256=row.previous_sha256,
            sha256=row.sha256,
        )
    except (ValueError, TypeError, AttributeError, ReviewError):
        raise damaged(row) from None


def lesions_text(lesions: tuple[Lesion, ...] | None) -> str:
    """Return figures as JSON, a list of objects; empty: nothing was measured."""
    if lesions is None:
        return ""
    return json.dumps([asdict(one) for one in lesions], separators=(",", ":"))


def _lesions(text: str) -> tuple[Lesion, ...] | None:
    return tuple(Lesion(**one) for one in json.loads(text)) if text else None


def _signature(row: DecisionRow) -> Signature | None:
    parts = (row.signed_name, row.signed_meaning, row.signed_with)
    if not any(parts):
        return None
    return Signature(name=parts[0], meaning=parts[1], method=parts[2])
