"""Small groups are hidden, and nothing that is shown gives them away."""

from itertools import combinations, product

import numpy as np
import pytest
from attacker import Attacker, small_cells
from hypothesis import given, settings
from hypothesis import strategies as st

from evenhand_audit import disclosure
from evenhand_audit.disclosure import (
    POOL,
    TooCloseError,
    all_pairs,
    group_safely,
    plan_publication,
)

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


def plan(attributes, minimum, earlier=(), gone=0):
    """What may be shown, attributes and all their pairs."""
    return plan_publication(
        len(next(iter(attributes.values()))),
        attributes,
        orders={name: sorted(set(groups)) for name, groups in attributes.items()},
        pairs=all_pairs(list(attributes)),
        minimum=minimum,
        earlier=earlier,
        gone=gone,
    )


PEOPLE = st.integers(12, 34).flatmap(
    lambda count: st.tuples(
        st.lists(st.sampled_from("FFFMMMO"), min_size=count, max_size=count),
        st.lists(st.sampled_from("nnnneesw"), min_size=count, max_size=count),
        st.lists(st.sampled_from("yoo"), min_size=count, max_size=count),
    )
)


def named(people):
    """Three attributes of some people."""
    return dict(zip(("sex", "hospital", "age"), map(list, people), strict=True))


def test_the_attacker_recovers_what_is_published_carelessly():
    """The tests below could fail: overall and one of two groups give the other one."""
    attacker = Attacker([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert attacker.recovers([0, 0, 0, 1])
    assert not attacker.recovers([0, 0, 1, 1])


@settings(max_examples=60, deadline=None)
@given(people=PEOPLE, minimum=st.integers(2, 6))
def test_no_small_cell_can_be_recovered_from_a_report(people, minimum):
    """Overall, margins and pairs together give no group, pair or person under the minimum away."""
    attributes = named(people)
    publication = plan(attributes, minimum)
    attacker = Attacker(publication.rows)
    assert all(row.sum() >= minimum for row in publication.rows)
    for key, mine in small_cells(attributes, minimum):
        assert not attacker.recovers(mine), key


@settings(max_examples=40, deadline=None)
@given(
    people=PEOPLE,
    minimum=st.integers(2, 6),
    leaves=st.sets(st.integers(0, 33), max_size=8),
    come=st.integers(0, 8),
)
def test_no_small_cell_can_be_recovered_from_two_reports(people, minimum, leaves, come):
    """Some patients leave, some come: both reports together give nobody away, or the second ends.

    The first report is over all but the last `come` patients, the second over all but `leaves`.
    """
    attributes = named(people)
    count = len(attributes["sex"])
    first = np.arange(count) < count - come
    second = np.array([index not in leaves for index in range(count)])
    if min(first.sum(), second.sum()) < minimum:
        return

    def of(mask):
        return {name: list(np.array(each, object)[mask]) for name, each in attributes.items()}

    before = plan(of(first), minimum).rows
    spread = []
    for row in before:
        whole = np.zeros(count, dtype=bool)
        whole[np.flatnonzero(first)[row]] = True
        spread.append(whole)
    gone = first & ~second
    order = np.concatenate([np.flatnonzero(second), np.flatnonzero(gone)])
    try:
        after = plan(of(second), minimum, [row[order] for row in spread], int(gone.sum()))
    except TooCloseError:
        changed = int((first != second).sum())
        assert changed
        return
    both = list(spread)
    for row in after.rows:
        whole = np.zeros(count, dtype=bool)
        whole[np.flatnonzero(second)[row]] = True
        both.append(whole)
    alone, attacker = Attacker(spread), Attacker(both)
    changed = first != second
    assert not 0 < changed.sum() < minimum
    for key, mine in small_cells(attributes, minimum):
        for part in (mine & first, mine & second, mine & changed):
            if part.any() and not alone.recovers(part):
                assert not attacker.recovers(part), key


def test_one_patient_more_than_last_time_is_refused():
    """Yesterday's report and today's would differ by that patient's score."""
    attributes = {"sex": list("FM" * 10)}
    with pytest.raises(TooCloseError):
        plan(attributes, 5, [np.arange(20) < 19])


def test_the_same_patients_again_are_no_danger():
    """A report that is made twice shows the same rows."""
    attributes = {"sex": list("FM" * 10), "age": list("yyoo" * 5)}
    first = plan(attributes, 5)
    again = plan(attributes, 5, first.rows)
    assert {row.tobytes() for row in first.rows} == {row.tobytes() for row in again.rows}


def test_a_group_that_grew_by_one_is_pooled_and_not_shown_again():
    """Six patients came, one of them F: F's row may not stand beside yesterday's."""
    sexes = list("FM" * 10) + list("FMMMMM")
    first = np.arange(26) < 20
    earlier = [first, first & (np.array(sexes) == "F"), first & (np.array(sexes) == "M")]
    publication = plan({"sex": sexes}, 5, earlier)
    assert publication.single["sex"].labels == (POOL,)


def test_a_small_cell_of_a_pair_hides_others_with_it():
    """F in the north are two; F south, M north and one more must not give them by subtraction.

    20 F (2 north, 18 south), 20 M (10, 10): with all other cells shown, F north is 20 - 18.
    """
    sex = ["F"] * 20 + ["M"] * 20
    hospital = ["north"] * 2 + ["south"] * 18 + ["north"] * 10 + ["south"] * 10
    cross = plan({"sex": sex, "hospital": hospital}, 5).pairs["sex", "hospital"]
    assert "F, north" in cross.pooled
    assert "F, south" in cross.pooled
    shown = [label for label in cross.labels if label != POOL]
    assert len(shown) < 2


@pytest.mark.parametrize("most", [disclosure.MOST_UNIONS, 0])
def test_the_sum_of_two_patients_is_not_given_away_either(monkeypatch, most):
    """Two lone patients in opposite corners of a cube: neither follows from pairs, their sum would.

    With all pair tables shown, the alternating sum over the cube's other six corners gives it. Nor
    is it given where the search would be too large: then the row is refused unsearched.
    """
    monkeypatch.setattr(disclosure, "MOST_UNIONS", most)
    corners = list(product("12", repeat=3))
    sizes = [1 if len(set(corner)) == 1 else 12 for corner in corners]
    people = [corner for corner, size in zip(corners, sizes, strict=True) for _ in range(size)]
    attributes = {name: [each[at] for each in people] for at, name in enumerate("ABC")}
    two = np.array([len(set(each)) == 1 for each in people])
    columns = {name: np.array(groups) for name, groups in attributes.items()}
    cells = [
        (columns[first] == one) & (columns[second] == other)
        for first, second in all_pairs("ABC")
        for one in "12"
        for other in "12"
    ]
    assert Attacker(cells).recovers(two)
    assert min(int(cell.sum()) for cell in cells) >= 10
    assert not Attacker(plan(attributes, 10).rows).recovers(two)


@settings(max_examples=40, deadline=None)
@given(people=PEOPLE, minimum=st.integers(3, 5))
def test_no_union_of_few_patients_can_be_recovered(people, minimum):
    """Every union of people who are alike in everything, tried one by one."""
    attributes = named(people)
    attacker = Attacker(plan(attributes, minimum).rows)
    kinds = list(zip(*attributes.values(), strict=True))
    small = [kind for kind in sorted(set(kinds)) if kinds.count(kind) < minimum]
    for size in range(1, minimum):
        for union in combinations(small, size):
            mine = np.array([kind in union for kind in kinds])
            if mine.sum() < minimum:
                assert not attacker.recovers(mine), union
