"""The tables of the review database, and what keeps their chains from being changed by SQL.

Text and numbers only, so that a row's hash (`evenhand.review.chain`) is the same on every
database. A row keeps the layout it was written in: `row_schema` says which columns its hash
covers, so a database that was brought up to date has its old hashes.
"""

from collections.abc import Mapping
from typing import ClassVar

from sqlalchemy import Connection, Float, Integer, String, Table, Text, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "SCHEMA_VERSION",
    "Base",
    "Chained",
    "ChainedAt",
    "ClaimRow",
    "CopyRow",
    "DecisionRow",
    "PersonChangeRow",
    "PersonRow",
    "SchemaRow",
    "SendingRow",
]

SCHEMA_VERSION = 4
"""Raised when the columns or the hashed content change. 2: strokes, Dice, HD95, model, claims.
3: stages, login, signatures, people. 4: unaided readings signed, lesions, changes of people,
copies."""


class Base(DeclarativeBase):
    """Root of the tables."""


class Chained(Base):
    """A row of a chain. `noun` is what it is called, `added` its columns that came later.

    `added` holds columns by the schema that they came with, each with what it holds where nothing
    was said.
    """

    __abstract__ = True

    noun: ClassVar[str]
    added: ClassVar[Mapping[int, Mapping[str, object]]] = {}

    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    # Unique, so that the chain cannot fork even if two writers get past the lock.
    previous_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    row_schema: Mapped[int] = mapped_column(Integer)


class ChainedAt(Chained):
    """A row of a chain of its own, beside that of the decisions."""

    __abstract__ = True

    at_utc: Mapped[str] = mapped_column(String(40))


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


class DecisionRow(Chained):
    """One decision."""

    __tablename__ = "decisions"
    noun = "decision"
    added: ClassVar[Mapping[int, Mapping[str, object]]] = {
        3: {
            "stage": "first",
            "login": "demo",
            "signed_name": "",
            "signed_meaning": "",
            "signed_with": "",
        },
        4: {"unaided_sha256": "", "lesions": ""},
    }

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
    # A page of version 2, which runs on, writes rows of its own layout and does not say so.
    row_schema: Mapped[int] = mapped_column(Integer, server_default="2")
    stage: Mapped[str] = mapped_column(String(20), server_default="first")
    login: Mapped[str] = mapped_column(String(20), server_default="demo")
    signed_name: Mapped[str] = mapped_column(String(100), server_default="")
    signed_meaning: Mapped[str] = mapped_column(Text, server_default="")
    signed_with: Mapped[str] = mapped_column(String(40), server_default="")
    unaided_sha256: Mapped[str] = mapped_column(String(64), server_default="")
    lesions: Mapped[str] = mapped_column(Text, server_default="")


class SendingRow(ChainedAt):
    """One step of a sending to an archive."""

    __tablename__ = "sendings"
    noun = "sending"

    step: Mapped[str] = mapped_column(String(20))
    case_id: Mapped[str] = mapped_column(String(64))
    arm: Mapped[str] = mapped_column(String(100))
    sender: Mapped[str] = mapped_column(String(100))
    object_uid: Mapped[str] = mapped_column(String(64))
    host: Mapped[str] = mapped_column(String(300))
    mask_sha256: Mapped[str] = mapped_column(String(64))
    decision_sha256: Mapped[str] = mapped_column(String(64))


class PersonChangeRow(ChainedAt):
    """One change of who may work here, and of what they may do."""

    __tablename__ = "people_changes"
    noun = "change of people"

    change: Mapped[str] = mapped_column(String(40))
    person_id: Mapped[str] = mapped_column(String(64))
    login: Mapped[str] = mapped_column(String(200))
    name: Mapped[str] = mapped_column(String(100))
    roles: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(String(100))
    way: Mapped[str] = mapped_column(String(20))


class CopyRow(ChainedAt):
    """Masks that were written out of the run as training data."""

    __tablename__ = "copies"
    noun = "copy"

    arm: Mapped[str] = mapped_column(String(100))
    folder: Mapped[str] = mapped_column(Text)
    store: Mapped[str] = mapped_column(Text)
    masks: Mapped[int] = mapped_column(Integer)
    author: Mapped[str] = mapped_column(String(100))
    way: Mapped[str] = mapped_column(String(20))


@event.listens_for(CopyRow.__table__, "after_create")
@event.listens_for(PersonChangeRow.__table__, "after_create")
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
