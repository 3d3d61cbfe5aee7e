"""The privacy ledger: charged before release, refused beyond the grant, never rewritten."""

import math
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest

from evenhand.errors import BudgetError, PrivacyError
from evenhand.privacy import ledger as ledger_module
from evenhand.privacy.accounting import Mechanism, epsilon_of
from evenhand.privacy.ledger import Ledger

DELTA = 1e-3
ROUND = Mechanism(sampling_rate=0.2, noise_multiplier=4.0, steps=5)
"""Costs little, so that several fit a grant."""


def grant_for(rounds):
    """An epsilon that pays for so many rounds and no more."""
    return epsilon_of([ROUND] * rounds, DELTA) + 1e-4


def rows(path, table="charges"):
    """All rows as another program sees them."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608


@pytest.fixture
def path(tmp_path):
    """Where the ledger lies."""
    return tmp_path / "hospital" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    """A ledger whose grant pays for two rounds."""
    own = Ledger(path, "north")
    own.grant(grant_for(2), DELTA)
    return own


def test_charges_compose_over_the_life_of_the_ledger(ledger):
    """What is reported is the composed cost of everything so far, with unit and accountant."""
    first, second = ledger.charge(ROUND, "round 1"), ledger.charge(ROUND, "round 2")
    assert first.epsilon == pytest.approx(epsilon_of([ROUND], DELTA))
    assert second.epsilon == pytest.approx(epsilon_of([ROUND] * 2, DELTA))
    assert second.epsilon < 2 * first.epsilon
    assert (second.steps, second.unit, second.accountant) == (10, "patient", "PRV")
    assert (second.hospital, second.delta, second.granted) == ("north", DELTA, grant_for(2))


def test_spending_survives_reopening(ledger, path):
    """A new process goes on where the last one stopped: restarting does not refill the budget."""
    charged = ledger.charge(ROUND, "round 1")
    again = Ledger(path, "north")
    assert again.spent() == charged
    again.charge(ROUND, "round 2")
    with pytest.raises(BudgetError):
        Ledger(path, "north").charge(ROUND, "round 3")


def test_a_refused_charge_writes_nothing(ledger, path):
    """A step beyond the grant is refused in a sentence, and what is spent stays as it was."""
    ledger.charge(ROUND, "round 1")
    ledger.charge(ROUND, "round 2")
    before = path.read_bytes()
    with pytest.raises(BudgetError, match=r"north has granted epsilon .* would bring it to"):
        ledger.charge(ROUND, "round 3")
    assert path.read_bytes() == before
    assert ledger.spent().steps == 10


def test_the_grant_can_be_used_up_exactly(path):
    """A plan that fits its epsilon exactly must not fail on the last digit."""
    own = Ledger(path, "north")
    own.grant(epsilon_of([ROUND] * 2, DELTA), DELTA)
    own.charge(ROUND, "round 1")
    own.charge(ROUND, "round 2")


def test_a_charge_is_on_disk_before_it_returns(tmp_path):
    """A process that is killed the moment it was charged leaves the charge behind."""
    path = tmp_path / "ledger.sqlite"
    code = f"""
        import os, signal
        from pathlib import Path
        from evenhand.privacy.accounting import Mechanism
        from evenhand.privacy.ledger import Ledger
        own = Ledger(Path({str(path)!r}), "north")
        own.grant(5.0, 1e-3)
        own.charge(Mechanism(0.2, 4.0, 5), "round 1")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [row[2:] for row in rows(path)] == [("round 1", 0.2, 4.0, 5)]


def test_other_processes_see_a_charge_at_once(ledger, path):
    """Nothing of a charge stays in the connection that wrote it; commits wait for the disk."""
    ledger.charge(ROUND, "round 1")
    assert len(rows(path)) == 1
    with closing(ledger._connect()) as connection:
        full = 2
        assert connection.execute("PRAGMA synchronous").fetchone() == (full,)


def test_a_crash_while_charging_leaves_nothing_half_written(ledger, path, monkeypatch):
    """What breaks between pricing and writing is rolled back, and the lock is given up."""

    def crash():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "_now", crash)
        with pytest.raises(KeyboardInterrupt):
            ledger.charge(ROUND, "round 1")
    assert rows(path) == []
    ledger.charge(ROUND, "round 1")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE charges SET noise_multiplier = 100",
        "UPDATE charges SET steps = 0 WHERE id = 1",
        "DELETE FROM charges",
        "REPLACE INTO charges SELECT id, at, purpose, sampling_rate, 100.0, steps FROM charges",
        "INSERT OR REPLACE INTO charges VALUES (1, 'x', 'x', 0.01, 100.0, 1)",
        "UPDATE grants SET epsilon = 100",
        "DELETE FROM grants",
        "INSERT OR REPLACE INTO grants VALUES (1, 'x', 'south', 100.0, 0.001)",
    ],
)
def test_what_is_written_stays(ledger, path, statement):
    """Charges and grants are append-only for every program that opens the file."""
    ledger.charge(ROUND, "round 1")
    before = rows(path), rows(path, "grants")
    with (
        closing(sqlite3.connect(path)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="cannot be"),
        connection,
    ):
        connection.execute(statement)
    assert (rows(path), rows(path, "grants")) == before


def _race(path, barrier, results):
    own = Ledger(path, "north")
    barrier.wait()
    try:
        own.charge(ROUND, "the last of it")
    except BudgetError:
        results.put("refused")
    else:
        results.put("charged")


def test_two_processes_cannot_both_take_the_last_of_the_budget(tmp_path):
    """Reading, pricing and writing are one step: of two at once, one gets the rest."""
    path = tmp_path / "ledger.sqlite"
    Ledger(path, "north").grant(grant_for(1), DELTA)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_race, args=(path, barrier, results)) for _ in range(2)]
    for racer in racers:
        racer.start()
    outcomes = sorted(results.get(timeout=120) for _ in racers)
    for racer in racers:
        racer.join()
    assert outcomes == ["charged", "refused"]
    assert len(rows(path)) == 1


def test_a_ledger_of_another_hospital_is_refused(ledger, path):
    """Two hospitals must not spend one another's budget."""
    other = Ledger(path, "south")
    for use in (
        lambda: other.charge(ROUND, "round 1"),
        other.spent,
        lambda: other.grant(10.0, DELTA),
    ):
        with pytest.raises(PrivacyError, match="ledger of hospital north, not of south"):
            use()
    assert rows(path) == []


def test_no_grant_no_training(path):
    """Without a grant nothing is charged, and nothing is said to be spent."""
    own = Ledger(path, "north")
    assert own.spent() is None
    with pytest.raises(PrivacyError, match="granted no privacy budget"):
        own.charge(ROUND, "round 1")
    assert rows(path) == []


def test_delta_cannot_change(ledger):
    """A larger delta would make the past look cheaper."""
    with pytest.raises(PrivacyError, match="One ledger keeps one delta"):
        ledger.grant(grant_for(2), 2 * DELTA)
    assert ledger.spent().delta == DELTA


def test_an_equal_grant_adds_no_row(ledger, path):
    """Every round grants again; only a change is worth a row."""
    ledger.grant(grant_for(2), DELTA)
    assert len(rows(path, "grants")) == 1


def test_the_last_grant_counts_and_the_past_stays_charged(ledger, path):
    """A larger grant admits more, a smaller one refuses; earlier grants stay on record."""
    ledger.charge(ROUND, "round 1")
    ledger.grant(grant_for(1), DELTA)
    with pytest.raises(BudgetError):
        ledger.charge(ROUND, "round 2")
    ledger.grant(grant_for(3), DELTA)
    assert ledger.charge(ROUND, "round 2").steps == 10
    assert len(rows(path, "grants")) == 3


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0, DELTA), (-1, DELTA), (math.nan, DELTA), (math.inf, DELTA), (1, 0), (1, 1), (1, math.nan)],
)
def test_a_grant_that_bounds_nothing_is_refused(path, epsilon, delta):
    """An endless or undefined epsilon would admit every charge."""
    own = Ledger(path, "north")
    with pytest.raises(PrivacyError, match="grant needs"):
        own.grant(epsilon, delta)
    assert rows(path, "grants") == []


def test_a_cost_that_is_not_a_number_is_refused(ledger, path, monkeypatch):
    """NaN is not above any grant; it must not pass for being below."""
    monkeypatch.setattr(ledger_module, "epsilon_of", lambda *_: math.nan)
    with pytest.raises(BudgetError):
        ledger.charge(ROUND, "round 1")
    assert rows(path) == []
