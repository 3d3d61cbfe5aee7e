"""The order of the worklist: doubtful cases first, and no group more than another."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.cases.nifti import write_nifti
from evenhand.cases.records import Patient
from evenhand_ui.order import disagreement, group_of, in_turns
from evenhand_ui.runs import ReviewRun
from review_run import AFFINE, make_review_run, proposed_mask

ITEMS = st.lists(
    st.tuples(st.sampled_from("ABC"), st.floats(0, 1), st.integers(0, 10**6)),
    unique_by=lambda item: item[2],
    max_size=40,
)


def ordered(items):
    """The order of (group, doubt, number)."""
    return in_turns(items, group=lambda i: (i[0],), doubt=lambda i: i[1], name=lambda i: str(i[2]))


@given(ITEMS)
def test_no_group_is_ahead(items):
    """At any place of the list, two groups that still have cases differ by one at most."""
    whole = Counter(group for group, _, _ in items)
    seen = Counter()
    for group, _, _ in ordered(items):
        seen[group] += 1
        waiting = [seen[name] for name in whole if seen[name] < whole[name]]
        assert max(seen.values(), default=0) - min(waiting, default=max(seen.values())) <= 1
    assert seen == whole


@given(ITEMS, st.randoms(use_true_random=False))
def test_doubt_counts_within_a_group(items, shuffle):
    """Within a group doubt falls, whatever order the cases came in."""
    first = ordered(items)
    for name in "ABC":
        doubts = [doubt for group, doubt, _ in first if group == name]
        assert doubts == sorted(doubts, reverse=True)
    shuffle.shuffle(items)
    assert ordered(items) == first


def test_without_turns_one_group_would_fill_the_top():
    """A group that the model knows worst has all the doubt; half of the top is the other's."""
    items = [("A", 0.9, n) for n in range(10)] + [("B", 0.1, n + 10) for n in range(10)]
    assert Counter(group for group, _, _ in ordered(items)[:10]) == {"A": 5, "B": 5}


@pytest.mark.parametrize(("age", "band"), [(None, "unknown"), (39.9, "0"), (40, "1"), (60, "2")])
def test_groups(age, band):
    """Hospital, sex and age make the group; what is unknown is a group as well."""
    patient = Patient(patient_id="p", hospital="north", sex="F", age_years=age)
    assert group_of(patient) == ("north", "F", band)


def test_disagreement(tmp_path):
    """Three ways of training, one of which marks half: 1 - Dice over the pairs, by hand.

    Dice of a mask with half of itself is 2/3; two of three pairs differ: (1/3 + 1/3 + 0) / 3.
    """
    run = ReviewRun.open(make_review_run(tmp_path, arms=("federated", "pooled", "local-north")))
    assert disagreement(run, "n001") == 0.0
    half = proposed_mask()
    half[:8] = 0
    assert half.sum() * 2 == proposed_mask().sum()
    write_nifti(tmp_path / "arms" / "pooled" / "masks" / "n001.nii.gz", half, AFFINE)
    assert disagreement(run, "n001") == pytest.approx(2 / 9)
    (tmp_path / "arms" / "local-north" / "masks" / "n001.nii.gz").unlink()
    assert disagreement(run, "n001") == pytest.approx(1 / 3)
