"""A review database of a version before is brought up to date, and its old hashes hold."""

import sqlite3

import pytest

import review_schemas
from evenhand.errors import ReviewError
from evenhand.review import (
    Author,
    Decision,
    Person,
    PersonEvent,
    ReviewStore,
    Role,
    Signature,
    Stage,
    Verdict,
    Way,
    active_claims,
    check_trail,
    claim_case,
    people,
    people_changes,
)


@pytest.fixture(params=[2, 3])
def schema(request):
    """The version that the database is of."""
    return request.param


@pytest.fixture
def path(tmp_path, schema):
    """A database of an older schema with three decisions."""
    path = tmp_path / "review.sqlite"
    names, values = review_schemas.rows(schema)
    with sqlite3.connect(path) as connection:
        for statement in (*review_schemas.CREATE[schema], *review_schemas.SQLITE_GUARD):
            connection.execute(statement)
        connection.executemany(review_schemas.insert(names, "?"), values)
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
        lesions=(),
    )


def test_old_decisions_stay_as_they_are(path, schema):
    """Old rows keep their hashes, new ones follow them, and what is new works."""
    with ReviewStore(path) as store:
        old = store.entries()
        assert [entry.sha256 for entry in old] == review_schemas.hashes(schema)
        names = {e.decision.signature and e.decision.signature.name for e in old}
        assert names == {None if schema == 2 else "Dr. J. Lee"}
        assert {(e.decision.unaided_sha256, e.decision.lesions) for e in old} == {(None, None)}
        entry = store.append(signed())
        assert entry.previous_sha256 == old[-1].sha256
        assert store.entries()[-1].decision == signed()
        assert check_trail(store).fault == ""
        assert active_claims(store, "federated", now_s=1.5) == {}
        assert claim_case(store, "federated", "n001", "B", now_s=0).reader == "B"
    with ReviewStore(path) as again:
        assert again.verify().length == 4


def test_who_was_there_is_written_down(path, schema):
    """People who were there have one record each, so that from now on none can go without one."""
    lee = Person(
        person_id="r1",
        login="jlee",
        name="Dr. J. Lee",
        roles=frozenset({Role.READER}),
        has_passphrase=True,
    )
    with ReviewStore(path) as store:
        assert people(store) == ([] if schema == 2 else [lee])
        found = [link.record for link in people_changes(store)]
    assert [one.person_id for one in found] == ([] if schema == 2 else ["r1"])
    for one in found:
        assert (one.change, one.login, one.roles) == (PersonEvent.FOUND, "jlee", lee.roles)
        assert one.by == Author(name="evenhand", way=Way.MIGRATION)
    review_schemas.behind(
        path,
        "DELETE FROM people",
        "INSERT INTO people VALUES ('r9', 'x', 'Dr. X', 'admin', '', 0, 0.0)",
    )
    with ReviewStore(path) as store:
        assert "without a record" in check_trail(store).fault


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("stage", "second"),
        ("login", "oidc"),
        ("signed_name", "Dr. No"),
        ("lesions", "[]"),
        ("unaided_sha256", "b"),
    ],
)
def test_nothing_is_slipped_into_old_rows(path, column, value):
    """The columns that came later are not covered by an old hash, so there they must be empty."""
    ReviewStore(path).close()
    change = f"UPDATE decisions SET {column} = '{value}' WHERE position = 2"  # noqa: S608
    review_schemas.behind(path, change)
    with ReviewStore(path) as store:
        assert store.verify().broken_at == 2


@pytest.mark.parametrize("declared", [2, 3])
def test_no_row_is_called_old(path, declared):
    """A new row that is declared an old one, to have its signature left out, is found."""
    with ReviewStore(path) as store:
        store.append(signed())
    review_schemas.behind(
        path,
        f"UPDATE decisions SET row_schema = {declared}, stage = 'first', login = 'demo', "  # noqa: S608
        "signed_name = '', signed_meaning = '', signed_with = '', lesions = '' WHERE position = 4",
    )
    with ReviewStore(path) as store:
        assert store.verify().broken_at == 4


@pytest.mark.parametrize("table", ["decisions", "sendings", "people_changes", "copies"])
def test_guards_stay(path, table):
    """After the migration no chain is changed by SQL, of old tables or of new ones."""
    ReviewStore(path).close()
    connection = sqlite3.connect(path)
    guards = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?"
    assert connection.execute(guards, (table,)).fetchone() == (2,)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("UPDATE decisions SET reader = 'x'")
    connection.close()


def test_stopped_in_the_middle(path, schema, monkeypatch):
    """A migration that fails leaves the database as it was; the next start does it."""

    def fail(*_args, **_more):
        raise ReviewError("stopped")

    monkeypatch.setattr("evenhand.review.migration.update", fail)
    with pytest.raises(ReviewError, match="stopped"):
        ReviewStore(path)
    connection = sqlite3.connect(path)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(decisions)")}
    connection.close()
    assert ("stage" in columns, "lesions" in columns) == (schema == 3, False)
    monkeypatch.undo()
    with ReviewStore(path) as store:
        assert store.verify().length == 3


def test_page_of_the_version_before_runs_on(path, schema):
    """A row that an old page writes meanwhile, in its own layout, is read and verified."""
    names, values = review_schemas.rows(schema, 4)
    ReviewStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(review_schemas.insert(names, "?"), values[-1])
    connection.close()
    with ReviewStore(path) as store:
        assert store.verify().broken_at is None
        assert len(store.entries()) == 4
