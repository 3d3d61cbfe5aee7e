"""The hash chain: rows that are appended, each with the hash of the row before, never changed.

Each row carries the sha256 of its content in canonical JSON (keys sorted, no spaces, UTF-8),
and the content includes the hash of the row before. Changing, inserting or deleting a row breaks
the chain at that place. What a chain cannot show by itself is rows cut off its end: note
`ChainCheck.head_sha256` elsewhere to prove that nothing was.

Decisions are one chain; what else is kept of a review (`Chain`) has one a table.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from evenhand.errors import ReviewError
from evenhand.review.tables import Chained, ChainedAt

__all__ = [
    "GENESIS_SHA256",
    "Chain",
    "ChainCheck",
    "Link",
    "append_row",
    "check_rows",
    "content_sha256",
    "damaged",
    "now_text",
]

GENESIS_SHA256 = "0" * 64
"""What the first row names as the hash before it."""

_Row = TypeVar("_Row", bound=Chained)
_Record = TypeVar("_Record")


@dataclass(frozen=True, kw_only=True)
class ChainCheck:
    """What a walk along a chain found.

    `length` counts its rows; `broken_at` is the position of the first one that does not fit
    (None: intact) and `why` says how; `head_sha256` is the hash of the last one.
    """

    length: int
    broken_at: int | None
    why: str
    head_sha256: str


@dataclass(frozen=True, kw_only=True)
class Link(Generic[_Record]):
    """A record as it stands in its chain; `position` counts from 1."""

    position: int
    at_utc: datetime
    record: _Record
    previous_sha256: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Chain(Generic[_Record]):
    """How records of one kind are kept: in which table, as which columns, and how they are read.

    `schema` is raised when their columns change.
    """

    row_type: type[ChainedAt]
    schema: int
    columns_of: Callable[[_Record], Mapping[str, object]]
    record_of: Callable[[Any], _Record]

    def append(self, session: Session, record: _Record) -> Link[_Record]:
        """Write one record at the end, within a session that writes."""
        row = self.row_type(**self.columns_of(record), at_utc=now_text(), row_schema=self.schema)
        return self._link(append_row(session, row))

    def links(self, session: Session, **wanted: str) -> list[Link[_Record]]:
        """Return all records, oldest first, or those whose columns have the wanted values.

        Raises:
            ReviewError: a row was damaged; `check` says where.
        """
        query = select(self.row_type).order_by(self.row_type.position).filter_by(**wanted)
        return [self._link(row) for row in session.scalars(query)]

    def check(self, session: Session, also: Callable[[Any], str] = lambda _: "") -> ChainCheck:
        """Walk the chain; `also` says what else is wrong with a row (empty: nothing)."""
        return check_rows(session, self.row_type, also)

    def _link(self, row: Any) -> Link[_Record]:
        try:
            return Link(
                position=row.position,
                at_utc=datetime.fromisoformat(row.at_utc),
                record=self.record_of(row),
                previous_sha256=row.previous_sha256,
                sha256=row.sha256,
            )
        except (ValueError, TypeError, AttributeError, ReviewError):
            raise damaged(row) from None


def damaged(row: Chained) -> ReviewError:
    """Return the error for a row that cannot be read back."""
    return ReviewError(
        f"{row.noun.capitalize()} {row.position} of the review database was damaged or changed by "
        "hand; look with `evenhand review verify RUN` and restore a backup."
    )


def now_text() -> str:
    """Return the time as rows keep it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def append_row(session: Session, row: _Row) -> _Row:
    """Give a row its place, its link and its hash, and write it."""
    kind = type(row)
    last = session.scalars(select(kind).order_by(kind.position.desc()).limit(1)).first()
    row.position = 1 if last is None else last.position + 1
    row.previous_sha256 = GENESIS_SHA256 if last is None else last.sha256
    row.sha256 = content_sha256(row)
    session.add(row)
    session.flush()
    return row


def check_rows(
    session: Session, kind: type[_Row], also: Callable[[_Row], str] = lambda _: ""
) -> ChainCheck:
    """Walk a table's chain from its first row and report the first break, if any."""
    length, broken_at, why, previous = 0, None, "", GENESIS_SHA256
    query = select(kind).order_by(kind.position).execution_options(yield_per=500)
    for row in session.scalars(query):
        length += 1
        if broken_at is None:
            why = _fault_of(row, position=length, previous_sha256=previous) or also(row)
            broken_at = length if why else None
        previous = row.sha256
    return ChainCheck(length=length, broken_at=broken_at, why=why, head_sha256=previous)


def content_sha256(row: Chained) -> str:
    """Return the hash of all that a row holds but the hash itself, in the row's own layout."""
    left_out = {"sha256", "row_schema", *_added_since(row)}
    columns = [column.name for column in row.__table__.columns if column.name not in left_out]
    content = {"schema": row.row_schema} | {name: getattr(row, name) for name in columns}
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _added_since(row: Chained) -> dict[str, object]:
    """Columns that its layout does not know yet, and what they hold where nothing was said."""
    later = (added for schema, added in row.added.items() if schema > row.row_schema)
    return {name: default for added in later for name, default in added.items()}


def _fault_of(row: Chained, *, position: int, previous_sha256: str) -> str:
    """Say why a row is not the one that belongs at `position`; empty: it is."""
    if row.position != position:
        return f"{row.noun} {position} is missing"
    if row.previous_sha256 != previous_sha256:
        return f"it does not follow the {row.noun} before it"
    slipped_in = any(getattr(row, name) != value for name, value in _added_since(row).items())
    if row.sha256 != content_sha256(row) or slipped_in:
        return "its content was changed after it was recorded"
    return ""
