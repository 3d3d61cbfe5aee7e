"""Bootstrap intervals: reproducible, right where others are right, covering where it is small."""

import numpy as np
import pytest
from scipy import stats

from evenhand_audit.resampling import (
    gap_interval,
    generator_for,
    mean_interval,
    median_interval,
    resample,
    shuffled_group_means,
)


def skewed(rng, shape):
    """Dice-like values with mean 0.8 and a long tail downwards."""
    return rng.beta(8, 2, size=shape)


def test_the_same_seed_gives_the_same_resamples():
    """Equal seed and names repeat exactly; another name or seed draws anew."""
    values = skewed(np.random.default_rng(0), (12, 2))
    first, again = (resample(values, 50, generator_for(1, "arm", "sex")) for _ in range(2))
    assert np.array_equal(first.means, again.means)
    assert np.array_equal(first.medians, again.medians)
    for other in (generator_for(1, "arm", "race"), generator_for(2, "arm", "sex")):
        assert not np.array_equal(first.means, resample(values, 50, other).means)


def test_a_resample_summarises_what_it_drew():
    """With one patient's value everywhere, every resample has that mean, median and no error."""
    drawn = resample(np.full((7, 1), 0.25), 20, generator_for(0))
    assert (drawn.means == 0.25).all()
    assert (drawn.medians == 0.25).all()
    assert (drawn.standard_errors == 0).all()


def test_many_resamples_are_drawn_in_pieces():
    """A cohort that exceeds the memory bound still yields every resample, around the mean."""
    values = skewed(np.random.default_rng(0), (50_000, 1))
    means = resample(values, 200, generator_for(0)).means
    assert means.shape == (200, 1)
    assert means.mean() == pytest.approx(values.mean(), abs=5e-4)


def test_the_mean_interval_agrees_with_scipy_in_large_samples():
    """With many patients the small-sample widening vanishes and scipy's BCa is the same."""
    values = skewed(np.random.default_rng(4), 2000)
    drawn = resample(values[:, None], 8000, generator_for(0)).means[:, 0]
    theirs = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=8000, rng=np.random.default_rng(0)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert mean_interval(values, drawn) == pytest.approx(tuple(theirs), abs=0.05 * width)


def test_equal_values_give_an_interval_without_width():
    """No spread, no doubt: the interval is the value."""
    values = np.full(6, 0.5)
    drawn = resample(values[:, None], 100, generator_for(0))
    assert mean_interval(values, drawn.means[:, 0]) == (0.5, 0.5)
    assert median_interval(6, drawn.medians[:, 0]) == (0.5, 0.5)


@pytest.mark.parametrize("patients", [8, 20])
def test_intervals_cover_the_truth(patients):
    """Over 400 simulated groups, 95% intervals of mean and median hold the truth in 92% to 99%.

    Truth of beta(8, 2): mean 0.8, median from scipy. Binomial noise of 400 repeats is 1.1 points.
    """
    rng = np.random.default_rng(11)
    true_median = stats.beta.median(8, 2)
    held_mean = held_median = 0
    for _ in range(400):
        values = skewed(rng, patients)
        drawn = resample(values[:, None], 600, rng)
        low, high = mean_interval(values, drawn.means[:, 0])
        held_mean += low <= 0.8 <= high
        low, high = median_interval(patients, drawn.medians[:, 0])
        held_median += low <= true_median <= high
    assert 0.92 <= held_mean / 400 <= 0.99
    assert 0.92 <= held_median / 400 <= 0.99


def test_gaps_of_equal_groups_are_rarely_beyond_chance():
    """Among four equal groups the largest gap excludes zero in at most 8% of 300 audits.

    A percentile interval of max - min would exclude it in all of them.
    """
    rng = np.random.default_rng(12)
    alarms = 0
    for _ in range(300):
        groups = [skewed(rng, size) for size in (6, 10, 15, 25)]
        alarms += gap_of(groups, rng)[0] > 0
    assert alarms / 300 <= 0.08


def test_gap_intervals_cover_the_true_difference():
    """For the pair that came out extreme, intervals hold the true difference in 92% or more."""
    rng = np.random.default_rng(13)
    parameters = [(8, 2), (8, 2), (6, 4)]
    truth = [a / (a + b) for a, b in parameters]
    held = 0
    for _ in range(300):
        groups = [rng.beta(a, b, size=12) for a, b in parameters]
        means = [group.mean() for group in groups]
        true_gap = truth[int(np.argmax(means))] - truth[int(np.argmin(means))]
        low, high = gap_of(groups, rng)
        held += low <= true_gap <= high
    assert held / 300 >= 0.92


def gap_of(groups, rng):
    """Gap interval from fresh resamples."""
    drawn = [resample(group[:, None], 500, rng) for group in groups]
    return gap_interval(groups, [(each.means[:, 0], each.standard_errors[:, 0]) for each in drawn])


def test_a_gap_between_two_patients_each_says_nothing():
    """Where resamples have no spread of their own, the interval is infinite rather than narrow."""
    low, high = gap_of([np.array([0.1, 0.2]), np.array([0.8, 0.9])], np.random.default_rng(0))
    assert (low, high) == (-np.inf, np.inf)


def test_a_gap_between_constant_groups_is_certain():
    """Two groups without any spread differ by exactly their difference."""
    low, high = gap_of([np.full(5, 0.25), np.full(6, 0.75)], np.random.default_rng(0))
    assert (low, high) == (0.5, 0.5)


def test_dealing_out_keeps_everybody():
    """Shuffled groups have the asked sizes and together the same patients, whatever the deal."""
    values = skewed(np.random.default_rng(0), 10)
    means = shuffled_group_means(values, [2, 3, 5], 40, generator_for(0))
    assert means.shape == (40, 3)
    assert means @ [0.2, 0.3, 0.5] == pytest.approx(np.full(40, values.mean()))
    assert len(np.unique(means[:, 0])) > 10
