"""Costs of private steps against Opacus, a closed form, and published figures."""

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from evenhand.errors import PrivacyError
from evenhand.privacy import accounting
from evenhand.privacy.accounting import Mechanism, default_delta, epsilon_of, noise_for


def opacus_epsilon(history, delta):
    """Straight from the library, to within 1e-3."""
    accountant = PRVAccountant()
    accountant.history = history
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return accountant.get_epsilon(delta, eps_error=1e-3)


def gaussian_epsilon(sigma, steps, delta):
    """Exact epsilon of `steps` Gaussian mechanisms without sampling (Balle and Wang 2018)."""
    mu = math.sqrt(steps) / sigma

    def excess(epsilon):
        low = norm.cdf(mu / 2 - epsilon / mu)
        return low - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta

    return brentq(excess, 0, 300)


@pytest.mark.parametrize(
    ("rate", "sigma", "steps", "delta"),
    [(0.2, 2.12, 100, 2e-3), (0.05, 0.92, 400, 1e-5), (0.5, 3.0, 7, 1e-3)],
)
def test_epsilon_is_opacus_own(rate, sigma, steps, delta):
    """The figure is that of Opacus' PRV accountant, at most half a percent above it."""
    own = epsilon_of([Mechanism(rate, sigma, steps)], delta)
    exact = opacus_epsilon([(sigma, rate, steps)], delta)
    assert exact - 2e-3 <= own <= 1.006 * exact


def test_a_small_epsilon_is_not_drowned_by_the_error_of_the_accountant():
    """Opacus adds 0.01 by default: half of a release that costs 0.02."""
    own = epsilon_of([Mechanism(0.065, 6.4243, 1)], 1e-3)
    assert 0.0102 < own < 0.0104


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 10), (2.91, 40), (20.0, 5), (0.3, 4), (0.2, 8)])
def test_without_sampling_epsilon_is_the_closed_form(sigma, steps):
    """At rate 1 the mechanism is Gaussian; the bound is at most 0.03 above and never below."""
    exact = gaussian_epsilon(sigma, steps, 2e-3)
    assert exact <= epsilon_of([Mechanism(1.0, sigma, steps)], 2e-3) <= exact + 0.03


@pytest.mark.parametrize(("epsilon", "sigma"), [(1, 4.92), (3, 2.12), (8, 1.13)])
def test_noise_of_a_small_study(epsilon, sigma):
    """50 patients, rate 0.2, 100 steps, delta 2e-3: figures computed apart from this code."""
    assert noise_for(epsilon, 2e-3, 0.2, 100) == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"), [(8.0, 0.5, 10), (0.5, 0.1, 20), (2.0, 1.0, 3)]
)
def test_noise_reaches_its_epsilon_and_hardly_more(epsilon, rate, steps):
    """What is planned must be payable, and must not be noisier than needed."""
    sigma = noise_for(epsilon, 1e-3, rate, steps)
    assert epsilon - 0.02 <= epsilon_of([Mechanism(rate, sigma, steps)], 1e-3) <= epsilon


def test_rounds_compose_instead_of_adding_up():
    """30 rounds of 10 steps cost what 300 steps cost, far less than 30 times a round."""
    one = Mechanism(0.1, 1.1, 10)
    together = epsilon_of([one] * 30, 1e-4)
    assert together == epsilon_of([Mechanism(0.1, 1.1, 300)], 1e-4)
    assert together == pytest.approx(9.09, rel=0.02)
    assert 30 * epsilon_of([one], 1e-4) == pytest.approx(55.1, rel=0.02)


def test_equal_entries_are_priced_as_one(monkeypatch):
    """The accountant's time grows with distinct entries, so it gets no more than there are."""
    spies = []

    class Spy:
        history = ()

        def get_epsilon(self, *_, **__):
            return 1.0

    monkeypatch.setattr(
        "opacus.accountants.create_accountant", lambda _: spies.append(Spy()) or spies[-1]
    )
    epsilon_of([Mechanism(0.1, 2.0, 3), Mechanism(0.2, 2.0, 1), Mechanism(0.1, 2.0, 4)], 1e-3)
    assert spies
    assert all(sorted(spy.history) == [(2.0, 0.1, 7), (2.0, 0.2, 1)] for spy in spies)


def test_different_entries_compose_in_any_order():
    """The price of a history does not depend on who came first, and exceeds each part's."""
    first, second = Mechanism(0.2, 3.0, 10), Mechanism(0.5, 2.0, 2)
    both = epsilon_of([first, second], 1e-3)
    assert both == epsilon_of([second, first], 1e-3)
    assert both == pytest.approx(opacus_epsilon([(2.0, 0.5, 2), (3.0, 0.2, 10)], 1e-3), rel=6e-3)
    assert max(epsilon_of([first], 1e-3), epsilon_of([second], 1e-3)) < both


def test_nothing_costs_nothing():
    """No step, no cost."""
    assert epsilon_of([], 1e-5) == 0


@settings(max_examples=6)
@given(
    rate=st.floats(0.05, 0.9),
    sigma=st.floats(1.0, 6.0),
    steps=st.integers(1, 60),
)
def test_more_of_anything_costs_more(rate, sigma, steps):
    """More steps cost more, more noise costs less; 0.01 is the accountant's own tolerance."""
    cost = epsilon_of([Mechanism(rate, sigma, steps)], 1e-3)
    assert epsilon_of([Mechanism(rate, sigma, 2 * steps)], 1e-3) > cost - 0.02
    assert epsilon_of([Mechanism(rate, 2 * sigma, steps)], 1e-3) < cost + 0.02
    assert cost <= epsilon_of([Mechanism(1.0, sigma, steps)], 1e-3) + 0.02


@pytest.mark.parametrize(
    ("rate", "sigma", "steps"),
    [
        (0.0, 1.0, 1),
        (1.1, 1.0, 1),
        (-0.1, 1.0, 1),
        (math.nan, 1.0, 1),
        (0.5, 0.0, 1),
        (0.5, -1.0, 1),
        (0.5, math.nan, 1),
        (0.5, math.inf, 1),
        (0.5, 1.0, 0),
    ],
)
def test_what_no_accountant_could_price_is_refused(rate, sigma, steps):
    """Mechanisms are valid by construction; NaN noise would hang the accountant."""
    with pytest.raises(PrivacyError):
        Mechanism(rate, sigma, steps)


@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_next_to_no_noise_costs_a_great_deal(sigma):
    """PRV breaks down here (infinity, an error, all the memory); the price must not be small."""
    assert epsilon_of([Mechanism(0.5, sigma, 10)], 1e-3) > accounting.BEYOND_USE


def test_no_noise_to_speak_of_is_refused():
    """Where no figure can be computed there is a sentence, and no figure."""
    with pytest.raises(PrivacyError, match="more noise"):
        epsilon_of([Mechanism(0.5, 1e-200, 1)], 1e-3)


def test_the_looser_figure_of_large_costs_is_above_the_tight_one():
    """Where RDP stands in for PRV, it may only overstate."""
    mechanism = Mechanism(1.0, 0.2, 4)
    exact = gaussian_epsilon(0.2, 4, 1e-3)
    assert exact <= epsilon_of([mechanism], 1e-3)


def test_nan_from_the_accountant_is_an_error(monkeypatch):
    """NaN compares as neither over nor under a budget, so it must not get out."""

    class Broken:
        history = ()

        def get_epsilon(self, *_, **__):
            return math.nan

    monkeypatch.setattr("opacus.accountants.create_accountant", lambda _: Broken())
    with pytest.raises(PrivacyError, match="no figure"):
        epsilon_of([Mechanism(0.5, 1.0, 1)], 1e-3)


def test_an_epsilon_out_of_reach_says_what_to_change():
    """A plan that no noise fulfils names the key."""
    with pytest.raises(PrivacyError, match=r"privacy\.epsilon"):
        noise_for(0.001, 1e-5, 1.0, 1000)


def test_default_delta_is_a_tenth_of_the_ceiling():
    """1 / (10 N)."""
    assert default_delta(50) == pytest.approx(2e-3)


def test_opacus_is_loaded_only_to_price():
    """A process that prices nothing must not wait for it."""
    import subprocess
    import sys

    code = "import sys, evenhand.privacy.accounting; sys.exit('opacus' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
