"""The sum is the plain sum, whoever drops out; nobody's numbers can be seen on the way."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenhand.errors import FederationError
from evenhand_federated import masked_sum
from evenhand_federated.masked_sum import (
    LARGEST,
    STEP,
    Contributor,
    Unmasking,
    UnopenedSumError,
    decode,
    encode,
    open_sum,
    threshold_of,
)

CONTEXT = "study, round 1"


def begin(names, minimum=2):
    """Contributors, and the keys that everybody gets."""
    hospitals = {name: Contributor(name, CONTEXT, minimum) for name in names}
    return hospitals, {name: one.public() for name, one in hospitals.items()}


def run(values, *, sends=None, opens=None, minimum=2):
    """A whole sum: `sends` come to the second exchange, `opens` to the third."""
    hospitals, keys = begin(values, minimum)
    sends = set(values) if sends is None else sends
    masked = {name: hospitals[name].mask(keys, values[name]) for name in sorted(sends)}
    opened = {}
    for name in sorted(sends if opens is None else opens):
        # Between exchanges a hospital's process ends: what it knows goes through a file.
        again = Contributor.from_json(hospitals[name].to_json())
        opened[name] = again.unmask({other: one.shares[name] for other, one in masked.items()})
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
    found = run(values, sends=sends)
    plain = np.sum([values[name] for name in sends], axis=0)
    assert np.abs(found - plain).max() <= len(sends) * STEP / 2 + 1e-9 * np.abs(plain).max()


@given(data=st.data(), count=st.integers(3, 6))
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_who_drops_out_before_opening_is_in_the_sum(data, count):
    """Those who are left open it for those who have sent and are gone."""
    values = {f"h{number}": np.array([number + 0.5, -number]) for number in range(count)}
    keep = data.draw(st.integers(threshold_of(count, 2), count))
    opens = set(data.draw(st.permutations(sorted(values)))[:keep])
    plain = np.sum(list(values.values()), axis=0)
    np.testing.assert_allclose(run(values, opens=opens), plain, atol=count * STEP)


VALUES = {name: np.array([float(number), 2.0, -3.0]) for number, name in enumerate("abcd", 1)}


class TestHidden:
    """What goes over the wire tells nothing."""

    def test_masked_numbers_look_random(self):
        """Zeros masked have every bit set about half the time, and differ from round to round."""
        hospitals, keys = begin("abc")
        sent = hospitals["a"].mask(keys, np.zeros(4096)).values
        bits = np.unpackbits(sent.view(np.uint8))
        assert abs(bits.mean() - 0.5) < 0.01
        other = Contributor("a", "study, round 2", 2, hospitals["a"].private, hospitals["a"].seed)
        assert not np.array_equal(sent, other.mask(keys, np.zeros(4096)).values)

    def test_two_of_three_see_no_third(self):
        """Without the own mask taken off, pair masks alone do not open anybody's numbers."""
        hospitals, keys = begin("abc")
        sent = hospitals["a"].mask(keys, np.ones(64)).values
        for name in "bc":
            hospitals[name].mask(keys, np.ones(64))
        opened = [hospitals[name]._pair_seed(keys["a"], "mask") for name in "bc"]
        bare = sent
        for name, seed in zip("bc", opened, strict=True):
            bare = masked_sum._with_pair(bare, "a", name, seed, -1)
        assert np.abs(decode(bare)).min() > 1e3

    def test_never_both_shares_and_pair_seeds(self):
        """Of nobody does a hospital give what would take off both masks; nor does it twice."""
        hospitals, keys = begin("abcd")
        masked = {name: hospitals[name].mask(keys, np.ones(2)) for name in "abcd"}
        answer = hospitals["a"].unmask({name: masked[name].shares["a"] for name in "abc"})
        assert set(answer.shares) & set(answer.pairs) == set()
        assert (set(answer.shares), set(answer.pairs)) == ({"a", "b", "c"}, {"d"})
        with pytest.raises(FederationError, match="opened already"):
            hospitals["a"].unmask({name: masked[name].shares["a"] for name in "abcd"})

    @pytest.mark.parametrize(
        "lists",
        [
            {"u": "ub", "a": "abu", "b": "ab"},
            {"u": "uc", "a": "au", "b": "bu", "c": "ac"},
        ],
    )
    def test_different_lists_open_nobody(self, lists):
        """A coordinator that tells hospitals different lists cannot put one's masks together."""
        hospitals, keys = begin(lists)
        masked = {name: hospitals[name].mask(keys, np.ones(4)) for name in lists}
        refused = 0
        for name, came in lists.items():
            try:
                hospitals[name].unmask({other: masked[other].shares[name] for other in came})
            except FederationError:
                refused += 1
        assert refused
        assert len(lists) - refused < threshold_of(len(lists), 2)

    @given(data=st.data(), count=st.integers(2, 5))
    @settings(max_examples=300)
    def test_no_lists_open_fewer_than_the_minimum(self, data, count):
        """Whatever list each hospital is told: no group below its minimum comes to light."""
        minimum = data.draw(st.integers(2, count))
        needed = threshold_of(count, minimum)
        names = range(count)
        lists = [
            frozenset(data.draw(st.permutations(names))[: data.draw(st.integers(needed, count))])
            for _ in names
        ]
        for bits in range(1, 2**count):
            group = {name for name in names if bits >> name & 1}
            shared = all(sum(one in told for told in lists) >= needed for one in group)
            apart = all(
                one not in lists[other] or other not in lists[one]
                for one in group
                for other in set(names) - group
            )
            assert not (shared and apart) or len(group) >= minimum

    def test_too_few_shares_open_nothing(self):
        """Fewer than needed cannot take off an own mask."""
        with pytest.raises(FederationError, match="2 hospitals gave a share, 3 are needed"):
            run(VALUES, opens={"a", "b"})


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
            hospitals["a"].mask(dict.fromkeys("abc", keys["a"]), np.ones(1))

    def test_a_list_without_oneself(self):
        """A hospital whose key was exchanged notices."""
        hospitals, keys = begin("abc")
        other = Contributor("a", CONTEXT, 2).public()
        with pytest.raises(FederationError, match="own key is not in the list"):
            hospitals["a"].mask({**keys, "a": other}, np.ones(1))

    def test_sends_once(self):
        """Two different sums under the same masks would show their difference."""
        hospitals, keys = begin("abc")
        hospitals["a"].mask(keys, np.ones(1))
        with pytest.raises(FederationError, match="sent once"):
            hospitals["a"].mask(keys, np.zeros(1))

    def test_a_stranger_among_those_who_came(self):
        """Who did not begin cannot have come."""
        hospitals, keys = begin("abc")
        shares = hospitals["a"].mask(keys, np.ones(1)).shares
        with pytest.raises(FederationError, match="that began it"):
            hospitals["a"].unmask({"a": shares["a"], "b": shares["a"], "x": shares["a"]})

    def test_both_kinds_of_dropout(self):
        """One before sending and one before opening: said, and no wrong sum comes out."""
        with pytest.raises(FederationError, match="cannot be opened"):
            run(VALUES, sends={"a", "b", "c"}, opens={"a", "b"})

    def test_no_share_of_a_mask(self):
        """Rubbish in place of a share is a sentence, and no traceback ends the coordinator."""
        hospitals, keys = begin("abc")
        masked = {name: hospitals[name].mask(keys, np.ones(2)) for name in "abc"}
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


class TestFixedPoint:
    """Nothing is clipped in silence."""

    @pytest.mark.parametrize("value", [LARGEST * 1.01, -LARGEST * 1.01, np.nan, np.inf, -np.inf])
    def test_out_of_range_is_refused(self, value):
        """One bad number, and nothing is sent."""
        with pytest.raises(FederationError, match="not finite, or beyond"):
            encode(np.array([0.0, value]))

    def test_the_largest_sum_fits(self):
        """As many hospitals as a federation may have, each at the limit."""
        total = np.zeros(2, np.uint64)
        for _ in range(4095):
            total = total + encode(np.array([LARGEST, -LARGEST]))
        assert decode(total).tolist() == [4095 * LARGEST, -4095 * LARGEST]

    @given(st.lists(numbers, min_size=1, max_size=50))
    def test_round_trip(self, values):
        """Each number comes back to within half a step."""
        array = np.array(values)
        assert np.abs(decode(encode(array)) - array).max() <= STEP / 2
