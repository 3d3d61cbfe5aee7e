"""One-run audits of the real private step: below the truth, and above a false claim."""

import numpy as np
import pytest

from evenhand.errors import UsageError
from evenhand.privacy import step as step_module
from evenhand.privacy.accounting import Mechanism
from evenhand_audit.attack import canaries
from evenhand_audit.attack.canaries import audit_in_one_run, bound_of_scores, guesses_for

CLAIMS = {1.0: 6.25, 4.0: 2.642, 10.0: 1.326}
"""Noise for epsilon at delta 1e-5, rate 0.5; 20 steps (10 for epsilon 1), by the accountant."""

RUNS = 3
CONFIDENCE = 1 - 0.05 / (RUNS * len(CLAIMS))
"""All audits of the test together are right with 95%: each one with more."""


def mechanism_of(epsilon):
    """The promise of a claim."""
    return Mechanism(0.5, CLAIMS[epsilon], 10 if epsilon == 1 else 20)


@pytest.fixture(scope="module")
def audits():
    """A few audits at each true epsilon, the same ones for all tests."""
    return {
        epsilon: [
            audit_in_one_run(
                mechanism_of(epsilon), canaries=200, patients=4, confidence=CONFIDENCE, seed=seed
            )
            for seed in range(RUNS)
        ]
        for epsilon in CLAIMS
    }


class TestAudits:
    """The promise stands, and the attack is not asleep."""

    @pytest.mark.parametrize("epsilon", CLAIMS)
    def test_never_more_than_was_promised(self, audits, epsilon):
        """A bound above the accountant's epsilon would mean that one of the two is wrong."""
        for audit in audits[epsilon]:
            assert audit.epsilon_claimed == pytest.approx(epsilon, rel=0.05)
            assert audit.holds
            assert audit.epsilon_proven <= audit.epsilon_claimed

    def test_something_is_proven_where_little_noise_is(self, audits):
        """An attack that never finds anything could not find a bug either."""
        assert np.median([audit.epsilon_proven for audit in audits[10.0]]) > 0.8
        weak, strong = (
            np.mean([audit.correct / audit.guesses for audit in audits[epsilon]])
            for epsilon in (1.0, 10.0)
        )
        assert weak < strong

    def test_a_step_without_noise_breaks_its_claim(self, monkeypatch):
        """Claimed epsilon 1, no noise: far more is proven, with canaries enough each time."""
        monkeypatch.setattr(step_module, "discrete_gaussian", lambda n: np.zeros(n, np.int64))
        audit = audit_in_one_run(mechanism_of(1.0), canaries=800, patients=16, confidence=0.999)
        assert not audit.holds
        assert audit.epsilon_proven > 2
        assert audit.record()["holds"] is False

    def test_few_canaries_are_refused(self):
        """With nine nothing can be proven."""
        with pytest.raises(UsageError, match="at least 10"):
            audit_in_one_run(mechanism_of(10.0), canaries=9)


class TestGuesses:
    """What is guessed is fixed before it is looked at."""

    def test_the_number_of_guesses_does_not_depend_on_scores(self):
        """Two outcomes of one promise get the same number: no picking afterwards."""
        source = np.random.default_rng(0)
        coins = source.random(200) < 0.5
        found = {
            bound_of_scores(mechanism_of(4.0), scores, coins).guesses
            for scores in (coins * 50.0, source.normal(size=200), coins * -9.0)
        }
        assert found == {
            guesses_for(mechanism_of(4.0), 200, delta=canaries.AUDIT_DELTA, confidence=0.95)
        }

    def test_perfect_scores_give_perfect_guesses(self):
        """High scores are called in, low ones out, the rest is left alone."""
        coins = np.array([True, False] * 100)
        right = bound_of_scores(mechanism_of(4.0), coins * 1.0, coins)
        wrong = bound_of_scores(mechanism_of(4.0), coins * -1.0, coins)
        assert right.correct == right.guesses
        assert wrong.correct == 0
        assert wrong.epsilon_proven == 0

    def test_an_even_number_and_no_more_than_there_are(self):
        """Half are called in and half out, also of an odd number of canaries."""
        for count in (10, 11, 57):
            guesses = guesses_for(mechanism_of(10.0), count, delta=1e-5, confidence=0.95)
            assert 2 <= guesses <= count
            assert guesses % 2 == 0
