"""Statistics of attacks: never more proven than is true, and not much less."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenhand_audit.attack.bounds import (
    auc_interval,
    auc_of,
    epsilon_lower_bound,
    guess_p_value,
    largest_tpr,
    rate_interval,
)


def binomial(n, k, p):
    """Chance of k of n, from the definition."""
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def slow_p_value(correct, guesses, canaries, epsilon, delta):
    """Theorem 5.2 of Steinke et al. as it is printed, by sums."""
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    chance = [binomial(guesses, k, right) for k in range(guesses + 1)]
    tail = sum(chance[correct:])
    alpha = max(
        (2 / i * sum(chance[k] for k in range(max(correct - i, 0), correct)))
        for i in range(1, canaries + 1)
    )
    return min(1.0, tail + alpha * canaries * delta)


class TestOneRun:
    """The lower bound of the one-run audit."""

    def test_twenty_right_of_twenty_prove_1_82(self):
        """The known value: e^eps / (1 + e^eps) = 0.05^(1/20)."""
        bound = epsilon_lower_bound(20, guesses=20, canaries=20, delta=0, confidence=0.95)
        right = 0.05 ** (1 / 20)
        assert bound == pytest.approx(math.log(right / (1 - right)), abs=1e-9)
        assert bound == pytest.approx(1.82, abs=0.005)

    def test_guessing_proves_nothing(self):
        """Half of the guesses right is what a coin does."""
        assert epsilon_lower_bound(50, guesses=100, canaries=100, delta=0, confidence=0.95) == 0
        assert epsilon_lower_bound(0, guesses=0, canaries=10, delta=0, confidence=0.95) == 0

    @settings(max_examples=60)
    @given(
        canaries=st.integers(1, 40),
        share=st.floats(0, 1),
        hits=st.floats(0, 1),
        epsilon=st.floats(0, 6),
        delta=st.sampled_from([0.0, 1e-6, 1e-3, 0.05]),
    )
    def test_p_value_equals_the_printed_theorem(self, canaries, share, hits, epsilon, delta):
        """Also with abstentions, where fewer guesses than canaries are made."""
        guesses = round(share * canaries)
        correct = round(hits * guesses)
        found = guess_p_value(
            correct, guesses=guesses, canaries=canaries, epsilon=epsilon, delta=delta
        )
        assert found == pytest.approx(
            slow_p_value(correct, guesses, canaries, epsilon, delta), rel=1e-9, abs=1e-12
        )

    def test_covers_randomised_response(self):
        """The worst pure mechanism: exceeds the truth in at most 5% of audits, and not in 0%."""
        source = np.random.default_rng(1)
        epsilon, canaries, trials = 1.0, 100, 3000
        right = source.binomial(canaries, 1 / (1 + math.exp(-epsilon)), size=trials)
        bounds = {
            each: epsilon_lower_bound(
                each, guesses=canaries, canaries=canaries, delta=0, confidence=0.95
            )
            for each in set(right.tolist())
        }
        above = sum(bounds[each] > epsilon for each in right.tolist()) / trials
        assert 0.01 < above < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)

    @pytest.mark.parametrize("delta", [1e-3, 1e-2])
    def test_covers_a_mechanism_that_gives_everything_away_at_times(self, delta):
        """(epsilon, delta) as bad as can be: with chance delta all coins are told."""
        epsilon, canaries = 0.5, 30
        right = math.exp(epsilon) / (1 + math.exp(epsilon))
        for correct in range(canaries + 1):
            tail = sum(binomial(canaries, k, right) for k in range(correct, canaries + 1))
            true = delta + (1 - delta) * tail
            claimed = guess_p_value(
                correct, guesses=canaries, canaries=canaries, epsilon=epsilon, delta=delta
            )
            assert true <= claimed + 1e-12

    def test_delta_costs_proof_and_confidence_too(self):
        """More is allowed for, so less is proven."""
        plain = epsilon_lower_bound(90, guesses=100, canaries=200, delta=0, confidence=0.95)
        loose = epsilon_lower_bound(90, guesses=100, canaries=200, delta=1e-3, confidence=0.95)
        surer = epsilon_lower_bound(90, guesses=100, canaries=200, delta=0, confidence=0.999)
        assert 0 < loose < plain
        assert 0 < surer < plain


class TestIntervals:
    """Intervals that never pretend to certainty."""

    def test_rate_interval_by_hand(self):
        """0 of n: 1 - 0.025^(1/n); and by symmetry n of n."""
        assert rate_interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
        assert rate_interval(10, 10) == (pytest.approx(0.025**0.1), 1.0)
        assert rate_interval(0, 0) == (0.0, 1.0)

    def test_auc_by_counting_pairs(self):
        """Equal to the share of pairs in which the member is above; ties count half."""
        source = np.random.default_rng(0)
        members, others = source.integers(0, 6, 17).astype(float), source.integers(0, 5, 11) * 1.0
        pairs = [(a > b) + 0.5 * (a == b) for a in members for b in others]
        assert auc_of(members, others) == pytest.approx(np.mean(pairs))

    def test_auc_interval_is_never_a_point(self):
        """Perfect separation of five from five still leaves doubt."""
        low, high = auc_interval(1.0, 5, 5)
        assert 0.5 < low < 0.95
        assert high == 1.0
        assert auc_interval(0.0, 5, 5) == (0.0, pytest.approx(1 - low))

    def test_auc_interval_covers(self):
        """Normal scores of known AUC lie inside about 95 times in 100."""
        source = np.random.default_rng(2)
        shift, inside, trials = 0.8, 0, 400
        truth = 0.5 * (1 + math.erf(shift / 2))
        for _ in range(trials):
            auc = auc_of(source.normal(shift, 1, 25), source.normal(0, 1, 25))
            low, high = auc_interval(auc, 25, 25)
            inside += low <= truth <= high
        assert 0.91 < inside / trials < 0.985

    def test_the_promise_bounds_the_attackers_success(self):
        """At epsilon 0 as many members as others; at a large one all; never above one."""
        assert largest_tpr(0.01, epsilon=0, delta=0) == pytest.approx(0.01)
        assert largest_tpr(0.01, epsilon=1, delta=0) == pytest.approx(0.01 * math.e)
        assert largest_tpr(0.01, epsilon=1, delta=0.1) == pytest.approx(0.01 * math.e + 0.1)
        assert largest_tpr(0.5, epsilon=800, delta=0) == pytest.approx(1)
