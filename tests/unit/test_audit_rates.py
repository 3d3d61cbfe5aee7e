"""Intervals of rates hold what they promise, also where nothing happened."""

import numpy as np
import pytest
from scipy import stats

from evenhand_audit.rates import (
    Rate,
    planning_error,
    rate_gap_interval,
    rate_interval,
    rate_p_value,
    rates_gap_interval,
)
from evenhand_audit.resampling import Figure, standard_error


def single(events, patients):
    """One lesion a patient."""
    top = np.zeros(patients)
    top[:events] = 1
    return Figure(top, np.ones(patients))


@pytest.mark.parametrize(("events", "patients"), [(0, 12), (3, 60), (30, 60), (60, 60)])
def test_one_lesion_a_patient_is_clopper_and_pearson(events, patients):
    """Without clusters the interval is the exact one of a binomial, from scipy."""
    exact = stats.binomtest(events, patients).proportion_ci(method="exact")
    assert rate_interval(single(events, patients)) == pytest.approx(tuple(exact), abs=1e-9)


def test_lesions_of_one_patient_count_together():
    """Ten patients with four lesions each, all alike, know no more than ten lesions."""
    alike = np.repeat([1.0, 0.0], [3, 7])
    clustered = rate_interval(Figure(4 * alike, np.full(10, 4.0)))
    low, high = rate_interval(Figure(alike, np.ones(10)))
    assert clustered[0] == pytest.approx(low, abs=0.05)
    assert clustered[1] == pytest.approx(high, abs=0.05)
    free = stats.binomtest(12, 40).proportion_ci(method="exact")
    assert clustered[1] - clustered[0] > 1.5 * (free.high - free.low)


@pytest.mark.parametrize("rate", [0.03, 0.3])
def test_clustered_rates_are_covered(rate):
    """Patients differ in their own rate; 95% intervals hold the truth in 92% of 500 or more.

    Thirty patients whose lesions go together are few: 95% is not quite reached.
    """
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(500):
        bottom = rng.integers(1, 6, 30)
        own = rng.beta(rate * 6, (1 - rate) * 6, 30)
        low, high = rate_interval(Figure(rng.binomial(bottom, own).astype(float), bottom * 1.0))
        held += low <= rate <= high
    assert held / 500 >= 0.92


def test_no_lesion_missed_in_either_group_is_not_certainty():
    """Twice nothing is a gap of 0 whose interval reaches as far as the groups are unknown."""
    low, high = rate_gap_interval([single(0, 20), single(0, 30)])
    reach = stats.binomtest(0, 20).proportion_ci(method="exact").high
    other = stats.binomtest(0, 30).proportion_ci(method="exact").high
    assert sorted((-low, high)) == pytest.approx(sorted((reach, other)), abs=1e-9)


def test_gaps_of_rates_are_covered():
    """Of three groups the extreme pair's interval holds its true gap in 95% of 400 or more."""
    rng = np.random.default_rng(7)
    truth, sizes, held = (0.05, 0.1, 0.3), (20, 30, 40), 0
    for _ in range(400):
        groups = [
            single(rng.binomial(size, rate), size) for size, rate in zip(sizes, truth, strict=True)
        ]
        order = np.argsort([group.value for group in groups], kind="stable")
        low, high = rate_gap_interval(groups)
        held += low <= truth[order[-1]] - truth[order[0]] <= high
    assert held / 400 >= 0.95


def test_what_could_be_found_is_not_zero_where_nothing_was_missed():
    """A rate of 0 has no spread, but a sample of twelve does not know that it is 0."""
    assert standard_error(single(0, 12)) == 0
    assert planning_error(single(0, 12)) == pytest.approx(np.sqrt(2 / 16 * 14 / 16 / 16))
    assert planning_error(single(3, 12)) == standard_error(single(3, 12))


@pytest.mark.parametrize(("events", "sizes"), [((0, 4), (15, 15)), ((2, 20), (60, 40))])
def test_the_p_value_is_where_the_interval_reaches_zero(events, sizes):
    """Test and interval cannot disagree: at the level 1 - p the lower end is 0."""
    groups = [Rate.of(single(*each)) for each in zip(events, sizes, strict=True)]
    p_value = rate_p_value(*groups)
    assert 0 < p_value < 1
    assert rates_gap_interval(groups, 1 - p_value)[0] == pytest.approx(0, abs=1e-5)


def test_equal_rates_are_no_difference():
    """Twice nothing has p = 1; the largest difference keeps a p above 0."""
    assert rate_p_value(Rate.of(single(0, 9)), Rate.of(single(0, 30))) == 1.0
    assert 0 < rate_p_value(Rate.of(single(0, 500)), Rate.of(single(500, 500))) < 1e-6
