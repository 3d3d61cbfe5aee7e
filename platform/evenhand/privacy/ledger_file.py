"""The ledger on disk: entries in SQLite, appended under a lock, the head beside it.

SQLite keeps its rollback journal with `synchronous = EXTRA`: a commit returns when the rows
and the end of the journal are on the disk. FULL is not enough in this mode, since a journal
whose deletion was lost with the power would undo the last commit. The write-ahead log would
be quicker, but then the newest rows lie in a second file that a copy forgets, and it does
not work on network disks. Other programs cannot change or delete rows by accident (triggers);
that somebody did on purpose is found by the chain (`evenhand.privacy.chain`).

The head is written after the commit. A process that is killed in between leaves a head that
is one transaction behind, which is mended before the next entry is written.
"""

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from evenhand.artifacts import write_atomically
from evenhand.errors import LedgerError
from evenhand.privacy.chain import Entry, Head

__all__ = ["LEDGER_FILE", "LedgerFile", "LedgerWriter"]

LEDGER_FILE = "ledger.sqlite"
"""Name of a ledger in a hospital's own place."""

_COLUMNS = "position, at, kind, content, previous, hash, signature"
_SCHEMA = (
    (
        "CREATE TABLE IF NOT EXISTS entries (position INTEGER PRIMARY KEY, at TEXT NOT NULL, "
        "kind TEXT NOT NULL, content TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL, "
        "signature TEXT NOT NULL)"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS entries_stay BEFORE UPDATE ON entries "
        "BEGIN SELECT RAISE(ABORT, 'an entry cannot be changed'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS entries_are_kept BEFORE DELETE ON entries "
        "BEGIN SELECT RAISE(ABORT, 'an entry cannot be removed'); END"
    ),
    # REPLACE removes the old row without asking the trigger above.
    (
        "CREATE TRIGGER IF NOT EXISTS entries_are_not_replaced BEFORE INSERT ON entries "
        "WHEN EXISTS (SELECT 1 FROM entries WHERE position = NEW.position) "
        "BEGIN SELECT RAISE(ABORT, 'an entry cannot be replaced'); END"
    ),
)
_BUSY_S = 60


class LedgerFile:
    """Entries on disk, and how far they ought to go.

    Args:
        path: the SQLite file; see `writing`, which makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head_path = path.with_suffix(".head")

    def entries(self) -> list[Entry]:
        """All entries as they lie there, right or wrong; none where there is no file.

        Raises:
            LedgerError: the file is not a ledger of this version, or SQLite cannot read it.
        """
        if not self.path.exists():
            return []
        with self._errors(), closing(self._connect()) as connection:
            return self._read(connection)

    def head(self) -> Head | None:
        """The signed head; None where there is none, or none that can be read."""
        try:
            return Head(**json.loads(self.head_path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @contextmanager
    def writing(self) -> Iterator["LedgerWriter"]:
        """Hold the ledger for one transaction: all that is appended, or nothing.

        Two processes must not both take the last of the budget, so the lock is held from
        before the entries are read until the head is written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (
            self._errors(),
            self.path.with_suffix(".lock").open("a") as lock,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)
            with closing(self._connect()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    for statement in _SCHEMA:
                        connection.execute(statement)
                    self.path.chmod(0o600)
                    writer = LedgerWriter(connection, self._read(connection))
                    yield writer
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            if writer.head is not None and writer.head != self.head():
                content = json.dumps(asdict(writer.head), indent=1)
                write_atomically(self.head_path, content.encode())

    def _read(self, connection: sqlite3.Connection) -> list[Entry]:
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'entries'")
        if tables.fetchone() == (0,):  # somebody is about to begin it
            return []
        rows = connection.execute(f"SELECT {_COLUMNS} FROM entries ORDER BY position")  # noqa: S608
        return [Entry(*row) for row in rows]

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        # A byte that is no UTF-8 any more is to be found by the chain, with its position.
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        connection.execute("PRAGMA synchronous = EXTRA")
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerError(
                f"'{self.path}' cannot be read or written as a ledger ({error}). Nothing is "
                "charged. If it is damaged, restore it from a copy; if another program holds it, "
                "end that one."
            ) from None


class LedgerWriter:
    """One transaction on a ledger.

    Attributes:
        entries: what is there, with what was appended.
        head: what the head is to say after the commit; None leaves it.
    """

    def __init__(self, connection: sqlite3.Connection, entries: list[Entry]) -> None:
        self._connection = connection
        self.entries = entries
        self.head: Head | None = None

    def append(self, entry: Entry) -> None:
        """Add an entry; on disk when the transaction has ended."""
        row = (
            entry.position,
            entry.at,
            entry.kind,
            entry.content,
            entry.previous,
            entry.hash,
            entry.signature,
        )
        self._connection.execute(
            f"INSERT INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            row,
        )
        self.entries.append(entry)
