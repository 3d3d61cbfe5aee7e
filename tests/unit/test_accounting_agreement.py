"""A second opinion: our epsilons against Google's dp-accounting, an independent implementation."""

import importlib.util
from pathlib import Path

import pytest

from evenhand.privacy.accounting import epsilon_of

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "accountant_agreement.py"
SPECIFICATION = importlib.util.spec_from_file_location("accountant_agreement", BENCHMARK)
agreement = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(agreement)


@pytest.mark.parametrize(("mechanism", "delta"), agreement.schedules(20, seed=1))
def test_both_accountants_agree(mechanism, delta):
    """Within 1%, or 0.01 where epsilon is small; 200 more schedules in the benchmark."""
    ours, other = epsilon_of([mechanism], delta), agreement.theirs(mechanism, delta)
    assert agreement.agree(ours, other)
    assert ours >= other * (1 - 1e-3) - 1e-3  # ours is an upper bound; theirs too, so hardly below


def test_disagreement_would_be_noticed():
    """The comparison is not so wide that it lets everything pass."""
    assert not agreement.agree(1.02, 1.0)
    assert not agreement.agree(0.1, 0.12)
