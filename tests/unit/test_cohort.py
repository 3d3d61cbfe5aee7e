"""Who composes with whom: the heaviest patients, against a slow count of every single one."""

from hypothesis import given
from hypothesis import strategies as st

from evenhand.privacy.cohort import Cohort, heaviest
from evenhand.privacy.keys import HospitalKey

TAGS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3, unique=True)
COHORTS = st.lists(st.lists(TAGS, min_size=1, max_size=4), min_size=0, max_size=5)


def connected(appearances):
    """Groups of appearances that share a tag, or are linked by others that do. Slowly."""
    groups = [({number}, set(tags)) for number, (_, tags) in enumerate(appearances)]
    while True:
        pair = next(
            ((one, two) for one in groups for two in groups if one is not two and one[1] & two[1]),
            None,
        )
        if pair is None:
            return [members for members, _ in groups]
        groups = [group for group in groups if all(group is not each for each in pair)]
        groups.append((pair[0][0] | pair[1][0], pair[0][1] | pair[1][1]))


@given(cohorts=COHORTS, use=st.lists(st.integers(-1, 4), max_size=8))
def test_the_heaviest_are_those_of_a_slow_count(cohorts, use):
    """Some listed load holds all charges of each person, and none is made up."""
    named = {str(n): tuple(tuple(tags) for tags in rows) for n, rows in enumerate(cohorts)}
    charges = [
        (None if n < 0 else str(n), number)
        for number, n in enumerate(use)
        if n < 0 or str(n) in named
    ]
    used = {digest for digest, _ in charges if digest is not None}
    appearances = [(digest, tags) for digest in used for tags in named[digest]]
    persons = [{appearances[number][0] for number in members} for members in connected(appearances)]
    slow = [
        [what for digest, what in charges if digest is None or digest in person]
        for person in persons or [set()]
    ]
    loads = heaviest(named, charges)
    assert all(any(set(load) <= set(listed) for listed in loads) for load in slow)
    assert all(listed in slow for listed in loads)


def test_nobody_at_all_has_a_load_of_nothing():
    """An empty ledger has one load, and it is empty."""
    assert heaviest({}, []) == [[]]


def test_order_and_repetition_do_not_matter(tmp_path):
    """A cohort is a set: the same patients give the same digest, others give another."""
    key = HospitalKey.open(tmp_path)
    one = Cohort.of(key, {"a": ["x", "y"], "b": ["z"]})
    same = Cohort.of(key, {"b": ["z", "z"], "a": ["y", "x"]})
    other = Cohort.of(key, {"a": ["x"], "b": ["z"]})
    assert one == same
    assert one.digest == same.digest != other.digest
    assert len(one) == 2
