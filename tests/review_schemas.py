"""Review databases as versions before wrote them (schemas 2 and 3), in so many words."""

import hashlib
import json
import sqlite3

_DECISIONS = (
    "CREATE TABLE decisions (position INTEGER NOT NULL PRIMARY KEY, "
    "decided_at_utc VARCHAR(40) NOT NULL, case_id VARCHAR(64) NOT NULL, "
    "hospital VARCHAR(64) NOT NULL, arm VARCHAR(100) NOT NULL, verdict VARCHAR(20) NOT NULL, "
    "reason VARCHAR(40), comment TEXT NOT NULL, reader VARCHAR(100) NOT NULL, "
    "proposed_sha256 VARCHAR(64) NOT NULL, corrected_sha256 VARCHAR(64), corrected_path TEXT, "
    "seconds DOUBLE PRECISION NOT NULL, strokes INTEGER NOT NULL, dice DOUBLE PRECISION, "
    "hd95 DOUBLE PRECISION, backbone VARCHAR(100) NOT NULL, "
    "adapter_sha256 VARCHAR(64) NOT NULL, "
    "slices_seen TEXT NOT NULL, previous_sha256 VARCHAR(64) NOT NULL UNIQUE, "
    "sha256 VARCHAR(64) NOT NULL UNIQUE{})"
)
_ADDED_IN_3 = (
    ", row_schema INTEGER DEFAULT '2' NOT NULL, stage VARCHAR(20) DEFAULT 'first' NOT NULL, "
    "login VARCHAR(20) DEFAULT 'demo' NOT NULL, signed_name VARCHAR(100) DEFAULT '' NOT NULL, "
    "signed_meaning TEXT DEFAULT '' NOT NULL, signed_with VARCHAR(40) DEFAULT '' NOT NULL"
)

CREATE = {
    2: (
        "CREATE TABLE review_schema (version INTEGER NOT NULL PRIMARY KEY)",
        "INSERT INTO review_schema VALUES (2)",
        (
            "CREATE TABLE claims (arm VARCHAR(100) NOT NULL, case_id VARCHAR(64) NOT NULL, "
            "reader VARCHAR(100) NOT NULL, since_s DOUBLE PRECISION NOT NULL, "
            "until_s DOUBLE PRECISION NOT NULL, PRIMARY KEY (arm, case_id))"
        ),
        "INSERT INTO claims VALUES ('federated', 'n001', 'Dr. Lee', 1.0, 2.0)",
        _DECISIONS.format(""),
    ),
    3: (
        "CREATE TABLE review_schema (version INTEGER NOT NULL PRIMARY KEY)",
        "INSERT INTO review_schema VALUES (3)",
        (
            "CREATE TABLE claims (arm VARCHAR(100) NOT NULL, case_id VARCHAR(64) NOT NULL, "
            "stage VARCHAR(20) DEFAULT 'first' NOT NULL, "
            "reader VARCHAR(100) NOT NULL, since_s DOUBLE PRECISION NOT NULL, "
            "until_s DOUBLE PRECISION NOT NULL, PRIMARY KEY (arm, case_id, stage))"
        ),
        (
            "CREATE TABLE people (person_id VARCHAR(64) NOT NULL PRIMARY KEY, "
            "login VARCHAR(200) NOT NULL UNIQUE, name VARCHAR(100) NOT NULL, roles TEXT NOT NULL, "
            "passphrase TEXT NOT NULL, failures INTEGER NOT NULL, "
            "blocked_until_s DOUBLE PRECISION NOT NULL)"
        ),
        "INSERT INTO people VALUES ('r1', 'jlee', 'Dr. J. Lee', 'reader', '$argon2id$x', 0, 0.0)",
        _DECISIONS.format(_ADDED_IN_3),
    ),
}
"""What SQLAlchemy made of a schema, on SQLite and PostgreSQL alike; 3 before it had sendings."""

SQLITE_GUARD = tuple(
    f"CREATE TRIGGER decisions_no_{what.lower()} BEFORE {what} ON decisions "
    "BEGIN SELECT RAISE(ABORT, 'decisions are append-only'); END"
    for what in ("UPDATE", "DELETE")
)

POSTGRES_GUARD = (
    (
        "CREATE FUNCTION decisions_are_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'decisions are append-only'; END $$"
    ),
    (
        "CREATE TRIGGER decisions_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON decisions "
        "FOR EACH STATEMENT EXECUTE FUNCTION decisions_are_append_only()"
    ),
)


def rows(schema, count=3):
    """Decisions of a schema, chained: the names of their columns, and their values."""
    previous, made = "0" * 64, []
    for position in range(1, count + 1):
        row = {
            "position": position,
            "decided_at_utc": f"2026-03-0{position}T10:00:00.000+00:00",
            "case_id": f"n00{position}",
            "hospital": "north",
            "arm": "federated",
            "verdict": "accept",
            "reason": None,
            "comment": "gut ä",
            "reader": "Dr. Lee",
            "proposed_sha256": "a" * 64,
            "corrected_sha256": None,
            "corrected_path": None,
            "seconds": 12.5,
            "strokes": 0,
            "dice": None,
            "hd95": None,
            "backbone": "mobile-sam",
            "adapter_sha256": "",
            "slices_seen": "[2,3,4]",
            "previous_sha256": previous,
        }
        if schema == 3:
            row |= {"stage": "first", "login": "proxy", "signed_name": "Dr. J. Lee"}
            row |= {"signed_meaning": "I accept", "signed_with": "passphrase"}
        content = {"schema": schema} | row
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        previous = hashlib.sha256(text.encode()).hexdigest()
        made.append(row | {"sha256": previous} | ({"row_schema": 3} if schema == 3 else {}))
    return list(made[0]), [list(row.values()) for row in made]


def hashes(schema, count=3):
    """The hashes of those rows."""
    names, values = rows(schema, count)
    return [row[names.index("sha256")] for row in values]


def insert(names, mark):
    """The statement that writes such a row; `mark` stands for a value."""
    places = ", ".join(mark for _ in names)
    return f"INSERT INTO decisions ({', '.join(names)}) VALUES ({places})"  # noqa: S608


def behind(path, *statements):
    """Change an SQLite file behind the store's back, its guards taken away."""
    connection = sqlite3.connect(path)
    with connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
    connection.close()
