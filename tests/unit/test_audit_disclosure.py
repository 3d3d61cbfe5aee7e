"""Small groups are hidden, and nothing that is shown gives them away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand_audit.disclosure import POOL, group_safely

COUNTS = st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 30), min_size=1)


def test_large_groups_are_all_shown():
    """Without a small group nothing is pooled and the order is kept."""
    grouping = group_safely({"M": 20, "F": 5}, minimum=5)
    assert (grouping.shown, grouping.pooled, grouping.labels) == (("M", "F"), (), ("M", "F"))


def test_two_small_groups_large_enough_together_are_pooled():
    """3 + 2 = 5 patients reach the minimum: the pool needs nobody else."""
    grouping = group_safely({"white": 20, "black": 3, "asian": 2}, minimum=5)
    assert (grouping.shown, grouping.pooled) == (("white",), ("black", "asian"))
    assert grouping.labels == ("white", POOL)
    assert [grouping.label(name) for name in ("white", "asian")] == ["white", POOL]


def test_one_small_group_takes_the_next_smallest_with_it():
    """Alone it would follow from the overall mean and the rest, so the next smallest goes too."""
    grouping = group_safely({"white": 20, "black": 8, "asian": 2}, minimum=5)
    assert grouping.pooled == ("black", "asian")


def test_small_groups_too_few_together_take_another():
    """1 + 1 patients are under the minimum even together."""
    grouping = group_safely({"white": 20, "black": 8, "asian": 1, "other": 1}, minimum=5)
    assert grouping.pooled == ("black", "asian", "other")


def test_with_two_groups_and_one_small_nothing_is_compared():
    """M's 20 patients cannot be shown beside an overall of 21 without showing the one."""
    grouping = group_safely({"M": 20, "unknown": 1}, minimum=5)
    assert (grouping.shown, grouping.labels) == ((), (POOL,))


def test_fewer_patients_than_the_minimum_are_no_audit():
    """Not even the pool may be shown then."""
    with pytest.raises(ValueError, match="fewer patients"):
        group_safely({"F": 2, "M": 2}, minimum=5)


@given(counts=COUNTS, minimum=st.integers(2, 10))
def test_nothing_hidden_follows_by_subtraction(counts, minimum):
    """Every published row, and every sum of hidden groups, stands for enough patients.

    From the overall row and the shown ones only the pool as a whole can be computed; it must hold
    at least two groups and the minimum of patients, or nothing at all.
    """
    if sum(counts.values()) < minimum:
        return
    grouping = group_safely(counts, minimum)
    assert sorted((*grouping.shown, *grouping.pooled)) == sorted(counts)
    assert all(counts[group] >= minimum for group in grouping.shown)
    remainder = sum(counts.values()) - sum(counts[group] for group in grouping.shown)
    assert remainder == sum(counts[group] for group in grouping.pooled)
    if grouping.pooled:
        assert len(grouping.pooled) >= 2
        assert remainder >= minimum
        assert min(counts.values()) < minimum
