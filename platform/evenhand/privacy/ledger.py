"""What one hospital has spent of its patients' privacy, on disk and append-only.

The ledger lies with the hospital, outside Flower, whose state ends with a run. A
charge is on disk before the update that it pays for leaves; a round that fails
afterwards stays charged. A charge that would exceed the grant is refused.
"""

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from evenhand.errors import BudgetError, PrivacyError
from evenhand.privacy.accounting import ACCOUNTANT, UNIT, Mechanism, epsilon_of

__all__ = ["Grant", "Ledger", "Spending"]

_SCHEMA = (
    (
        "CREATE TABLE IF NOT EXISTS grants (id INTEGER PRIMARY KEY, at TEXT NOT NULL, "
        "hospital TEXT NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL)"
    ),
    (
        "CREATE TABLE IF NOT EXISTS charges (id INTEGER PRIMARY KEY, at TEXT NOT NULL, "
        "purpose TEXT NOT NULL, sampling_rate REAL NOT NULL, noise_multiplier REAL NOT NULL, "
        "steps INTEGER NOT NULL)"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS charges_stay BEFORE UPDATE ON charges "
        "BEGIN SELECT RAISE(ABORT, 'a charge cannot be changed'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS charges_are_kept BEFORE DELETE ON charges "
        "BEGIN SELECT RAISE(ABORT, 'a charge cannot be removed'); END"
    ),
    (
        # REPLACE removes the old row without asking the trigger above.
        "CREATE TRIGGER IF NOT EXISTS charges_are_not_replaced BEFORE INSERT ON charges "
        "WHEN EXISTS (SELECT 1 FROM charges WHERE id = NEW.id) "
        "BEGIN SELECT RAISE(ABORT, 'a charge cannot be replaced'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS grants_stay BEFORE UPDATE ON grants "
        "BEGIN SELECT RAISE(ABORT, 'a grant cannot be changed'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS grants_are_kept BEFORE DELETE ON grants "
        "BEGIN SELECT RAISE(ABORT, 'a grant cannot be removed'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS grants_are_not_replaced BEFORE INSERT ON grants "
        "WHEN EXISTS (SELECT 1 FROM grants WHERE id = NEW.id) "
        "BEGIN SELECT RAISE(ABORT, 'a grant cannot be replaced'); END"
    ),
)

_ROUNDING = 1e-6
"""Room for floating point when the last charge uses up the grant exactly."""


@dataclass(frozen=True)
class Grant:
    """The most that may be spent on this hospital's patients."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class Spending:
    """What was spent, in words that can stand in a report."""

    hospital: str
    epsilon: float
    delta: float
    granted: float
    steps: int
    unit: str = UNIT
    accountant: str = ACCOUNTANT.upper()


class Ledger:
    """The ledger of one hospital.

    Args:
        path: SQLite file; made if it does not exist.
        hospital: whose patients are protected.
    """

    def __init__(self, path: Path, hospital: str) -> None:
        self.path = path
        self.hospital = hospital
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._write() as connection:
            for statement in _SCHEMA:
                connection.execute(statement)

    def grant(self, epsilon: float, delta: float) -> None:
        """Set what may be spent in all. A grant equal to the present one changes nothing.

        Raises:
            PrivacyError: the figures make no sense, or delta differs from before.
        """
        if not 0 < epsilon < math.inf or not 0 < delta < 1:
            raise PrivacyError(
                f"Hospital {self.hospital}: a grant needs a finite epsilon above 0 and delta "
                f"between 0 and 1; got {epsilon} and {delta}."
            )
        with self._write() as connection:
            present = self._grant(connection)
            if present == Grant(epsilon, delta):
                return
            if present is not None and present.delta != delta:
                raise PrivacyError(
                    f"Hospital {self.hospital}: the ledger's delta is {present.delta:g}; "
                    f"{delta:g} came in. One ledger keeps one delta."
                )
            connection.execute(
                "INSERT INTO grants (at, hospital, epsilon, delta) VALUES (?, ?, ?, ?)",
                (_now(), self.hospital, epsilon, delta),
            )

    def charge(self, mechanism: Mechanism, purpose: str) -> Spending:
        """Write a charge to disk, or refuse it. Returns what is spent with it.

        Raises:
            BudgetError: the grant would be exceeded; nothing is written.
            PrivacyError: nothing was granted.
        """
        with self._write() as connection:
            grant = self._grant(connection)
            if grant is None:
                raise PrivacyError(
                    f"Hospital {self.hospital} has granted no privacy budget; nothing is trained."
                )
            before = list(_charges(connection))
            spending = self._spending([*before, mechanism], grant)
            if not spending.epsilon <= grant.epsilon + _ROUNDING:  # so that NaN is refused
                raise BudgetError(
                    f"Hospital {self.hospital} has granted epsilon {grant.epsilon:g}; this step "
                    f"would bring it to {spending.epsilon:.3f}. Grant more, or stop here."
                )
            connection.execute(
                "INSERT INTO charges (at, purpose, sampling_rate, noise_multiplier, steps) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    _now(),
                    purpose,
                    mechanism.sampling_rate,
                    mechanism.noise_multiplier,
                    mechanism.steps,
                ),
            )
        return spending

    def spent(self) -> Spending | None:
        """What is spent so far; None where nothing was granted."""
        with closing(self._connect()) as connection:
            grant = self._grant(connection)
            return None if grant is None else self._spending(list(_charges(connection)), grant)

    def _spending(self, mechanisms: list[Mechanism], grant: Grant) -> Spending:
        return Spending(
            hospital=self.hospital,
            epsilon=epsilon_of(mechanisms, grant.delta),
            delta=grant.delta,
            granted=grant.epsilon,
            steps=sum(one.steps for one in mechanisms),
        )

    def _grant(self, connection: sqlite3.Connection) -> Grant | None:
        row = connection.execute(
            "SELECT hospital, epsilon, delta FROM grants ORDER BY id DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        if row[0] != self.hospital:
            raise PrivacyError(
                f"'{self.path}' is the ledger of hospital {row[0]}, not of {self.hospital}."
            )
        return Grant(row[1], row[2])

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        # FULL: a commit returns only when it is on the disk.
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with closing(self._connect()) as connection:
            # Two processes must not both take the last of the budget: lock before reading.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def _charges(connection: sqlite3.Connection) -> Iterator[Mechanism]:
    rows = connection.execute(
        "SELECT sampling_rate, noise_multiplier, steps FROM charges ORDER BY id"
    )
    return (Mechanism(rate, sigma, steps) for rate, sigma, steps in rows)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
