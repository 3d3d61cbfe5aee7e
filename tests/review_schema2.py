"""A review database as the version before wrote it (schema 2), in so many words."""

import hashlib
import json

CREATE = (
    "CREATE TABLE review_schema (version INTEGER NOT NULL PRIMARY KEY)",
    "INSERT INTO review_schema VALUES (2)",
    (
        "CREATE TABLE claims (arm VARCHAR(100) NOT NULL, case_id VARCHAR(64) NOT NULL, "
        "reader VARCHAR(100) NOT NULL, since_s DOUBLE PRECISION NOT NULL, "
        "until_s DOUBLE PRECISION NOT NULL, PRIMARY KEY (arm, case_id))"
    ),
    "INSERT INTO claims VALUES ('federated', 'n001', 'Dr. Lee', 1.0, 2.0)",
    (
        "CREATE TABLE decisions (position INTEGER NOT NULL PRIMARY KEY, "
        "decided_at_utc VARCHAR(40) NOT NULL, case_id VARCHAR(64) NOT NULL, "
        "hospital VARCHAR(64) NOT NULL, arm VARCHAR(100) NOT NULL, verdict VARCHAR(20) NOT NULL, "
        "reason VARCHAR(40), comment TEXT NOT NULL, reader VARCHAR(100) NOT NULL, "
        "proposed_sha256 VARCHAR(64) NOT NULL, corrected_sha256 VARCHAR(64), corrected_path TEXT, "
        "seconds DOUBLE PRECISION NOT NULL, strokes INTEGER NOT NULL, dice DOUBLE PRECISION, "
        "hd95 DOUBLE PRECISION, backbone VARCHAR(100) NOT NULL, "
        "adapter_sha256 VARCHAR(64) NOT NULL, "
        "slices_seen TEXT NOT NULL, previous_sha256 VARCHAR(64) NOT NULL UNIQUE, "
        "sha256 VARCHAR(64) NOT NULL UNIQUE)"
    ),
)
"""What SQLAlchemy made of schema 2, on SQLite and PostgreSQL alike."""

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


def rows(count=3):
    """Decisions of schema 2, chained: the names of their columns, and their values."""
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
        content = {"schema": 2} | row
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        previous = hashlib.sha256(text.encode()).hexdigest()
        made.append(row | {"sha256": previous})
    return list(made[0]), [list(row.values()) for row in made]
