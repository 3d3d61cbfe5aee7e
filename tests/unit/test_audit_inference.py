"""Tests, corrections, effects and what a sample could have found."""

import itertools
import time

import numpy as np
import pytest
from scipy import stats

from evenhand_audit.inference import cliffs_delta, corrected, permutation_tests
from evenhand_audit.power import detectable_gap
from evenhand_audit.resampling import Figure


def groups_of(sizes):
    """Members of groups that lie side by side."""
    edges = np.cumsum([0, *sizes])
    return [np.arange(*ends) for ends in itertools.pairwise(edges)]


def test_a_permutation_test_agrees_with_scipy():
    """Two groups: the share of deals with a larger |t| is that of scipy's own permutation test."""
    rng = np.random.default_rng(2)
    first, second = rng.beta(8, 2, 12), rng.beta(6, 4, 15)
    dealt = permutation_tests(
        [Figure(np.concatenate([first, second]))], [groups_of([12, 15])], 8000,
        np.random.default_rng(0),
    )[0]  # fmt: skip
    theirs = stats.permutation_test(
        (first, second),
        lambda a, b, axis: np.abs(stats.ttest_ind(a, b, axis=axis, equal_var=False).statistic),
        vectorized=True, n_resamples=8000, alternative="greater", rng=np.random.default_rng(1),
    )  # fmt: skip
    assert dealt.p_values[0] == pytest.approx(theirs.pvalue, abs=0.012)


def test_deals_are_of_the_same_patients():
    """Group means of a deal, weighted by size, give the mean of everybody (here 0 by centring)."""
    values = np.random.default_rng(0).beta(8, 2, 10)
    dealt = permutation_tests(
        [Figure(values)], [groups_of([2, 3, 5])], 50, np.random.default_rng(0)
    )[0]
    assert dealt.values[..., 0] @ [0.2, 0.3, 0.5] == pytest.approx(np.zeros(50), abs=1e-12)
    assert len(np.unique(dealt.values[:, 0, 0])) > 10


def test_p_values_are_uniform_without_a_difference():
    """Of 300 tests of three equal, small, skewed groups about 5% come out under 5%."""
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(300):
        values = rng.beta(8, 2, 21)
        p_value = permutation_tests([Figure(values)], [groups_of([5, 6, 10])], 199, rng)[0]
        found += p_value.p_values[0] <= 0.05
    assert 4 <= found <= 27


def test_a_difference_of_hospitals_is_no_difference_of_sexes():
    """North is worse and has most of the women: found plainly, not inside hospitals."""
    rng = np.random.default_rng(3)
    north = np.repeat([1, 0], 40)
    sex = np.concatenate([rng.random(40) < 0.8, rng.random(40) < 0.2])
    values = rng.normal(0.8, 0.05, 80) - 0.2 * north
    grouping = [np.flatnonzero(sex), np.flatnonzero(~sex)]
    plain, inside = permutation_tests(
        [Figure(values)], [grouping, grouping], 2000, rng, [None, north]
    )
    assert plain.p_values[0] < 0.001
    assert inside.p_values[0] > 0.05


def test_a_difference_inside_hospitals_is_still_found():
    """Sexes differ in both hospitals: dealing inside hospitals does not hide it."""
    rng = np.random.default_rng(4)
    north = np.repeat([1, 0], 40)
    sex = np.tile([True, False], 40)
    values = rng.normal(0.8, 0.05, 80) - 0.1 * sex
    grouping = [np.flatnonzero(sex), np.flatnonzero(~sex)]
    assert permutation_tests([Figure(values)], [grouping], 2000, rng, [north])[0].p_values[0] < 0.01


def test_constant_figures_are_no_finding():
    """Without any spread and difference nothing is extreme."""
    dealt = permutation_tests(
        [Figure(np.full(10, 0.5))], [groups_of([5, 5])], 100, np.random.default_rng(0)
    )[0]
    assert dealt.p_values[0] == 1.0


def test_corrections_by_hand():
    """From p = 0.01, 0.04, 0.03, 0.005: Holm and Benjamini-Hochberg worked out on paper.

    Holm, rising: 0.005 x 4 = 0.02, 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, then at least 0.06.
    BH, falling: 0.04, 0.03 x 4/3 = 0.04, 0.01 x 2 = 0.02, 0.005 x 4 = 0.02.
    """
    holm, fdr = corrected([0.01, 0.04, 0.03, 0.005])
    assert holm == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert fdr == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert corrected([]) == ([], [])


def test_twenty_attributes_without_a_gap_raise_no_alarm():
    """Twenty attributes that mean nothing: at most 4 of 40 audits name one after Holm.

    The truth is at most 5%, where more than 4 of 40 has a chance of 5%; uncorrected it is 64%.
    The full figure is made by benchmarks/audit_false_alarms.py.
    """
    rng = np.random.default_rng(21)
    alarms = uncorrected = 0
    for _ in range(40):
        figures = [Figure(rng.beta(8, 2, 40))]
        labels = rng.integers(2, size=(20, 40))
        groupings = [[np.flatnonzero(each), np.flatnonzero(each == 0)] for each in labels]
        dealt = permutation_tests(figures, groupings, 400, rng)
        p_values = [each.p_values[0] for each in dealt]
        alarms += min(corrected(p_values)[0]) <= 0.05
        uncorrected += min(p_values) <= 0.05
    assert alarms <= 4
    assert uncorrected >= 15


def test_cliffs_delta_by_hand():
    """{1, 3, 5} against {2, 3}: 1 loses both, 3 wins one and ties one, 5 wins both: 1 / 6."""
    effect = cliffs_delta(np.array([1.0, 3.0, 5.0]), np.array([2.0, 3.0]))
    assert effect.delta == pytest.approx((-2 + 1 + 2) / 6)
    assert -1 <= effect.low < effect.delta < effect.high <= 1


def test_cliffs_delta_covers_the_truth():
    """Of 300 intervals for two equal distributions 92% or more hold 0."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        effect = cliffs_delta(rng.beta(8, 2, 15), rng.beta(8, 2, 20))
        held += effect.low <= 0 <= effect.high
    assert held >= 276


def test_groups_that_never_overlap_have_an_open_interval_on_one_side():
    """All patients of one group are better: delta is 1, and the interval ends there."""
    effect = cliffs_delta(np.arange(5.0) + 10, np.arange(6.0))
    assert effect.delta == effect.high == 1
    assert effect.low < 1


@pytest.mark.parametrize("sizes", [(8, 12), (200, 250)])
def test_a_detectable_gap_is_found_in_80_percent(sizes):
    """In 600 samples with a true gap of that size, Welch's test finds 76% to 84%."""
    errors = (1 / np.sqrt(sizes[0]), 2 / np.sqrt(sizes[1]))
    gap = detectable_gap(errors, sizes, 0.01)
    rng = np.random.default_rng(6)
    first = rng.normal(gap, 1, (600, sizes[0]))
    second = rng.normal(0, 2, (600, sizes[1]))
    found = stats.ttest_ind(first, second, axis=1, equal_var=False).pvalue <= 0.01
    assert 0.76 <= found.mean() <= 0.84


def test_more_comparisons_need_a_larger_gap():
    """The stricter the level, the larger the smallest gap; without spread anything is found."""
    assert detectable_gap((0.1, 0.1), (20, 20), 0.001) > detectable_gap((0.1, 0.1), (20, 20), 0.05)
    assert detectable_gap((0.0, 0.0), (20, 20), 0.05) == 0
    assert detectable_gap((float("inf"), 0.1), (2, 20), 0.05) == float("inf")


def test_with_hardly_any_patients_no_gap_is_named_at_once():
    """Two patients, one spread of none and a level of a large family: infinite, and no search."""
    started = time.process_time()  # what it computes, not what else the machine does
    assert detectable_gap((0.0, 0.1), (20, 2), 2e-7) == float("inf")
    assert detectable_gap((0.1, 0.1), (2, 2), 0.05) == float("inf")
    assert np.isfinite(detectable_gap((0.1, 0.1), (4, 4), 2e-7))
    assert time.process_time() - started < 10
