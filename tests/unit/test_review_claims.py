"""Claims: two readers do not work on one case unawares."""

import pytest

from evenhand.review import CLAIM_S, ReviewStore, active_claims, claim_case, release_claim


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    with ReviewStore(tmp_path / "review.sqlite") as opened:
        yield opened


def claim(store, reader, now_s=0.0, **more):
    """Claim case n001; whose it is then."""
    return claim_case(store, "federated", "n001", reader, now_s=now_s, **more).reader


def test_first_come(store):
    """The first reader has it, the second is told who; other arms and cases are free."""
    assert claim(store, "A") == "A"
    assert claim(store, "B", 1.0) == "A"
    assert claim_case(store, "pooled", "n001", "B", now_s=0).reader == "B"
    assert claim_case(store, "federated", "n002", "B", now_s=0).reader == "B"


def test_runs_out_and_is_renewed(store):
    """A claim ends when its reader does nothing, and lasts while they do something."""
    claim(store, "A", 0.0)
    claim(store, "A", CLAIM_S - 1)
    assert claim(store, "B", CLAIM_S + 1) == "A"
    assert claim(store, "B", 2 * CLAIM_S) == "B"


def test_taken_over(store):
    """Who takes a case over has it, from then on."""
    claim(store, "A", 0.0)
    assert claim(store, "B", 5.0, take_over=True) == "B"
    assert claim(store, "A", 6.0) == "B"
    found = active_claims(store, "federated", now_s=6.0)["n001"]
    assert (found.reader, found.since_s) == ("B", 5.0)


def test_released(store):
    """A case that was given back is free; nobody gives back another's."""
    claim(store, "A")
    release_claim(store, "federated", "n001", "B")
    assert set(active_claims(store, "federated", now_s=1.0)) == {"n001"}
    release_claim(store, "federated", "n001", "A")
    assert active_claims(store, "federated", now_s=1.0) == {}
    assert claim(store, "B") == "B"
