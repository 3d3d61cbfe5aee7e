"""Bootstrap intervals: reproducible, right where others are right, covering where it is small."""

import itertools

import numpy as np
import pytest
from scipy import stats

from evenhand_audit.resampling import (
    EXACT,
    Figure,
    bca_interval,
    gap_interval,
    generator_for,
    mean_interval,
    median_interval,
    resample_groups,
    standard_error,
)


def skewed(rng, shape):
    """Dice-like values with mean 0.8 and a long tail downwards."""
    return rng.beta(8, 2, size=shape)


def draw(values, resamples, rng):
    """Resamples of one group that is everybody."""
    return resample_groups([Figure(values)], [np.arange(len(values))], resamples, rng)[0]


def test_the_same_seed_gives_the_same_resamples():
    """Equal seed and names repeat exactly; another name or seed draws anew."""
    values = skewed(np.random.default_rng(0), 12)
    first, again = (draw(values, 50, generator_for(1, "arm", "sex")) for _ in range(2))
    assert np.array_equal(first.values, again.values)
    for other in (generator_for(1, "arm", "race"), generator_for(2, "arm", "sex")):
        assert not np.array_equal(first.values, draw(values, 50, other).values)


@pytest.mark.parametrize("patients", [7, EXACT + 6])
def test_a_constant_group_has_no_spread(patients):
    """With one value everywhere every resample has it, with no error, whichever way it is drawn."""
    drawn = draw(np.full(patients, 0.3), 20, generator_for(0))
    assert drawn.values == pytest.approx(np.full((1, 20), 0.3))
    assert (drawn.errors == 0).all()


@pytest.mark.parametrize("patients", [EXACT, EXACT + 1, 3000])
def test_resamples_spread_as_theory_says(patients):
    """Drawn or weighted, means spread by the standard error, and know their own error."""
    values = skewed(np.random.default_rng(3), patients)
    drawn = draw(values, 4000, generator_for(0))
    error = standard_error(Figure(values))
    assert drawn.values.mean() == pytest.approx(values.mean(), abs=0.1 * error)
    assert drawn.values.std() == pytest.approx(error, rel=0.06)
    assert drawn.errors.mean() == pytest.approx(error, rel=0.06)


def test_a_resample_of_a_rate_is_sum_over_sum():
    """Figures and errors of a rate against a slow loop over the same weights."""
    rng = np.random.default_rng(5)
    bottom = rng.integers(1, 6, 20).astype(float)
    top = rng.binomial(bottom.astype(int), 0.7).astype(float)
    drawn = resample_groups([Figure(top, bottom)], [np.arange(20)], 300, generator_for(9))[0]
    again = generator_for(9).integers(20, size=(300, 20))
    for column, chosen in enumerate(again):
        rate = top[chosen].sum() / bottom[chosen].sum()
        rest = top[chosen] - rate * bottom[chosen]
        error = np.sqrt((rest**2).sum() * 20 / 19) / bottom[chosen].sum()
        assert drawn.values[0, column] == pytest.approx(rate, abs=1e-5)
        assert drawn.errors[0, column] == pytest.approx(error, abs=1e-5)


def test_groups_may_overlap_and_order_is_kept():
    """Each group's resamples are around its own mean."""
    values = np.concatenate([np.zeros(80), np.ones(80)]) + np.linspace(0, 0.01, 160)
    groups = [np.arange(160), np.arange(80), np.arange(80, 160), np.arange(0, 160, 20)]
    drawn = resample_groups([Figure(values)], groups, 200, generator_for(0))
    for members, each in zip(groups, drawn, strict=True):
        assert each.values.mean() == pytest.approx(values[members].mean(), abs=0.06)


def test_bca_agrees_with_scipy_in_large_samples():
    """With many patients the small-sample widening vanishes and scipy's BCa is the same."""
    values = skewed(np.random.default_rng(4), 800)
    drawn = draw(values, 6000, generator_for(0))
    theirs = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=6000, rng=np.random.default_rng(0)
    ).confidence_interval
    width = theirs.high - theirs.low
    ours = bca_interval(Figure(values), drawn.values[0])
    assert ours == pytest.approx(tuple(theirs), abs=0.06 * width)
    studentised = mean_interval(Figure(values), drawn.values[0], drawn.errors[0])
    assert studentised == pytest.approx(tuple(theirs), abs=0.08 * width)


def test_equal_values_give_an_interval_without_width():
    """No spread, no doubt: the interval is the value."""
    values = np.full(6, 0.5)
    drawn = draw(values, 100, generator_for(0))
    assert mean_interval(Figure(values), drawn.values[0], drawn.errors[0]) == (0.5, 0.5)
    assert bca_interval(Figure(values), drawn.values[0]) == (0.5, 0.5)
    assert median_interval(values) == (0.5, 0.5)


def test_the_interval_of_a_median_by_hand():
    """Of 10: the 2nd and 9th value hold the median with 97.85%, the 3rd and 8th with 89.06%.

    95% lies between: weight of the inner pair (10 - 2) f / (2 + (10 - 4) f), f = 2.85 / 8.79.
    """
    low, high = median_interval(np.arange(1.0, 11.0))
    f = (0.978515625 - 0.95) / (0.978515625 - 0.890625)
    share = 8 * f / (2 + 6 * f)
    assert (low, high) == pytest.approx((2 + share, 9 - share))


@pytest.mark.parametrize("count", [2, 5])
def test_too_few_for_a_median_give_the_whole_range(count):
    """Under six patients the interval is smallest to largest."""
    assert median_interval(np.arange(float(count))) == (0.0, count - 1.0)


@pytest.mark.parametrize("patients", [8, 15])
def test_intervals_cover_the_truth(patients):
    """Over 400 simulated groups, 95% intervals of mean and median hold the truth in 92% to 99%.

    Truth of beta(8, 2): mean 0.8, median from scipy. Binomial noise of 400 repeats is 1.1 points.
    The full figures, with 2,000 repeats, are made by benchmarks/audit_coverage.py.
    """
    rng = np.random.default_rng(11)
    true_median = stats.beta.median(8, 2)
    held_mean = held_median = 0
    for _ in range(400):
        values = skewed(rng, patients)
        drawn = draw(values, 500, rng)
        low, high = mean_interval(Figure(values), drawn.values[0], drawn.errors[0])
        held_mean += low <= 0.8 <= high
        low, high = median_interval(values)
        held_median += low <= true_median <= high
    assert 0.92 <= held_mean / 400 <= 0.99
    assert 0.92 <= held_median / 400 <= 0.99


def test_gap_intervals_cover_the_true_difference():
    """For the pair that came out extreme, intervals hold the true difference in 92% or more."""
    rng = np.random.default_rng(13)
    parameters = [(8, 2), (8, 2), (6, 4)]
    truth = [a / (a + b) for a, b in parameters]
    held = 0
    for _ in range(200):
        groups = [rng.beta(a, b, size=12) for a, b in parameters]
        means = [group.mean() for group in groups]
        true_gap = truth[int(np.argmax(means))] - truth[int(np.argmin(means))]
        low, high = gap_of(groups, rng)
        held += low <= true_gap <= high
    assert held / 200 >= 0.92


def gap_of(groups, rng):
    """Gap interval from fresh resamples."""
    values = np.concatenate(groups)
    edges = np.cumsum([0, *map(len, groups)])
    members = [np.arange(*ends) for ends in itertools.pairwise(edges)]
    figure = Figure(values)
    drawn = resample_groups([figure], members, 400, rng)
    return gap_interval(
        [figure.of(each) for each in members], [(each.values[0], each.errors[0]) for each in drawn]
    )


def test_a_gap_between_two_patients_each_says_nothing():
    """Where resamples have no spread of their own, the interval is infinite rather than narrow."""
    low, high = gap_of([np.array([0.1, 0.2]), np.array([0.8, 0.9])], np.random.default_rng(0))
    assert (low, high) == (-np.inf, np.inf)


def test_a_gap_between_constant_groups_is_certain():
    """Two groups without any spread differ by exactly their difference."""
    low, high = gap_of([np.full(5, 0.25), np.full(6, 0.75)], np.random.default_rng(0))
    assert (low, high) == (0.5, 0.5)
