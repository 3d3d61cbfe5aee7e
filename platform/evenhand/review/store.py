"""The review database: decisions are appended, chained by hash (`evenhand.review.chain`).

SQLite runs with a write-ahead log and synchronous=FULL: a decision that was
confirmed survives a power cut. The tables are in `evenhand.review.tables`.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from evenhand.errors import ResourceError, ReviewAwayError, ReviewError
from evenhand.review.chain import ChainCheck, append_row, check_rows
from evenhand.review.decision_rows import to_entry, to_row
from evenhand.review.migration import migrate
from evenhand.review.records import Decision, Entry, Verdict
from evenhand.review.tables import (
    SCHEMA_VERSION,
    Base,
    DecisionRow,
    SchemaRow,
)

__all__ = ["ReviewStore"]

BUSY_TIMEOUT_S = 30
"""How long an append waits for another connection's append."""

CONNECT_TIMEOUT_S = 10
"""How long a database server may take to answer at all."""

_PG_LOCK = 0x4556454E
"""Of PostgreSQL's advisory locks, the one that writers of a review database wait for."""


class ReviewStore:
    """Decisions about proposed masks. Opening makes the database if there is none.

    Args:
        where: a path to an SQLite file, or a database URL. PostgreSQL needs its driver
            (`pip install 'evenhand[postgres]'`).

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
                "file, or a URL such as sqlite:///review.sqlite or postgresql://... with its "
                "driver installed (`pip install 'evenhand[postgres]'`)."
            ) from None
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

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
        with self.transaction(write=True) as session:
            return to_entry(append_row(session, to_row(decision)))

    def entries(self, *, case_id: str | None = None, arm: str | None = None) -> list[Entry]:
        """Return decisions, oldest first; all, or those of one case, of one arm, or of both.

        Raises:
            ReviewError: a row was damaged; `verify` says where.
        """
        query = select(DecisionRow).order_by(DecisionRow.position)
        if case_id is not None:
            query = query.where(DecisionRow.case_id == case_id)
        if arm is not None:
            query = query.where(DecisionRow.arm == arm)
        with self.transaction() as session:
            return [to_entry(row) for row in session.scalars(query)]

    def latest(self, arm: str) -> dict[str, Entry]:
        """Return the latest decision about each case of an arm, by case id."""
        return {entry.decision.case_id: entry for entry in self.entries(arm=arm)}

    def verify(self) -> ChainCheck:
        """Walk the chain from its first decision and report the first break, if any.

        A decision that covers an unaided reading must name one of its own reader, before it,
        about the same proposal.
        """
        unaided: dict[str, tuple[str, ...]] = {}

        def fault(row: DecisionRow) -> str:
            whose = (row.arm, row.case_id, row.stage, row.reader, row.proposed_sha256)
            if row.verdict == Verdict.UNAIDED:
                unaided[row.sha256] = whose
            if row.unaided_sha256 and unaided.get(row.unaided_sha256) != whose:
                return "the unaided reading that it covers is not there, or is another's"
            return ""

        with self.transaction() as session:
            return check_rows(session, DecisionRow, fault)

    def _prepare(self) -> None:
        with self.transaction(write=True) as session:
            connection = session.connection()
            tables = set(inspect(connection).get_table_names())
            if not tables:
                Base.metadata.create_all(connection)
                session.add(SchemaRow(version=SCHEMA_VERSION))
                return
            versions: list[int] = []
            if {"review_schema", "decisions"} <= tables:
                versions = list(session.scalars(select(SchemaRow.version)))
            if len(versions) == 1 and migrate(session, versions[0]):
                versions = [SCHEMA_VERSION]
            if versions != [SCHEMA_VERSION]:
                found = f"review schema {versions[0]}" if versions else "other tables"
                raise ReviewError(
                    f"'{self._name}' has {found}; this version of Evenhand wants review schema "
                    f"{SCHEMA_VERSION}. Move the file away to start a new trail."
                )

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Session]:
        """Open a session; writers wait for each other. An error leaves nothing behind.

        Raises:
            ReviewError: the database is locked, damaged, gone or out of reach.
            ResourceError: the disk is full.
        """
        try:
            engine = self._engine.execution_options(evenhand_write=write)
            if not write and self._engine.dialect.name == "postgresql":
                # All of it as of one moment: what is compared must not change in between.
                engine = engine.execution_options(isolation_level="REPEATABLE READ")
            with Session(engine, expire_on_commit=False) as session, session.begin():
                if write and self._engine.dialect.name == "postgresql":
                    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PG_LOCK})
                yield session
        except DBAPIError as error:
            # A driver's first line says what; what follows may name hosts and statements.
            reason = str(error.orig).partition("\n")[0]
            if "disk is full" in reason:
                raise ResourceError(
                    f"The disk is full; nothing was recorded in '{self._name}'. "
                    "Free some space and decide again."
                ) from None
            raise ReviewAwayError(
                f"The review database '{self._name}' cannot be used ({reason}); "
                "nothing was recorded. Check the file and try again."
            ) from None
        except SQLAlchemyError as error:
            raise ReviewAwayError(
                f"The review database '{self._name}' cannot be used "
                f"({type(error).__name__}); nothing was recorded."
            ) from None


def _open_engine(where: Path | str) -> Engine:
    if isinstance(where, Path):
        url = URL.create("sqlite", database=str(where.absolute()))
    else:
        url = make_url(where)
    if url.get_backend_name() == "postgresql":
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        # A database made under LC_ALL=C would hand out bytes instead of text.
        wanted = {"connect_timeout": CONNECT_TIMEOUT_S, "client_encoding": "utf8"}
        # A server that was away is noticed before a connection is used again.
        return create_engine(url, pool_pre_ping=True, connect_args=wanted)
    if url.get_backend_name() != "sqlite":
        raise ArgumentError
    # A connection a transaction: nothing stays open behind a page that was closed.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _: object) -> None:
    # Python's sqlite3 must not begin transactions on its own: `_begin` does.
    connection.isolation_level = None
    _write_ahead(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _write_ahead(connection: Any) -> None:
    """Turn the write-ahead log on; SQLite itself does not wait for whoever makes the file."""
    last = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > last:
                raise
            time.sleep(0.01)
        else:
            return


def _begin(connection: Connection) -> None:
    # An append reads the last row first: IMMEDIATE takes the write lock before that read, so that
    # two appends cannot both follow the same row.
    write = connection.get_execution_options().get("evenhand_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
