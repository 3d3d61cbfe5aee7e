"""A review database of the version before is brought up to date, and its old hashes hold."""

import sqlite3

import pytest

import review_schema2
from evenhand.errors import ReviewError
from evenhand.review import (
    Decision,
    ReviewStore,
    Signature,
    Stage,
    Verdict,
    active_claims,
    claim_case,
    people,
)


@pytest.fixture
def path(tmp_path):
    """A database of schema 2 with three decisions."""
    path = tmp_path / "review.sqlite"
    names, values = review_schema2.rows()
    with sqlite3.connect(path) as connection:
        for statement in (*review_schema2.CREATE, *review_schema2.SQLITE_GUARD):
            connection.execute(statement)
        places = ", ".join("?" for _ in names)
        connection.executemany(f"INSERT INTO decisions VALUES ({places})", values)  # noqa: S608
    connection.close()
    return path


def signed():
    """A signed acceptance of the second reader."""
    return Decision(
        case_id="n001",
        hospital="north",
        arm="federated",
        verdict=Verdict.ACCEPT,
        reader="r2",
        proposed_sha256="a" * 64,
        seconds=1.0,
        slices_seen=(2,),
        stage=Stage.SECOND,
        login="proxy",
        signature=Signature(name="Dr. Lee", meaning="I accept", method="passphrase"),
    )


def execute(path, *statements):
    """Change the file behind the store's back."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER IF EXISTS decisions_no_update")
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_old_decisions_stay_as_they_are(path):
    """Old rows keep their hashes, new ones follow them, and what is new works."""
    with ReviewStore(path) as store:
        old = store.entries()
        assert [entry.sha256 for entry in old] == [row[-1] for row in review_schema2.rows()[1]]
        assert {(e.decision.stage, e.decision.signature) for e in old} == {(Stage.FIRST, None)}
        entry = store.append(signed())
        assert entry.previous_sha256 == old[-1].sha256
        assert store.entries()[-1].decision == signed()
        assert store.verify().broken_at is None
        assert people(store) == []
        assert active_claims(store, "federated", now_s=1.5) == {}
        assert claim_case(store, "federated", "n001", "B", now_s=0).reader == "B"
    with ReviewStore(path) as again:
        assert again.verify().length == 4


@pytest.mark.parametrize(
    ("column", "value"), [("stage", "second"), ("login", "oidc"), ("signed_name", "Dr. No")]
)
def test_nothing_is_slipped_into_old_rows(path, column, value):
    """The columns that came later are not covered by an old hash, so there they must be empty."""
    ReviewStore(path).close()
    execute(path, f"UPDATE decisions SET {column} = '{value}' WHERE position = 2")  # noqa: S608
    with ReviewStore(path) as store:
        assert store.verify().broken_at == 2


def test_no_row_is_called_old(path):
    """A new row that is declared an old one, to have its signature left out, is found."""
    with ReviewStore(path) as store:
        store.append(signed())
    execute(
        path,
        "UPDATE decisions SET row_schema = 2, stage = 'first', login = 'demo', signed_name = '', "
        "signed_meaning = '', signed_with = '' WHERE position = 4",
    )
    with ReviewStore(path) as store:
        assert store.verify().broken_at == 4


def test_guards_stay(path):
    """After the migration decisions are still not changed by SQL."""
    ReviewStore(path).close()
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("UPDATE decisions SET reader = 'x'")
    connection.close()


def test_stopped_in_the_middle(path, monkeypatch):
    """A migration that fails leaves the database as it was; the next start does it."""

    def fail(*_args, **_more):
        raise ReviewError("stopped")

    monkeypatch.setattr("evenhand.review.migration.update", fail)
    with pytest.raises(ReviewError, match="stopped"):
        ReviewStore(path)
    connection = sqlite3.connect(path)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(decisions)")]
    connection.close()
    assert "stage" not in columns
    monkeypatch.undo()
    with ReviewStore(path) as store:
        assert store.verify().length == 3


def test_page_of_the_version_before_runs_on(path):
    """A row that an old page writes meanwhile, in its own layout, is read and verified."""
    names, values = review_schema2.rows(4)
    ReviewStore(path).close()
    with sqlite3.connect(path) as connection:
        places = ", ".join("?" for _ in names)
        statement = f"INSERT INTO decisions ({', '.join(names)}) VALUES ({places})"  # noqa: S608
        connection.execute(statement, values[-1])
    connection.close()
    with ReviewStore(path) as store:
        assert store.verify().broken_at is None
        assert len(store.entries()) == 4
