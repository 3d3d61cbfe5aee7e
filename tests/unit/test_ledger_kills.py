"""SIGKILL at random points: what left was paid for, and the ledger is whole."""

import pytest

from evenhand.privacy.ledger import Ledger
from ledger_kills import ROUND, kill_many


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_twenty_kills(tmp_path):
    """Three processes on one ledger: nothing that left is missing in it, and it goes on."""
    after = kill_many(tmp_path, kills=20, processes=3, seed=1, longest_s=0.05)
    assert after.faults == ()
    assert after.unpaid == ()
    assert 0 < len(set(after.left)) == len(after.left) <= after.charges
    ledger = Ledger(tmp_path / "ledger.sqlite", "north")
    before = len(ledger.state().charges)
    assert before == after.charges
    ledger.charge(ROUND, "afterwards")
    assert len(ledger.state().charges) == before + 1
