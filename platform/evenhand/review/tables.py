"""The tables of the review database, and the hash that chains its decisions, and its sendings.

Each decision carries the sha256 of its content in canonical JSON (keys sorted, no
spaces, UTF-8), and the content includes the hash of the decision before. Text and
numbers only, so that the hash is the same on every database.

A row keeps the layout it was written in: `row_schema` says which columns its hash
covers, so a database that was brought up to date has its old hashes.
"""

import hashlib
import json
from datetime import datetime

from sqlalchemy import Connection, Float, Integer, String, Table, Text, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from evenhand.errors import ReviewError
from evenhand.review.records import Decision, Entry, Reason, Signature, Stage, Verdict

__all__ = [
    "ADDED_IN_3",
    "SCHEMA_VERSION",
    "Base",
    "ClaimRow",
    "DecisionRow",
    "PersonRow",
    "SchemaRow",
    "SendingRow",
    "content_sha256",
    "fault_of",
    "to_entry",
    "to_row",
]

SCHEMA_VERSION = 3
"""Raised when the columns or the hashed content change. 2: strokes, Dice, HD95, model, claims.
3: stages, login, signatures, people."""

ADDED_IN_3 = ("stage", "login", "signed_name", "signed_meaning", "signed_with")
"""Columns of decisions that came with schema 3; a row of schema 2 has their defaults."""


class Base(DeclarativeBase):
    """Root of the tables."""


class SchemaRow(Base):
    """One row: which layout this database has."""

    __tablename__ = "review_schema"

    version: Mapped[int] = mapped_column(primary_key=True)


class ClaimRow(Base):
    """Who has a case open. Not part of the trail: claims come and go."""

    __tablename__ = "claims"

    arm: Mapped[str] = mapped_column(String(100), primary_key=True)
    case_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    stage: Mapped[str] = mapped_column(String(20), primary_key=True, server_default="first")
    reader: Mapped[str] = mapped_column(String(100))
    since_s: Mapped[float] = mapped_column(Float(53))
    until_s: Mapped[float] = mapped_column(Float(53))


class PersonRow(Base):
    """Somebody who may work here. `person_id` is a pseudonym; `login` is what the login gives."""

    __tablename__ = "people"

    person_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    login: Mapped[str] = mapped_column(String(200), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    roles: Mapped[str] = mapped_column(Text)
    passphrase: Mapped[str] = mapped_column(Text)
    failures: Mapped[int] = mapped_column(Integer)
    blocked_until_s: Mapped[float] = mapped_column(Float(53))


class DecisionRow(Base):
    """One decision."""

    __tablename__ = "decisions"

    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    decided_at_utc: Mapped[str] = mapped_column(String(40))
    case_id: Mapped[str] = mapped_column(String(64), index=True)
    hospital: Mapped[str] = mapped_column(String(64))
    arm: Mapped[str] = mapped_column(String(100))
    verdict: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str | None] = mapped_column(String(40))
    comment: Mapped[str] = mapped_column(Text)
    reader: Mapped[str] = mapped_column(String(100))
    proposed_sha256: Mapped[str] = mapped_column(String(64))
    corrected_sha256: Mapped[str | None] = mapped_column(String(64))
    corrected_path: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float] = mapped_column(Float(53))
    strokes: Mapped[int] = mapped_column(Integer)
    dice: Mapped[float | None] = mapped_column(Float(53))
    hd95: Mapped[float | None] = mapped_column(Float(53))
    backbone: Mapped[str] = mapped_column(String(100))
    adapter_sha256: Mapped[str] = mapped_column(String(64))
    slices_seen: Mapped[str] = mapped_column(Text)
    # Unique, so that the chain cannot fork even if two writers get past the lock.
    previous_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    # A page of the version before, which runs on, writes rows of its own layout.
    row_schema: Mapped[int] = mapped_column(Integer, server_default="2")
    stage: Mapped[str] = mapped_column(String(20), server_default="first")
    login: Mapped[str] = mapped_column(String(20), server_default="demo")
    signed_name: Mapped[str] = mapped_column(String(100), server_default="")
    signed_meaning: Mapped[str] = mapped_column(Text, server_default="")
    signed_with: Mapped[str] = mapped_column(String(40), server_default="")


class SendingRow(Base):
    """One step of a sending to an archive. A chain of its own, beside that of the decisions."""

    __tablename__ = "sendings"

    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at_utc: Mapped[str] = mapped_column(String(40))
    step: Mapped[str] = mapped_column(String(20))
    case_id: Mapped[str] = mapped_column(String(64))
    arm: Mapped[str] = mapped_column(String(100))
    sender: Mapped[str] = mapped_column(String(100))
    object_uid: Mapped[str] = mapped_column(String(64))
    host: Mapped[str] = mapped_column(String(300))
    mask_sha256: Mapped[str] = mapped_column(String(64))
    decision_sha256: Mapped[str] = mapped_column(String(64))
    row_schema: Mapped[int] = mapped_column(Integer)
    previous_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)


@event.listens_for(SendingRow.__table__, "after_create")
@event.listens_for(DecisionRow.__table__, "after_create")
def _forbid_changes(target: Table, connection: Connection, **__: object) -> None:
    name = target.name
    if connection.dialect.name == "sqlite":
        for operation in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER {name}_no_{operation.lower()} BEFORE {operation} ON {name} "
                f"BEGIN SELECT RAISE(ABORT, '{name} are append-only'); END"
            )
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            f"CREATE OR REPLACE FUNCTION {name}_are_append_only() RETURNS trigger "
            f"LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{name} are append-only'; END $$"
        )
        connection.exec_driver_sql(
            f"CREATE TRIGGER {name}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {name}_are_append_only()"
        )


def to_row(
    decision: Decision, *, position: int, decided_at_utc: str, previous_sha256: str
) -> DecisionRow:
    """Make the row of a decision, with its hash."""
    signed = decision.signature
    row = DecisionRow(
        position=position,
        decided_at_utc=decided_at_utc,
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
        previous_sha256=previous_sha256,
        row_schema=SCHEMA_VERSION,
        stage=decision.stage.value,
        login=decision.login,
        signed_name="" if signed is None else signed.name,
        signed_meaning="" if signed is None else signed.meaning,
        signed_with="" if signed is None else signed.method,
    )
    row.sha256 = content_sha256(row)
    return row


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
            ),
            previous_sha256=row.previous_sha256,
            sha256=row.sha256,
        )
    except (ValueError, TypeError, AttributeError, ReviewError):
        raise ReviewError(
            f"Decision {row.position} of the review database was damaged or changed by hand; "
            "look with `evenhand review verify RUN` and restore a backup."
        ) from None


def _signature(row: DecisionRow) -> Signature | None:
    parts = (row.signed_name, row.signed_meaning, row.signed_with)
    if not any(parts):
        return None
    return Signature(name=parts[0], meaning=parts[1], method=parts[2])


def content_sha256(row: DecisionRow | SendingRow) -> str:
    """Return the hash of all that a row holds but the hash itself."""
    old = isinstance(row, DecisionRow) and row.row_schema == 2
    left_out = {"sha256", "row_schema", *(ADDED_IN_3 if old else ())}
    columns = [c.name for c in row.__table__.columns if c.name not in left_out]
    content = {"schema": row.row_schema} | {name: getattr(row, name) for name in columns}
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _added_since(row: DecisionRow | SendingRow) -> bool:
    """Whether a row of schema 2 says something in columns that its hash does not cover."""
    if not isinstance(row, DecisionRow) or row.row_schema != 2:
        return False
    defaults = ("first", "demo", "", "", "")
    return tuple(getattr(row, name) for name in ADDED_IN_3) != defaults


def fault_of(row: DecisionRow | SendingRow, *, position: int, previous_sha256: str) -> str:
    """Say why a row is not the one that belongs at `position`; empty: it is."""
    what = "decision" if isinstance(row, DecisionRow) else "sending"
    if row.position != position:
        return f"{what} {position} is missing"
    if row.previous_sha256 != previous_sha256:
        return f"it does not follow the {what} before it"
    if row.sha256 != content_sha256(row) or _added_since(row):
        return "its content was changed after it was recorded"
    return ""
