"""The privacy ledger: charged before release, refused beyond the grant, never rewritten."""

import json
import math
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from datetime import timedelta
from functools import cache

import pytest

from evenhand.errors import BudgetError, LedgerError, PrivacyError
from evenhand.privacy import ledger as ledger_module
from evenhand.privacy.accounting import Mechanism, epsilon_of, rdp_epsilon_of
from evenhand.privacy.cohort import Cohort
from evenhand.privacy.keys import HospitalKey
from evenhand.privacy.ledger import Ledger, Receipt
from evenhand.privacy.ledger_check import LedgerCopy

DELTA = 1e-3
ROUND = Mechanism(sampling_rate=0.2, noise_multiplier=4.0, steps=5)
"""Costs little, so that several fit a grant."""


@cache
def grant_for(rounds):
    """An epsilon that pays for so many rounds and no more."""
    return epsilon_of([ROUND] * rounds, DELTA) + 1e-4


def rows(path, kind="charge"):
    """Contents of all entries of a kind as another program sees them."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT content FROM entries WHERE kind = ?", (kind,))
        return [json.loads(content) for (content,) in found]


def cohort_of(ledger, *names):
    """A cohort of patients by name, whose images have their names."""
    return Cohort.of(ledger.key, {name: [f"image of {name}"] for name in names})


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
    ledger.charge(ROUND, "round 1")
    first = ledger.spent()
    ledger.charge(ROUND, "round 2")
    second = ledger.spent()
    assert first.epsilon == pytest.approx(epsilon_of([ROUND], DELTA))
    assert second.epsilon == pytest.approx(epsilon_of([ROUND] * 2, DELTA))
    assert second.epsilon < 2 * first.epsilon
    assert (second.steps, second.unit, second.accountant) == (10, "patient", "PRV")
    assert (second.hospital, second.delta, second.granted) == ("north", DELTA, grant_for(2))


def test_spending_survives_reopening(ledger, path):
    """A new process goes on where the last one stopped: restarting does not refill the budget."""
    ledger.charge(ROUND, "round 1")
    again = Ledger(path, "north")
    assert again.spent() == ledger.spent()
    again.charge(ROUND, "round 2")
    with pytest.raises(BudgetError):
        Ledger(path, "north").charge(ROUND, "round 3")


def test_a_refused_charge_writes_nothing(ledger, path):
    """A step beyond the grant is refused in a sentence, and what is spent stays as it was."""
    ledger.charge(ROUND, "round 1")
    ledger.charge(ROUND, "round 2")
    before = path.read_bytes()
    with pytest.raises(BudgetError, match=r"north has granted epsilon .* would bring it to"):
        ledger.charge(ROUND, "round 3", cohort=cohort_of(ledger, "a"))
    assert path.read_bytes() == before
    assert ledger.spent().steps == 10


def test_the_grant_can_be_used_up_exactly(path):
    """A plan that fits its epsilon exactly must not fail on the last digit, nor on RDP's slack."""
    exact = epsilon_of([ROUND] * 2, DELTA)
    assert rdp_epsilon_of([ROUND] * 2, DELTA) > exact
    own = Ledger(path, "north")
    own.grant(exact, DELTA)
    own.charge(ROUND, "round 1")
    own.charge(ROUND, "round 2")


def test_affords_answers_as_a_charge_would_and_writes_nothing(ledger, path):
    """What is asked before a run is what is decided in it."""
    ledger.affords(ROUND)
    with pytest.raises(BudgetError):
        ledger.affords(Mechanism(0.2, 4.0, 500))
    assert rows(path) == []


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
    (row,) = rows(path)
    assert (row["purpose"], row["sampling_rate"], row["steps"]) == ("round 1", 0.2, 5)


def test_commits_wait_for_the_disk(ledger, path):
    """EXTRA also syncs the journal's deletion: with FULL a power cut could undo the last one."""
    ledger.charge(ROUND, "round 1")
    assert len(rows(path)) == 1
    with closing(ledger._file._connect()) as connection:
        extra = 3
        assert connection.execute("PRAGMA synchronous").fetchone() == (extra,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_crash_while_charging_leaves_nothing_half_written(ledger, path, monkeypatch):
    """What breaks between two rows of one charge is rolled back, and the lock is given up."""
    real = ledger_module.seal

    def crash(before, at, kind, body, key):
        if kind == "charge":  # its cohort's row is written already
            raise KeyboardInterrupt
        return real(before, at, kind, body, key)

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "seal", crash)
        with pytest.raises(KeyboardInterrupt):
            ledger.charge(ROUND, "round 1", cohort=cohort_of(ledger, "a"))
    assert rows(path) == rows(path, "cohort") == []
    ledger.charge(ROUND, "round 1")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET content = replace(content, '4.0', '9.0')",
        "UPDATE entries SET at = '' WHERE position = 1",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE position = 3",
        "REPLACE INTO entries SELECT * FROM entries",
        "INSERT OR REPLACE INTO entries VALUES (2, 'x', 'grant', '{}', 'x', 'x', 'x')",
    ],
)
def test_what_is_written_stays(ledger, path, statement):
    """Entries are append-only for every program that opens the file."""
    ledger.charge(ROUND, "round 1")
    before = rows(path), rows(path, "grant")
    with (
        closing(sqlite3.connect(path)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="cannot be"),
        connection,
    ):
        connection.execute(statement)
    assert (rows(path), rows(path, "grant")) == before


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
    outcomes = sorted(results.get(timeout=300) for _ in racers)
    for racer in racers:
        racer.join()
    assert outcomes == ["charged", "refused"]
    assert len(rows(path)) == 1
    assert LedgerCopy.read(path).faults() == []


def test_a_ledger_of_another_hospital_is_refused(ledger, path):
    """Two hospitals must not spend one another's budget."""
    other = Ledger(path, "south")
    for use in (
        lambda: other.charge(ROUND, "round 1"),
        other.spent,
        lambda: other.grant(10.0, DELTA),
        lambda: other.affords(ROUND),
    ):
        with pytest.raises(LedgerError, match="ledger of hospital north, not of south"):
            use()
    assert rows(path) == []


def test_a_ledger_of_another_key_is_refused(ledger, path, tmp_path):
    """A key that was made anew must not go on with an old ledger: its signatures would differ."""
    stranger = Ledger(path, "north", key=HospitalKey.open(tmp_path / "elsewhere"))
    with pytest.raises(LedgerError, match=r"belongs to the key .* the key beside it is"):
        stranger.charge(ROUND, "round 1")
    assert rows(path) == []


def test_a_key_that_is_gone_is_not_made_anew(ledger, path):
    """Beside an old ledger no new key appears; the sentence says to restore the right one."""
    (path.parent / "signing.key").unlink()
    with pytest.raises(LedgerError, match=r"signing\.key' .* is missing"):
        Ledger(path, "north").charge(ROUND, "round 1")
    assert not (path.parent / "signing.key").exists()


def test_a_ledger_that_was_deleted_is_missed(ledger, path):
    """A fresh ledger would forget what is spent: the head remembers that there was one."""
    ledger.charge(ROUND, "round 1")
    path.unlink()
    with pytest.raises(LedgerError, match="All entries are gone"):
        Ledger(path, "north")


def test_no_grant_no_training(path):
    """Without a grant nothing is charged, and nothing is said to be spent."""
    own = Ledger(path, "north")
    assert own.spent() is None
    with pytest.raises(PrivacyError, match="granted no privacy budget"):
        own.charge(ROUND, "round 1")
    assert rows(path) == []


def test_delta_cannot_grow(ledger):
    """A larger delta would make the past look cheaper; a smaller one makes it dearer."""
    ledger.charge(ROUND, "round 1")
    before = ledger.spent()
    with pytest.raises(PrivacyError, match="never larger"):
        ledger.grant(grant_for(2), 2 * DELTA)
    assert ledger.spent() == before
    ledger.grant(2 * grant_for(2), DELTA / 10)
    assert ledger.spent().epsilon > before.epsilon


def test_an_equal_grant_adds_no_row(ledger, path):
    """Only a change is worth an entry."""
    ledger.grant(grant_for(2), DELTA)
    assert len(rows(path, "grant")) == 1


def test_the_last_grant_counts_and_the_past_stays_charged(ledger, path):
    """A larger grant admits more, a smaller one refuses; earlier grants stay on record."""
    ledger.charge(ROUND, "round 1")
    ledger.grant(grant_for(1), DELTA)
    with pytest.raises(BudgetError):
        ledger.charge(ROUND, "round 2")
    ledger.grant(grant_for(3), DELTA, by="A. Osei", reason="second study")
    ledger.charge(ROUND, "round 2")
    assert ledger.spent().steps == 10
    grants = rows(path, "grant")
    assert len(grants) == 3
    assert (grants[-1]["by"], grants[-1]["reason"]) == ("A. Osei", "second study")


def test_the_policys_limit_goes_before_a_larger_grant(ledger, path):
    """Whatever was granted, a charge stays under what the site policy allows now."""
    limited = Ledger(path, "north", at_most=grant_for(1))
    limited.charge(ROUND, "round 1")
    with pytest.raises(BudgetError, match=f"{grant_for(1):g}"):
        limited.charge(ROUND, "round 2")


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0, DELTA), (-1, DELTA), (math.nan, DELTA), (math.inf, DELTA), (1, 0), (1, 1), (1, math.nan)],
)
def test_a_grant_that_bounds_nothing_is_refused(path, epsilon, delta):
    """An endless or undefined epsilon would admit every charge."""
    own = Ledger(path, "north")
    with pytest.raises(PrivacyError, match="grant needs"):
        own.grant(epsilon, delta)
    assert rows(path, "grant") == []


def test_a_cost_that_is_not_a_number_is_refused(ledger, path, monkeypatch):
    """NaN is not above any grant; it must not pass for being below."""
    monkeypatch.setattr(ledger_module, "epsilon_of", lambda *_: math.nan)
    monkeypatch.setattr(ledger_module, "rdp_epsilon_of", lambda *_: math.nan)
    with pytest.raises(BudgetError):
        ledger.charge(ROUND, "round 1")
    assert rows(path) == []


class TestCohorts:
    """A charge applies to the patients in it: the same ones compose, others do not."""

    def test_the_same_patients_in_two_studies_compose(self, ledger):
        """A second run over the same patients does not start at nothing."""
        for study in ("first", "second"):
            ledger.charge(ROUND, "round 1", study=study, cohort=cohort_of(ledger, "a", "b"))
        assert ledger.spent().steps == 10
        assert ledger.spent("first").steps == 5
        with pytest.raises(BudgetError):
            ledger.charge(ROUND, "round 1", study="third", cohort=cohort_of(ledger, "b", "a"))

    def test_disjoint_patients_do_not(self, ledger):
        """Four rounds on four cohorts cost each patient one."""
        for name in "abcd":
            ledger.charge(ROUND, "round", cohort=cohort_of(ledger, name))
        assert ledger.spent().epsilon == pytest.approx(epsilon_of([ROUND], DELTA))

    def test_one_patient_in_both_is_enough(self, ledger):
        """What is spent is what the worst patient has spent."""
        ledger.charge(ROUND, "round 1", cohort=cohort_of(ledger, "a", "b"))
        ledger.charge(ROUND, "round 2", cohort=cohort_of(ledger, "b", "c"))
        assert ledger.spent().steps == 10
        with pytest.raises(BudgetError):
            ledger.charge(ROUND, "round 3", cohort=cohort_of(ledger, "b"))
        ledger.charge(ROUND, "round 3", cohort=cohort_of(ledger, "a"))

    def test_a_charge_without_a_cohort_counts_for_everybody(self, ledger):
        """Where it is not known whose data went in, all may have."""
        ledger.charge(ROUND, "round 1", cohort=cohort_of(ledger, "a"))
        ledger.charge(ROUND, "round 2")
        for cohort in (cohort_of(ledger, "a"), None):
            with pytest.raises(BudgetError):
                ledger.charge(ROUND, "round 3", cohort=cohort)

    def test_a_new_pseudonym_with_old_images_is_the_same_person(self, ledger):
        """A table with new ids must not refill the budget."""
        for name in ("old", "new"):
            ledger.charge(ROUND, "round", cohort=Cohort.of(ledger.key, {name: ["scan"]}))
        assert ledger.spent().steps == 10

    def test_a_cohort_is_written_once_and_names_nobody(self, ledger, path):
        """The ledger holds keyed tags: no id, no image hash, and nothing to try ids against."""
        for number in range(2):
            ledger.charge(ROUND, f"round {number}", cohort=cohort_of(ledger, "P0042"))
        assert len(rows(path, "cohort")) == 1
        assert b"P0042" not in path.read_bytes()
        assert b"image of" not in path.read_bytes()


class TestClock:
    """Entries are in the order of time, and a clock that goes backwards is told."""

    def test_far_backwards_is_refused(self, ledger, path, monkeypatch):
        """Nothing is charged; the sentence gives both times and the way out."""
        past = ledger_module._now() - timedelta(days=2)
        monkeypatch.setattr(ledger_module, "_now", lambda: past)
        with pytest.raises(LedgerError, match=r"clock says .*last entry is of .*--accept-clock"):
            ledger.charge(ROUND, "round 1")
        assert rows(path) == []

    def test_a_small_correction_is_recorded(self, ledger, path, monkeypatch):
        """What a time server does keeps its order, and how far it was behind is written."""
        past = ledger_module._now() - timedelta(seconds=90)
        monkeypatch.setattr(ledger_module, "_now", lambda: past)
        ledger.charge(ROUND, "round 1")
        (row,) = rows(path)
        assert 85 < row["clock_behind_s"] < 95
        assert LedgerCopy.read(path).faults() == []

    def test_accepted_with_a_name_it_goes_on(self, ledger, path, monkeypatch):
        """A clock that was ahead by a year must not stop the hospital for a year."""
        real = ledger_module._now()
        monkeypatch.setattr(ledger_module, "_now", lambda: real + timedelta(days=365))
        ledger.charge(ROUND, "in the future")
        monkeypatch.setattr(ledger_module, "_now", lambda: real)
        with pytest.raises(LedgerError):
            ledger.charge(ROUND, "now")
        ledger.accept_clock("A. Osei")
        ledger.charge(ROUND, "now")
        assert rows(path, "clock") == [{"by": "A. Osei"}]
        assert LedgerCopy.read(path).faults() == []


def test_a_receipt_names_the_entry(ledger, path):
    """Position and hash of what was written, so that it can be asked for later."""
    receipt = ledger.charge(ROUND, "round 1")
    assert isinstance(receipt, Receipt)
    assert LedgerCopy.read(path).faults(receipts=[receipt]) == []
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT at, hash FROM entries WHERE position = ?", (receipt.position,)
        ).fetchone()
    assert found == (receipt.at, receipt.hash)
