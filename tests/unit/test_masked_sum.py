"""The sum is the plain sum, whoever drops out; nobody's numbers can be seen on the way."""

import contextlib
import itertools
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenhand.errors import FederationError
from evenhand_federated import masked_sum
from evenhand_federated.fixed_point import NARROW, WIDE
from evenhand_federated.masked_sum import (
    Contributor,
    RefusedSumError,
    Unmasking,
    UnopenedSumError,
    open_sum,
    threshold_of,
)

CONTEXT = "study, round 1"

ALIKE = {"ring": WIDE, "told": "alike"}
"""What hospitals mask with where a test is about something else."""


def begin(names, minimum=2):
    """Contributors, and the keys that everybody gets."""
    hospitals = {name: Contributor(name, CONTEXT, minimum) for name in names}
    return hospitals, {name: one.public() for name, one in hospitals.items()}


def run(values, *, sends=None, opens=None, minimum=2, ring=WIDE):
    """A whole sum: `sends` come to the second exchange, `opens` to the last."""
    hospitals, keys = begin(values, minimum)
    sends = set(values) if sends is None else sends
    masked = {
        name: hospitals[name].mask(keys, values[name], ring=ring, told="alike")
        for name in sorted(sends)
    }
    opened = {}
    if sends != set(values):
        for name in sends:
            hospitals[name].agree(sends)
    for name in sorted(sends if opens is None else opens):
        # Between exchanges a hospital's process ends: what it knows goes through a file.
        again = Contributor.from_json(hospitals[name].to_json())
        shares = {other: one.shares[name] for other, one in masked.items()}
        opened[name] = again.unmask(shares, sends)
    numbers = {name: one.values for name, one in masked.items()}
    return open_sum(numbers, opened, began=values, context=CONTEXT, minimum=minimum)


numbers = st.floats(-1e6, 1e6, width=64)


@given(data=st.data(), count=st.integers(2, 6), size=st.integers(1, 20))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_equals_the_plain_sum(data, count, size):
    """Within half a step a hospital, whoever of those not needed drops out before sending."""
    values = {
        f"h{number}": np.array(data.draw(st.lists(numbers, min_size=size, max_size=size)))
        for number in range(count)
    }
    needed = threshold_of(count, 2)
    sends = set(data.draw(st.permutations(sorted(values)))[: data.draw(st.integers(needed, count))])
    ring = data.draw(st.sampled_from([WIDE, NARROW]))
    if ring is NARROW:  # as far as it reaches
        most = ring.largest(count)
        values = {name: np.clip(one * (most / 1e6), -most, most) for name, one in values.items()}
    found = run(values, sends=sends, ring=ring)
    plain = np.sum([values[name] for name in sends], axis=0)
    assert np.abs(found - plain).max() <= len(sends) * ring.step / 2 + 1e-9 * np.abs(plain).max()


@given(data=st.data(), count=st.integers(3, 6))
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_who_drops_out_before_opening_is_in_the_sum(data, count):
    """Those who are left open it for those who have sent and are gone."""
    values = {f"h{number}": np.array([number + 0.5, -number]) for number in range(count)}
    keep = data.draw(st.integers(threshold_of(count, 2), count))
    opens = set(data.draw(st.permutations(sorted(values)))[:keep])
    plain = np.sum(list(values.values()), axis=0)
    np.testing.assert_allclose(run(values, opens=opens), plain, atol=count * WIDE.step)


VALUES = {name: np.array([float(number), 2.0, -3.0]) for number, name in enumerate("abcd", 1)}


def tell(names, honest, minimum, signs, opens):
    """The list that each honest hospital has opened for, if it has.

    Args:
        names: all who began.
        honest: those of them who do only what is right.
        minimum: that they ask for.
        signs: the lists that each of them is asked to sign.
        opens: the list that each is then told.
    """
    keys = {name: name.encode() for name in names}
    own = [Contributor(name, CONTEXT, minimum, b"", b"", dict(keys)) for name in honest]
    signed = {}
    for one, lists in zip(own, signs, strict=True):
        for came in lists:
            with contextlib.suppress(RefusedSumError):
                one.agree(came)
                signed.setdefault(frozenset(came), names - set(honest)).add(one.name)
    told = {}
    for one, came in zip(own, opens, strict=True):
        with contextlib.suppress(RefusedSumError):
            one.check_opening(came, signed.get(frozenset(came), names - set(honest)))
            told[one.name] = came
    return told


def visible(honest, told, needed):
    """Groups of honest hospitals whose sum a coordinator can work out.

    Args:
        honest: all of them; what the others know the coordinator knows.
        told: the list that each hospital has opened for.
        needed: how many of the honest have to give a share of an own mask.
    """
    apart = {
        frozenset((one, other))
        for one, came in told.items()
        for other in honest
        if other not in came
    }
    groups = [{name} for name in honest]
    for one, other in itertools.combinations(sorted(honest), 2):
        if frozenset((one, other)) not in apart:
            first = next(group for group in groups if one in group)
            second = next(group for group in groups if other in group)
            if first is not second:
                groups.remove(second)
                first |= second
    bare = {one for one in honest if sum(one in came for came in told.values()) >= needed}
    return [group for group in groups if group <= bare]


class TestHidden:
    """What goes over the wire tells nothing."""

    def test_masked_numbers_look_random(self):
        """Zeros masked have every bit set about half the time, and differ from round to round."""
        hospitals, keys = begin("abc")
        sent = hospitals["a"].mask(keys, np.zeros(4096), **ALIKE).values
        bits = np.unpackbits(sent.view(np.uint8))
        assert abs(bits.mean() - 0.5) < 0.01
        other = Contributor("a", "study, round 2", 2, hospitals["a"].private, hospitals["a"].seed)
        assert not np.array_equal(sent, other.mask(keys, np.zeros(4096), **ALIKE).values)

    def test_two_of_three_see_no_third(self):
        """Without the own mask taken off, pair masks alone do not open anybody's numbers."""
        hospitals, keys = begin("abc")
        sent = hospitals["a"].mask(keys, np.ones(64), **ALIKE).values
        for name in "bc":
            hospitals[name].mask(keys, np.ones(64), **ALIKE)
        opened = [hospitals[name]._pair_seed(keys["a"]) for name in "bc"]
        bare = sent
        for name, seed in zip("bc", opened, strict=True):
            bare = masked_sum._with_pair(bare, "a", name, seed, -1)
        assert np.abs(WIDE.decode(bare)).min() > 1e3

    def test_never_both_shares_and_pair_seeds(self):
        """Of nobody does a hospital give what would take off both masks; nor does it twice."""
        hospitals, keys = begin("abcd")
        masked = {name: hospitals[name].mask(keys, np.ones(2), **ALIKE) for name in "abcd"}
        hospitals["a"].agree("abc")
        answer = hospitals["a"].unmask({name: masked[name].shares["a"] for name in "abc"}, "abc")
        assert set(answer.shares) & set(answer.pairs) == set()
        assert (set(answer.shares), set(answer.pairs)) == ({"a", "b", "c"}, {"d"})
        with pytest.raises(FederationError, match="opened already"):
            hospitals["a"].unmask({name: masked[name].shares["a"] for name in "abcd"})

    @pytest.mark.parametrize(("minimum", "bad"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
    def test_whatever_hospitals_are_told_one_sum_is_seen(self, minimum, bad):
        """Whoever is told what, and with `minimum` - 1 hospitals on the coordinator's side.

        It chooses who signs which list and who opens for which. The bad sign all lists and give
        all that they have. Of the honest one sum at most is seen, of all but the bad that open it.
        """
        draw, sums = random.Random(0), 0
        for _ in range(2000):
            count = draw.randint(max(3, minimum), 6)
            needed = threshold_of(count, minimum)
            names = {f"h{number}" for number in range(count)}
            honest = sorted(names)[bad:]
            pool = [names] + [
                set(draw.sample(sorted(names), draw.randint(needed, count)))
                for _ in range(draw.randint(1, 4))
            ]
            signs = [draw.choices(pool, k=draw.randint(0, 2)) for _ in honest]
            opens = [draw.choice([*one, *one, *pool]) for one in signs]
            told = tell(names, honest, minimum, signs, opens)
            seen = visible(set(honest), told, needed - bad)
            assert len(seen) <= 1
            assert all(len(group) >= needed - bad >= minimum - bad for group in seen)
            sums += len(seen)
        assert sums > 100, "too few of these draws open anything"

    @pytest.mark.parametrize("lists", [("abc", "abd"), ("abc", "abcd")])
    def test_a_second_list_is_refused(self, lists):
        """A hospital that has signed one list neither signs nor opens for another."""
        hospitals, keys = begin("abcd")
        masked = {name: hospitals[name].mask(keys, np.ones(4), **ALIKE) for name in "abcd"}
        one, other = lists
        hospitals["a"].agree(one)
        with pytest.raises(RefusedSumError, match="has signed that numbers of a, b, c came"):
            hospitals["a"].agree(other)
        with pytest.raises(RefusedSumError, match="has signed that numbers of a, b, c came"):
            hospitals["a"].unmask({name: masked[name].shares["a"] for name in other}, other)

    def test_too_few_signatures_open_nothing(self):
        """Others may have been told another list: without their signatures nothing is opened."""
        hospitals, keys = begin("abcd")
        masked = {name: hospitals[name].mask(keys, np.ones(4), **ALIKE) for name in "abcd"}
        shares = {name: masked[name].shares["a"] for name in "abc"}
        with pytest.raises(RefusedSumError, match="3 hospitals have signed"):
            hospitals["a"].unmask(shares, "abc")  # it has not signed it itself
        hospitals["a"].agree("abc")
        with pytest.raises(RefusedSumError, match="2 hospitals have signed"):
            hospitals["a"].unmask(shares, "abd")
        hospitals["a"].unmask(shares, "abc")

    def test_too_few_shares_open_nothing(self):
        """Fewer than needed cannot take off an own mask."""
        with pytest.raises(FederationError, match="2 hospitals gave a share, 3 are needed"):
            run(VALUES, opens={"a", "b"})


class TestCoordinatorThatCheats:
    """Attacks on what the protocol of Bonawitz et al. leaves to the implementation."""

    def test_a_hospital_is_handed_its_own_shares(self):
        """One alone would open its own mask, and the others its pairs: its numbers were bare.

        a, b and c sign and open a list without d, so they give what they share with d. d is told
        that all came, which nobody signs, and what should be the others' shares are its own.
        """
        hospitals, keys = begin(VALUES)
        masked = {name: one.mask(keys, VALUES[name], **ALIKE) for name, one in hospitals.items()}
        came = ("a", "b", "c")
        for name in came:
            hospitals[name].agree(came)
        pairs = {}
        for name in came:
            shares = {other: masked[other].shares[name] for other in came}
            pairs[name] = hospitals[name].unmask(shares, came).pairs["d"]
        reflected = dict(masked["d"].shares)
        with pytest.raises(RefusedSumError, match="not meant for this hospital"):
            bare(masked["d"].values, hospitals["d"].unmask(reflected), pairs)

    def test_the_attack_works_where_shares_have_one_key_for_both_ways(self, monkeypatch):
        """Else the test above would show nothing: so it was before."""
        monkeypatch.setattr(
            Contributor, "_share_key", lambda own, public, _giver, _holder: own._pair_key(public)
        )
        with pytest.raises(AssertionError, match="bare"):
            self.test_a_hospital_is_handed_its_own_shares()

    def test_hospitals_are_told_different_adapters(self):
        """With one that teaches b and c nothing, the sum would be a's numbers: nothing comes."""
        values = VALUES | {"b": np.zeros(3), "c": np.zeros(3), "d": np.zeros(3)}
        hospitals, keys = begin(values)
        for told in ("same", ""):
            hospitals, keys = begin(values)
            masked = {
                name: one.mask(keys, values[name], ring=WIDE, told=told or name)
                for name, one in hospitals.items()
            }
            opened = {
                name: one.unmask({other: part.shares[name] for other, part in masked.items()})
                for name, one in hospitals.items()
            }
            numbers = {name: one.values for name, one in masked.items()}
            options = {"began": values, "context": CONTEXT, "minimum": 2}
            if told:
                np.testing.assert_allclose(open_sum(numbers, opened, **options), VALUES["a"])
            else:
                with pytest.raises(UnopenedSumError, match="makes no sense"):
                    open_sum(numbers, opened, **options)

    def test_a_name_twice_is_one_hospital(self):
        """Three are needed here; two do not become three by being named twice."""
        hospitals, keys = begin(VALUES)
        hospitals["a"].mask(keys, VALUES["a"], **ALIKE)
        with pytest.raises(RefusedSumError, match="asks for 3 of the 4"):
            hospitals["a"].agree(["a", "b", "b"])


class TestHospitalThatCheats:
    """What a hospital can break is noticed: the round ends, and nothing is learned from it."""

    @pytest.mark.parametrize("lie", ["share of another's mask", "own share", "seed of a pair"])
    def test_a_wrong_share_or_seed(self, lie):
        """Where it can be read as one, the sum is noise, far out of any range."""
        hospitals, keys = begin(VALUES)
        came = ("a", "b", "c")
        masked = {name: hospitals[name].mask(keys, VALUES[name], **ALIKE) for name in came}
        for name in came:
            hospitals[name].agree(came)
        opened = {}
        for name in came:
            shares = {other: masked[other].shares[name] for other in came}
            opened[name] = hospitals[name].unmask(shares, came)
        numbers = {name: one.values for name, one in masked.items()}
        options = {"began": VALUES, "context": CONTEXT, "minimum": 2}
        plain = sum(VALUES[name] for name in came)
        np.testing.assert_allclose(open_sum(numbers, opened, **options), plain, atol=3 * WIDE.step)
        shares, pairs = dict(opened["a"].shares), dict(opened["a"].pairs)
        of = {"share of another's mask": (shares, "b"), "own share": (shares, "a")}
        where, whose = of.get(lie, (pairs, "d"))
        where[whose] = where[whose][:-1] + bytes([where[whose][-1] ^ 1])
        with pytest.raises(UnopenedSumError, match=r"makes no sense|no share of a mask"):
            open_sum(numbers, opened | {"a": Unmasking(shares, pairs)}, **options)


def bare(numbers, opened, pairs):
    """Fail with what d sent, if its mask can be taken off with what it and the others opened."""
    parts = [opened.shares[name] for name in "abc"]
    seed = masked_sum._derived(masked_sum.combine_shares(parts), f"own {CONTEXT}")
    total = numbers - masked_sum._stream(seed, numbers)
    for name, pair in pairs.items():
        total = masked_sum._with_pair(total, "d", name, pair, -1)
    assert np.abs(WIDE.decode(total)[:3] - VALUES["d"]).max() > WIDE.step, "bare"


class TestMinimum:
    """A hospital does not trust the coordinator's count."""

    def test_too_few_begin(self):
        """A sum with too few contributors is not begun by anybody."""
        with pytest.raises(FederationError, match="asks for 3"):
            run({"a": np.ones(1), "b": np.ones(1)}, minimum=3)

    def test_too_few_came(self):
        """Nor is it opened when too many dropped out: the rest would show too much."""
        with pytest.raises(FederationError, match="asks for 4 of the 4"):
            run(VALUES, sends={"a", "b", "c"}, minimum=3)

    def test_one_key_under_many_names(self):
        """A coordinator cannot fill the list with copies."""
        hospitals, keys = begin("a", minimum=3)
        with pytest.raises(FederationError, match="1 hospitals would take part"):
            hospitals["a"].mask(dict.fromkeys("abc", keys["a"]), np.ones(1), **ALIKE)

    def test_a_list_without_oneself(self):
        """A hospital whose key was exchanged notices."""
        hospitals, keys = begin("abc")
        other = Contributor("a", CONTEXT, 2).public()
        with pytest.raises(FederationError, match="own key is not in the list"):
            hospitals["a"].mask({**keys, "a": other}, np.ones(1), **ALIKE)

    def test_sends_once(self):
        """Two different sums under the same masks would show their difference."""
        hospitals, keys = begin("abc")
        hospitals["a"].mask(keys, np.ones(1), **ALIKE)
        with pytest.raises(FederationError, match="sent once"):
            hospitals["a"].mask(keys, np.zeros(1), **ALIKE)

    def test_a_stranger_among_those_who_came(self):
        """Who did not begin cannot have come."""
        hospitals, keys = begin("abc")
        shares = hospitals["a"].mask(keys, np.ones(1), **ALIKE).shares
        with pytest.raises(FederationError, match="that began it"):
            hospitals["a"].unmask({"a": shares["a"], "b": shares["a"], "x": shares["a"]})

    def test_both_kinds_of_dropout(self):
        """One before sending and one before opening: said, and no wrong sum comes out."""
        with pytest.raises(FederationError, match="cannot be opened"):
            run(VALUES, sends={"a", "b", "c"}, opens={"a", "b"})

    def test_no_share_of_a_mask(self):
        """Rubbish in place of a share is a sentence, and no traceback ends the coordinator."""
        hospitals, keys = begin("abc")
        masked = {name: hospitals[name].mask(keys, np.ones(2), **ALIKE) for name in "abc"}
        opened = {
            name: hospitals[name].unmask({one: masked[one].shares[name] for one in "abc"})
            for name in "abc"
        }
        opened["b"] = Unmasking(dict.fromkeys("abc", b"rubbish"), {})
        with pytest.raises(UnopenedSumError, match="no share of a mask"):
            open_sum(
                {name: one.values for name, one in masked.items()},
                opened,
                began="abc",
                context=CONTEXT,
                minimum=2,
            )
