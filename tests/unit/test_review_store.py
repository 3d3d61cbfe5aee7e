"""The trail of decisions: append-only, chained, and honest about where it was broken."""

import hashlib
import json
import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import pytest

from evenhand.errors import ResourceError, ReviewError
from evenhand.review import (
    GENESIS_SHA256,
    Decision,
    Lesion,
    Reason,
    ReviewStore,
    Stage,
    State,
    Verdict,
    state_of,
)
from review_schemas import behind

PROPOSED = "a" * 64
CORRECTED = "b" * 64


def decision(**changes):
    """A valid acceptance, with changes."""
    fields = {
        "case_id": "n001",
        "hospital": "north",
        "arm": "federated",
        "verdict": Verdict.ACCEPT,
        "reader": "Dr. Lee",
        "proposed_sha256": PROPOSED,
        "seconds": 12.5,
        "slices_seen": (2, 3, 4),
    }
    return Decision(**(fields | changes))


@pytest.fixture
def path(tmp_path):
    """Where the database will be."""
    return tmp_path / "review" / "review.sqlite"


@pytest.fixture
def store(path):
    """An empty store."""
    with ReviewStore(path) as opened:
        yield opened


class TestAppend:
    """What is recorded can be read back whole, and only be added to."""

    def test_all_fields_come_back(self, store):
        """A decision is read as it was written, with its place and a UTC time."""
        given = decision(
            verdict=Verdict.CORRECT,
            reason=Reason.BOUNDARY,
            comment="edge too wide, ödema",
            corrected_sha256=CORRECTED,
            corrected_path="corrected/n001/b.nii.gz",
            strokes=7,
            dice=0.875,
            hd95=1 / 3,
            backbone="mobile_sam",
            adapter_sha256="d" * 64,
            unaided_sha256="e" * 64,
            lesions=(
                Lesion(
                    volume_ml=1 / 3,
                    longest_diameter_mm=20.0,
                    perpendicular_diameter_mm=10.0,
                    slice=3,
                ),
            ),
        )
        entry = store.append(given)
        assert store.entries() == [entry]
        assert entry.decision == given
        assert (entry.position, entry.previous_sha256) == (1, GENESIS_SHA256)
        assert entry.decided_at_utc.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - entry.decided_at_utc) < timedelta(minutes=1)

    def test_each_names_the_hash_before_it(self, store):
        """The chain is linked from the first decision on."""
        first, second = store.append(decision()), store.append(decision(case_id="n002"))
        assert second.previous_sha256 == first.sha256
        assert second.position == 2

    def test_hash_is_canonical_json(self, store, path):
        """Anybody can recompute the hash: sorted keys, no spaces, UTF-8, all columns but itself."""
        entry = store.append(decision(comment="gut ä"))
        connection = sqlite3.connect(path)
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM decisions").fetchone())
        connection.close()
        del row["sha256"]
        row["schema"] = row.pop("row_schema")
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert entry.sha256 == hashlib.sha256(text.encode()).hexdigest()

    @pytest.mark.parametrize(
        "statement", ["UPDATE decisions SET reader = 'x'", "DELETE FROM decisions"]
    )
    def test_database_refuses_changes(self, store, path, statement):
        """Even by SQL a decision is neither changed nor deleted without taking the guard away."""
        store.append(decision())
        connection = sqlite3.connect(path)
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
        connection.close()
        assert len(store.entries()) == 1

    def test_survives_a_power_cut(self, store):
        """The log is written ahead and synced fully, or a confirmed decision could be lost."""
        with store._engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            full = 2  # https://sqlite.org/pragma.html#pragma_synchronous
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == full

    def test_two_connections_at_once(self, path):
        """Appends from two connections wait for each other: no place is lost or taken twice."""
        each = 25
        failures = []

        def append_many(reader):
            try:
                with ReviewStore(path) as own:
                    for _ in range(each):
                        own.append(decision(reader=reader))
            except ReviewError as error:
                failures.append(error)

        threads = [threading.Thread(target=append_many, args=(name,)) for name in ("A", "B")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with ReviewStore(path) as opened:
            check = opened.verify()
            readers = [entry.decision.reader for entry in opened.entries()]
        assert (check.length, check.broken_at) == (2 * each, None)
        assert (readers.count("A"), readers.count("B")) == (each, each)

    def test_opens_by_url_too(self, path):
        """A database URL and a path name the same store."""
        with ReviewStore(path) as opened:
            opened.append(decision())
        with ReviewStore(f"sqlite:///{path}") as opened:
            assert len(opened.entries()) == 1


class TestVerify:
    """A change by hand is found, and where."""

    @pytest.fixture
    def five(self, store):
        """A store with five decisions."""
        for number in range(5):
            store.append(decision(case_id=f"n{number}"))
        return store

    def test_intact(self, five):
        """An untouched chain is intact and ends in its last decision's hash."""
        check = five.verify()
        assert (check.length, check.broken_at, check.why) == (5, None, "")
        assert check.head_sha256 == five.entries()[-1].sha256

    def test_empty(self, store):
        """No decision is no break."""
        assert (store.verify().length, store.verify().broken_at) == (0, None)

    @pytest.mark.parametrize(
        ("statement", "position", "why"),
        [
            ("UPDATE decisions SET verdict = 'reject' WHERE position = 3", 3, "changed"),
            ("UPDATE decisions SET seconds = 1 WHERE position = 5", 5, "changed"),
            ("UPDATE decisions SET verdict = 'nonsense' WHERE position = 1", 1, "changed"),
            ("DELETE FROM decisions WHERE position = 2", 2, "missing"),
            ("UPDATE decisions SET position = 9 WHERE position = 4", 4, "missing"),
        ],
    )
    def test_break_is_located(self, five, path, statement, position, why):
        """The first decision that does not fit is named by its position."""
        behind(path, statement)
        check = five.verify()
        assert check.broken_at == position
        assert why in check.why

    def test_forged_hash_breaks_the_next(self, five, path):
        """Who changes a decision and gives it a fitting hash is betrayed by the one after it."""
        connection = sqlite3.connect(path)
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM decisions WHERE position = 2").fetchone())
        connection.close()
        del row["sha256"]
        row |= {"schema": row.pop("row_schema"), "comment": "never said"}
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        forged = hashlib.sha256(text.encode()).hexdigest()
        behind(
            path,
            "UPDATE decisions SET comment = 'never said' WHERE position = 2",
            f"UPDATE decisions SET sha256 = '{forged}' WHERE position = 2",  # noqa: S608
        )
        check = five.verify()
        assert check.broken_at == 3
        assert "does not follow" in check.why

    def test_cut_end_changes_the_last_hash(self, five, path):
        """What a chain cannot show by itself shows against a last hash noted elsewhere."""
        noted = five.verify().head_sha256
        behind(path, "DELETE FROM decisions WHERE position = 5")
        check = five.verify()
        assert check.broken_at is None
        assert check.head_sha256 != noted

    def test_reading_a_damaged_row_says_so(self, five, path):
        """A row that makes no sense is an error with a way out, not a guess."""
        behind(path, "UPDATE decisions SET verdict = 'nonsense' WHERE position = 4")
        with pytest.raises(ReviewError, match=r"Decision 4 .* review verify"):
            five.entries()


class TestUnaided:
    """A decision covers the unaided reading of the same reader, by its hash."""

    def unaided(self, store, **changes):
        """What Dr. Lee drew before the proposal was shown."""
        given = {"verdict": Verdict.UNAIDED, "corrected_sha256": CORRECTED}
        return store.append(decision(**(given | {"corrected_path": "m.nii.gz"} | changes)))

    def test_covered(self, store):
        """The link comes back, and holds."""
        before = self.unaided(store)
        store.append(decision(unaided_sha256=before.sha256))
        assert store.entries()[-1].decision.unaided_sha256 == before.sha256
        assert store.verify().broken_at is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"reader": "Dr. Roe"},
            {"case_id": "n002"},
            {"arm": "pooled"},
            {"proposed_sha256": "c" * 64},
            {"stage": Stage.SECOND},
            {"verdict": Verdict.ACCEPT, "corrected_sha256": None, "corrected_path": None},
        ],
    )
    def test_anothers(self, store, changes):
        """A link to what is no unaided reading of this reader and this proposal is found."""
        before = self.unaided(store, **changes)
        store.append(decision(unaided_sha256=before.sha256))
        check = store.verify()
        assert check.broken_at == 2
        assert "unaided reading" in check.why

    def test_not_there(self, store):
        """So is a link to nothing."""
        store.append(decision(unaided_sha256="d" * 64))
        assert store.verify().broken_at == 1


class TestState:
    """The latest decision about the mask that is shown now gives the state."""

    def test_latest_wins(self, store):
        """A later decision supersedes; the earlier one stays in the trail."""
        store.append(decision())
        store.append(decision(verdict=Verdict.REJECT, reason=Reason.WRONG_SIDE))
        latest = store.latest("federated")
        assert state_of(latest["n001"], PROPOSED) is State.REJECTED
        assert len(store.entries(case_id="n001")) == 2

    def test_withdrawn_is_open(self, store):
        """A withdrawn decision leaves the case open."""
        store.append(decision())
        store.append(decision(verdict=Verdict.WITHDRAW))
        assert state_of(store.latest("federated")["n001"], PROPOSED) is State.OPEN

    def test_another_mask_is_open(self, store):
        """Nobody has accepted a mask that was made after the decision."""
        entry = store.append(decision())
        assert state_of(entry, PROPOSED) is State.ACCEPTED
        assert state_of(entry, "c" * 64) is State.OPEN

    def test_arms_do_not_mix(self, store):
        """A decision about one arm's mask says nothing about another's."""
        store.append(decision())
        assert store.latest("pooled") == {}


class TestDecision:
    """What could not be understood later is not recorded."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"reader": "  "}, "reader's name"),
            ({"verdict": Verdict.REJECT}, "choose a reason"),
            ({"reason": Reason.BOUNDARY}, "no reason code"),
            ({"verdict": Verdict.REJECT, "reason": Reason.OTHER}, "needs a comment"),
            ({"verdict": Verdict.CORRECT, "reason": Reason.BOUNDARY}, "corrected mask"),
            ({"corrected_sha256": CORRECTED, "corrected_path": "x"}, "corrected mask"),
            ({"proposed_sha256": "A" * 64}, "64 hex digits"),
            ({"seconds": float("nan")}, "seconds"),
            ({"seconds": -1.0}, "seconds"),
            ({"slices_seen": (-1,)}, "counted from 0"),
            ({"comment": "x" * 2001}, "2000"),
            ({"verdict": Verdict.CANNOT_JUDGE}, "cannot judge, choose a reason"),
            ({"strokes": -1}, "counted from 0"),
            ({"dice": float("nan")}, "Dice and HD95"),
            ({"hd95": -1.0}, "Dice and HD95"),
            ({"adapter_sha256": "abc"}, "64 hex digits"),
            ({"case_id": ""}, "case, hospital and arm"),
            ({"unaided_sha256": "abc"}, "64 hex digits"),
        ],
    )
    def test_refused(self, changes, message):
        """Each impossible decision is refused with a sentence that says why."""
        with pytest.raises(ReviewError, match=message):
            decision(**changes)


@pytest.mark.parametrize(
    "changes", [{"volume_ml": -1.0}, {"longest_diameter_mm": float("inf")}, {"slice": -1}]
)
def test_no_size(changes):
    """A lesion's size that cannot be is refused."""
    sizes = {"volume_ml": 1.0, "longest_diameter_mm": 1.0, "perpendicular_diameter_mm": 1.0}
    with pytest.raises(ReviewError, match="from 0 up"):
        Lesion(**(sizes | {"slice": 0} | changes))


class TestOpening:
    """A file that is no review database is left as it is."""

    def test_not_a_database(self, path):
        """A file of something else is refused and not overwritten."""
        path.parent.mkdir()
        path.write_bytes(b"not a database at all" * 100)
        before = path.read_bytes()
        with pytest.raises(ReviewError, match=r"review\.sqlite"):
            ReviewStore(path)
        assert path.read_bytes() == before

    def test_foreign_tables(self, path):
        """Another program's database gets no tables of ours."""
        path.parent.mkdir()
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
        connection.close()
        with pytest.raises(ReviewError, match="other tables"):
            ReviewStore(path)

    def test_later_schema(self, path):
        """A database of a later version is refused, with both versions named."""
        ReviewStore(path).close()
        behind(path, "UPDATE review_schema SET version = 5")
        with pytest.raises(ReviewError, match=r"has review schema 5.*wants review schema 4"):
            ReviewStore(path)

    def test_folder_that_cannot_be(self, tmp_path):
        """Where no folder can be made, the error names the place and the way out."""
        (tmp_path / "file").touch()
        with pytest.raises(ResourceError, match="cannot be written"):
            ReviewStore(tmp_path / "file" / "review.sqlite")

    @pytest.mark.parametrize("url", ["nonsense://", "://", "postgresql+missing://x/y"])
    def test_unusable_url(self, url):
        """A URL that nothing here can open is refused with an example of one that can be."""
        with pytest.raises(ReviewError, match="sqlite:///"):
            ReviewStore(url)

    def test_gone_while_open(self, store, path):
        """A database that vanished takes no decision, and says so."""
        for file in path.parent.iterdir():
            file.unlink()
        with pytest.raises(ReviewError, match="nothing was recorded"):
            store.append(decision())
