"""The review database: decisions are appended, chained by hash, never changed.

Each row carries the sha256 of its content in canonical JSON (keys sorted, no
spaces, UTF-8), and the content includes the hash of the row before. Changing,
inserting or deleting a row breaks the chain at that place. What a chain cannot
show by itself is rows cut off its end: note `ChainCheck.head_sha256` elsewhere
to prove that nothing was.

SQLite runs with a write-ahead log and synchronous=FULL: a decision that was
confirmed survives a power cut.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Float,
    Integer,
    NullPool,
    String,
    Text,
    create_engine,
    event,
    inspect,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from evenhand.errors import ResourceError, ReviewError
from evenhand.review.records import Decision, Entry, Reason, Verdict

__all__ = ["GENESIS_SHA256", "SCHEMA_VERSION", "ChainCheck", "ReviewStore"]

SCHEMA_VERSION = 1
"""Raised when the columns or the hashed content change."""

GENESIS_SHA256 = "0" * 64
"""What the first decision names as the hash before it."""

BUSY_TIMEOUT_S = 30
"""How long an append waits for another connection's append."""


class _Base(DeclarativeBase):
    """Root of the tables."""


class _SchemaRow(_Base):
    """One row: which layout this database has."""

    __tablename__ = "review_schema"

    version: Mapped[int] = mapped_column(primary_key=True)


class _DecisionRow(_Base):
    """One decision. Text and numbers only, so that the hash is the same on every database."""

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
    slices_seen: Mapped[str] = mapped_column(Text)
    # Unique, so that the chain cannot fork even if two writers get past the lock.
    previous_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)


@event.listens_for(_DecisionRow.__table__, "after_create")
def _forbid_changes(_: object, connection: Connection, **__: object) -> None:
    if connection.dialect.name == "sqlite":
        for operation in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER decisions_no_{operation.lower()} BEFORE {operation} ON decisions "
                "BEGIN SELECT RAISE(ABORT, 'decisions are append-only'); END"
            )


@dataclass(frozen=True, kw_only=True)
class ChainCheck:
    """What `verify` found.

    `length` counts the decisions; `broken_at` is the position of the first one
    that does not fit (None: intact) and `why` says how; `head_sha256` is the
    hash of the last one.
    """

    length: int
    broken_at: int | None
    why: str
    head_sha256: str


class ReviewStore:
    """Decisions about proposed masks. Opening makes the database if there is none.

    Args:
        where: a path to an SQLite file, or a database URL. Other databases than
            SQLite need their driver and are not tested yet.

    Raises:
        ReviewError: this is not a review database of this version.
        ResourceError: the folder cannot be written.
    """

    def __init__(self, where: Path | str) -> None:
        path = where if isinstance(where, Path) or "://" in where else Path(where)
        self._name = path.name if isinstance(path, Path) else "the review database"
        try:
            if isinstance(path, Path):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.touch(mode=0o600)
            self._engine = _open_engine(path)
        except OSError as error:
            raise ResourceError(
                f"The review database '{path}' cannot be written: {error.strerror}. "
                "Give the folder's owner the right to write, or free disk space."
            ) from None
        except (ArgumentError, ModuleNotFoundError):
            raise ReviewError(
                "This is not a database URL that can be opened here; it wants a path to an SQLite "
                "file, or a URL such as sqlite:///review.sqlite with its driver installed."
            ) from None
        self._prepare()

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def append(self, decision: Decision) -> Entry:
        """Write one decision at the end of the chain and return it with its place and time.

        Raises:
            ReviewError: the database is locked, damaged or gone; nothing was recorded.
            ResourceError: the disk is full; nothing was recorded.
        """
        with self._transaction(write=True) as session:
            last = session.scalars(
                select(_DecisionRow).order_by(_DecisionRow.position.desc()).limit(1)
            ).first()
            row = _to_row(
                decision,
                position=1 if last is None else last.position + 1,
                decided_at_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
                previous_sha256=GENESIS_SHA256 if last is None else last.sha256,
            )
            session.add(row)
            session.flush()
            return _to_entry(row)

    def entries(self, *, case_id: str | None = None, arm: str | None = None) -> list[Entry]:
        """Return decisions, oldest first; all, or those of one case, of one arm, or of both.

        Raises:
            ReviewError: a row was damaged; `verify` says where.
        """
        query = select(_DecisionRow).order_by(_DecisionRow.position)
        if case_id is not None:
            query = query.where(_DecisionRow.case_id == case_id)
        if arm is not None:
            query = query.where(_DecisionRow.arm == arm)
        with self._transaction() as session:
            return [_to_entry(row) for row in session.scalars(query)]

    def latest(self, arm: str) -> dict[str, Entry]:
        """Return the latest decision about each case of an arm, by case id."""
        return {entry.decision.case_id: entry for entry in self.entries(arm=arm)}

    def verify(self) -> ChainCheck:
        """Walk the chain from its first decision and report the first break, if any."""
        length, broken_at, why, previous = 0, None, "", GENESIS_SHA256
        with self._transaction() as session:
            query = select(_DecisionRow).order_by(_DecisionRow.position)
            for row in session.scalars(query.execution_options(yield_per=500)):
                length += 1
                if broken_at is None:
                    why = _fault(row, position=length, previous_sha256=previous)
                    broken_at = length if why else None
                previous = row.sha256
        return ChainCheck(length=length, broken_at=broken_at, why=why, head_sha256=previous)

    def _prepare(self) -> None:
        with self._transaction(write=True) as session:
            connection = session.connection()
            tables = set(inspect(connection).get_table_names())
            if not tables:
                _Base.metadata.create_all(connection)
                session.add(_SchemaRow(version=SCHEMA_VERSION))
                return
            versions: list[int] = []
            if {"review_schema", "decisions"} <= tables:
                versions = list(session.scalars(select(_SchemaRow.version)))
            if versions != [SCHEMA_VERSION]:
                found = f"review schema {versions[0]}" if versions else "other tables"
                raise ReviewError(
                    f"'{self._name}' has {found}; this version of Evenhand wants review schema "
                    f"{SCHEMA_VERSION}. Move the file away to start a new trail."
                )

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[Session]:
        try:
            engine = self._engine.execution_options(evenhand_write=write)
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DBAPIError as error:
            reason = str(error.orig)
            if "disk is full" in reason:
                raise ResourceError(
                    f"The disk is full; nothing was recorded in '{self._name}'. "
                    "Free some space and decide again."
                ) from None
            raise ReviewError(
                f"The review database '{self._name}' cannot be used ({reason}); "
                "nothing was recorded. Check the file and try again."
            ) from None
        except SQLAlchemyError as error:
            raise ReviewError(
                f"The review database '{self._name}' cannot be used "
                f"({type(error).__name__}); nothing was recorded."
            ) from None


def _open_engine(where: Path | str) -> Engine:
    if isinstance(where, Path):
        url = URL.create("sqlite", database=str(where.absolute()))
    else:
        url = make_url(where)
    if url.get_backend_name() != "sqlite":
        return create_engine(url)
    # A connection a transaction: nothing stays open behind a page that was closed.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _: object) -> None:
    # Python's sqlite3 must not begin transactions on its own: `_begin` does.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    # An append reads the last row first: IMMEDIATE takes the write lock before that read, so that
    # two appends cannot both follow the same row.
    write = connection.get_execution_options().get("evenhand_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _to_row(
    decision: Decision, *, position: int, decided_at_utc: str, previous_sha256: str
) -> _DecisionRow:
    row = _DecisionRow(
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
        slices_seen=json.dumps(decision.slices_seen, separators=(",", ":")),
        previous_sha256=previous_sha256,
    )
    row.sha256 = _content_sha256(row)
    return row


def _to_entry(row: _DecisionRow) -> Entry:
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
                slices_seen=tuple(json.loads(row.slices_seen)),
            ),
            previous_sha256=row.previous_sha256,
            sha256=row.sha256,
        )
    except (ValueError, TypeError, AttributeError, ReviewError):
        raise ReviewError(
            f"Decision {row.position} of the review database was damaged or changed by hand; "
            "look with `evenhand review RUN --verify` and restore a backup."
        ) from None


def _content_sha256(row: _DecisionRow) -> str:
    columns = [c.name for c in _DecisionRow.__table__.columns if c.name != "sha256"]
    content = {"schema": SCHEMA_VERSION} | {name: getattr(row, name) for name in columns}
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _fault(row: _DecisionRow, *, position: int, previous_sha256: str) -> str:
    if row.position != position:
        return f"decision {position} is missing"
    if row.previous_sha256 != previous_sha256:
        return "it does not follow the decision before it"
    if row.sha256 != _content_sha256(row):
        return "its content was changed after it was recorded"
    return ""
