"""Decisions in a real PostgreSQL, which the test starts for itself."""

import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

import review_schemas
from evenhand.errors import ReviewError
from evenhand.review import (
    Decision,
    Lesion,
    Person,
    Reason,
    ReviewStore,
    Role,
    Stage,
    Verdict,
    active_claims,
    check_passphrase,
    check_trail,
    claim_case,
    put_person,
    remove_person,
    set_passphrase,
)
from review_people import BY

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed (evenhand[postgres])")

START_LIMIT_S = 60

LESIONS = (
    Lesion(
        volume_ml=1.234,
        longest_diameter_mm=20.1,
        perpendicular_diameter_mm=10.0,
        slice=3,
    ),
)


def find_program(name):
    """A program of PostgreSQL's, on the path or where Debian keeps it."""
    kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or (str(kept[0]) if kept else None)


def unprivileged():
    """As whom the server runs: it refuses to be root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid}
    pytest.skip("there is no account that PostgreSQL could run under")


class Server:
    """A PostgreSQL in a folder of its own, on a free port of this machine."""

    def __init__(self, folder):
        self.folder = folder
        self.account = unprivileged()
        if self.account:
            os.chown(folder, self.account["user"], self.account["group"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://evenhand@127.0.0.1:{self.port}/postgres"
        initialise = find_program("initdb")
        self.run([initialise, "-D", folder / "data", "-U", "evenhand", "-A", "trust", "-N"])

    def run(self, command):
        """Run one of its programs to its end."""
        subprocess.run(
            list(map(str, command)),
            check=True,
            capture_output=True,
            timeout=120,
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            **self.account,
        )

    def start(self):
        """Start it and wait until it answers."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = [find_program("pg_ctl"), "-D", self.folder / "data", "-l", self.folder / "log"]
        self.run([*control, "-w", "-t", START_LIMIT_S, "-o", options, "start"])

    def stop(self):
        """Stop it at once, connections and all."""
        self.run([find_program("pg_ctl"), "-D", self.folder / "data", "-m", "immediate", "stop"])

    def execute(self, *statements):
        """Do something behind the store's back."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


@pytest.fixture(scope="module")
def server():
    """One server for all tests; its folder has a short name, as its socket needs."""
    if find_program("initdb") is None or find_program("pg_ctl") is None:
        pytest.skip("PostgreSQL is not installed (Debian's postgresql)")
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        made = Server(Path(name))
        made.start()
        try:
            yield made
        finally:
            made.stop()


def emptied(server):
    """Take all tables away."""
    server.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


@pytest.fixture
def store(server):
    """An empty review database."""
    emptied(server)
    with ReviewStore(server.url) as opened:
        yield opened


def decision(**changes):
    """A valid correction, with changes."""
    fields = {
        "case_id": "n001",
        "hospital": "north",
        "arm": "federated",
        "verdict": Verdict.CORRECT,
        "reason": Reason.BOUNDARY,
        "comment": "Rand zu weit, ödema",
        "reader": "Dr. Lee",
        "proposed_sha256": "a" * 64,
        "corrected_sha256": "b" * 64,
        "corrected_path": "corrected/n001/b.nii.gz",
        "seconds": 1 / 3,
        "slices_seen": (2, 3, 4),
        "strokes": 7,
        "dice": 2 / 3,
        "hd95": 1e-17,
    }
    return Decision(**(fields | changes))


def test_comes_back_with_the_same_hash_as_in_sqlite(store, tmp_path, server):
    """What was written is read whole after a restart of the page; the chain is intact."""
    entry = store.append(decision())
    store.append(decision(case_id="n002"))
    with ReviewStore(server.url) as again:
        assert again.entries()[0] == entry
        check = again.verify()
    assert (check.length, check.broken_at) == (2, None)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE decisions SET reader = 'x'", "DELETE FROM decisions", "TRUNCATE decisions"],
)
def test_refuses_changes(store, server, statement):
    """By SQL a decision is neither changed nor deleted without taking the guard away."""
    store.append(decision())
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        server.execute(statement)
    assert len(store.entries()) == 1


def test_break_is_located(store, server):
    """Who takes the guard away and changes a row is found."""
    for number in range(3):
        store.append(decision(case_id=f"n{number}"))
    server.execute(
        "ALTER TABLE decisions DISABLE TRIGGER ALL",
        "UPDATE decisions SET reader = 'Dr. No' WHERE position = 2",
    )
    assert store.verify().broken_at == 2


def test_a_check_is_of_one_moment(store, server):
    """What is appended while a check runs is in none of its parts: no false alarm."""
    store.append(decision())
    with store.transaction() as session:
        count = text("SELECT count(*) FROM decisions")
        before = session.execute(count).scalar()
        with ReviewStore(server.url) as other:
            other.append(decision(case_id="n002"))
        assert session.execute(count).scalar() == before
    assert len(store.entries()) == 2


def test_four_writers_at_once(store, server):
    """Appends from several connections wait for each other: no place is lost or taken twice."""
    failures = []

    def write(reader):
        try:
            with ReviewStore(server.url) as own:
                for _ in range(10):
                    own.append(decision(reader=reader))
        except ReviewError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ABCD"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    check = store.verify()
    assert (check.length, check.broken_at) == (40, None)


def test_two_pages_start_at_once(server, store):
    """Two pages that open an empty database at the same time make one."""
    emptied(server)
    failures = []

    def open_it():
        try:
            ReviewStore(server.url).close()
        except ReviewError as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("schema", [2, 3])
def test_database_of_a_version_before(server, store, schema):
    """It is brought up to date where it lies: hashes hold, guards stay, new columns work."""
    emptied(server)
    server.execute(*review_schemas.CREATE[schema], *review_schemas.POSTGRES_GUARD)
    names, values = review_schemas.rows(schema)
    with psycopg.connect(server.url, autocommit=True) as connection:
        for row in values:
            connection.execute(review_schemas.insert(names, "%s"), row)
    with ReviewStore(server.url) as migrated:
        entry = migrated.append(decision(stage=Stage.SECOND, login="proxy", lesions=LESIONS))
        assert entry.previous_sha256 == review_schemas.hashes(schema)[-1]
        assert migrated.entries()[-1].decision.stage is Stage.SECOND
        assert migrated.entries()[-1].decision.lesions == LESIONS
        check = check_trail(migrated)
        assert (check.decisions.length, check.fault) == (4, "")
        assert check.people.length == (1 if schema == 3 else 0)
        assert claim_case(migrated, "federated", "n001", "B", now_s=0).reader == "B"
    for change in ("UPDATE decisions SET login = 'x'", "UPDATE people_changes SET login = 'x'"):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            server.execute(change)


def test_people(store, server):
    """People and passphrases work as in SQLite, and so does the record of their changes."""
    roles = frozenset({Role.READER})
    put_person(store, Person(person_id="r1", login="l", name="Dr. Lee", roles=roles), by=BY)
    set_passphrase(store, "r1", "seven blue ducks")
    check_passphrase(store, "r1", "seven blue ducks", now_s=0)
    with pytest.raises(ReviewError, match="not your passphrase"):
        check_passphrase(store, "r1", "seven blue dogs", now_s=0)
    remove_person(store, "r1", by=BY)
    assert check_trail(store).people.length == 3
    assert check_trail(store).fault == ""
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        server.execute("DELETE FROM people_changes")
    server.execute("INSERT INTO people VALUES ('r9', 'x', 'Dr. X', 'admin', '', 0, 0.0)")
    assert "without a record" in check_trail(store).fault


def test_claims(store):
    """Claims work as in SQLite."""
    assert claim_case(store, "federated", "n001", "A", now_s=0).reader == "A"
    assert claim_case(store, "federated", "n001", "B", now_s=1).reader == "A"
    assert set(active_claims(store, "federated", now_s=1)) == {"n001"}


def test_database_away_and_back(store, server):
    """While the server is away a decision is refused in words; when it is back, it is taken."""
    store.append(decision())
    server.stop()
    try:
        began = time.monotonic()
        with pytest.raises(ReviewError, match="nothing was recorded") as caught:
            store.append(decision())
        assert time.monotonic() - began < 30
        assert "postgresql://" not in str(caught.value)
    finally:
        server.start()
    store.append(decision())
    assert store.verify().length == 2


def test_foreign_database(server, store):
    """A database with tables of something else is left alone."""
    server.execute("DROP TABLE review_schema", "CREATE TABLE theirs (x int)")
    try:
        with pytest.raises(ReviewError, match="other tables"):
            ReviewStore(server.url)
    finally:
        server.execute("DROP TABLE theirs")
