"""The trail of sendings: appended, chained, tied to the decisions; a change anywhere is found."""

import sqlite3
from dataclasses import replace

import pytest

from evenhand.errors import ReviewError
from evenhand.review import (
    GENESIS_SHA256,
    Decision,
    ReviewStore,
    Sending,
    SendingStep,
    Verdict,
    append_sending,
    links_csv,
    sendings,
    verify_sendings,
)
from review_schemas import behind

DECISION = Decision(
    case_id="n001",
    hospital="north",
    arm="federated",
    verdict=Verdict.ACCEPT,
    reader="Dr. Lee",
    proposed_sha256="a" * 64,
    seconds=1.0,
    slices_seen=(2,),
)
SENDING = Sending(
    step=SendingStep.BEGUN,
    case_id="n001",
    arm="federated",
    sender="jlee",
    object_uid="1.2.3",
    host="pacs:8042",
    mask_sha256="a" * 64,
    decision_sha256="b" * 64,
)


@pytest.fixture
def path(tmp_path):
    """A database with one decision, and a sending of two steps under it."""
    path = tmp_path / "review.sqlite"
    with ReviewStore(path) as store:
        begun = replace(SENDING, decision_sha256=store.append(DECISION).sha256)
        append_sending(store, begun)
        append_sending(store, replace(begun, step=SendingStep.STORED))
    return path


def test_chained(path):
    """Places count from 1, each step names the hash before it, and nothing is broken."""
    with ReviewStore(path) as store:
        first, second = sendings(store)
        check = verify_sendings(store)
        assert sendings(store, arm="pooled") == []
    assert (first.position, second.position) == (1, 2)
    assert (first.previous_sha256, second.previous_sha256) == (GENESIS_SHA256, first.sha256)
    assert (check.length, check.broken_at, check.head_sha256) == (2, None, second.sha256)


@pytest.mark.parametrize("statement", ["UPDATE sendings SET sender = 'x'", "DELETE FROM sendings"])
def test_append_only(path, statement):
    """The database itself refuses to change or delete a sending."""
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="sendings are append-only"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "place", "why"),
    [
        ("UPDATE sendings SET sender = 'x' WHERE position = 1", 1, "content was changed"),
        ("UPDATE sendings SET host = 'x' WHERE position = 2", 2, "content was changed"),
        ("UPDATE sendings SET row_schema = 2 WHERE position = 2", 2, "content was changed"),
        ("DELETE FROM sendings WHERE position = 1", 1, "sending 1 is missing"),
        ("DELETE FROM decisions", 1, "decision is not there"),
    ],
)
def test_change_is_found(path, statement, place, why):
    """A field changed, a step or the decision deleted: the first place that is wrong is named."""
    behind(path, statement)
    with ReviewStore(path) as store:
        check = verify_sendings(store)
    assert check.broken_at == place
    assert why in check.why


def test_other_mask_is_found(path):
    """A step that claims another mask than its decision's does not pass, though its hash fits."""
    with ReviewStore(path) as store:
        (first, _) = sendings(store)
        append_sending(store, replace(first.record, mask_sha256="c" * 64))
        check = verify_sendings(store)
    assert check.broken_at == 3
    assert "another mask" in check.why


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "https://pacs/dicom-web"},
        {"host": "user@pacs"},
        {"sender": ""},
        {"mask_sha256": "a" * 63},
        {"decision_sha256": ""},
    ],
)
def test_only_what_makes_sense(wrong):
    """An address's path or login never gets into the trail, nor half a sending."""
    with pytest.raises(ReviewError):
        replace(SENDING, **wrong)


def test_csv_is_no_formula(path):
    """A sender's name that starts like a formula is kept from being one."""
    with ReviewStore(path) as store:
        (first, _) = sendings(store)
        append_sending(store, replace(first.record, sender="=1+1"))
        text = links_csv("sendings", sendings(store))
    assert ",'=1+1," in text
