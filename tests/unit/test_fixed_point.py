"""Whole numbers of a hidden sum: nothing is clipped, nothing wraps around."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.errors import FederationError
from evenhand_federated.fixed_point import NARROW, WIDE, ring_of

RINGS = pytest.mark.parametrize("ring", [WIDE, NARROW], ids=["64 bits", "32 bits"])


@RINGS
@pytest.mark.parametrize("factor", [1.01, -1.01, np.nan, np.inf, -np.inf])
def test_out_of_range_is_refused(ring, factor):
    """One bad number, and nothing is sent; the sentence says what to do."""
    with pytest.raises(FederationError, match=r"not finite, or beyond .* train with a smaller"):
        ring.encode(np.array([0.0, ring.largest(4) * factor]), 4)


def test_a_narrow_ring_names_the_wide_one():
    """It is reached by many patients as by a large change; a study on float32 has room."""
    with pytest.raises(FederationError, match=r"federation\.precision = 'float32'"):
        NARROW.encode(np.array([1e6]), 4)
    with pytest.raises(FederationError, match=r"times this hospital's patients.* fewer patients"):
        NARROW.encode(np.array([0.83 * 10_000]), 4)
    assert NARROW.largest(4) > 0.8 * 10_000
    with pytest.raises(FederationError) as wide:
        WIDE.encode(np.array([1e9]), 4)
    assert "float32" not in str(wide.value)


@RINGS
@pytest.mark.parametrize("hospitals", [1, 2, 3, 4, 50, 4095])
def test_the_largest_sum_fits(ring, hospitals):
    """As many hospitals as take part, each at the limit, do not wrap around."""
    largest = ring.largest(hospitals)
    total = np.zeros(2, ring.dtype)
    for _ in range(hospitals):
        total = total + ring.encode(np.array([largest, -largest]), hospitals)
    assert total.dtype == ring.dtype
    assert ring.decode(total).tolist() == [hospitals * largest, -hospitals * largest]


def test_a_narrow_ring_is_used_to_its_end():
    """By hand: 2^31 - 1 steps of 2^-16 are shared by four; one step more of each would wrap."""
    assert NARROW.largest(4) == (2**31 // 4 - 1) / 2**16
    assert NARROW.largest(1) == (2**31 - 1) / 2**16


@given(data=st.data(), hospitals=st.integers(1, 100))
@RINGS
def test_each_number_comes_back(ring, hospitals, data):
    """To within half a step; against Python's own whole numbers, one by one."""
    limit = ring.largest(hospitals)
    values = data.draw(st.lists(st.floats(-limit, limit), max_size=30))
    array = np.array(values, np.float64)
    encoded = ring.encode(array, hospitals)
    assert encoded.dtype == ring.dtype
    slow = [round(value / ring.step) % 2**ring.bits for value in values]
    assert encoded.tolist() == slow
    assert np.abs(ring.decode(encoded) - array).max(initial=0.0) <= ring.step / 2


def test_patients_are_counted_exactly():
    """A million patients at each of twenty hospitals, in either ring."""
    for ring in (WIDE, NARROW):
        total = np.zeros(1, ring.dtype)
        for _ in range(20):
            total = total + ring.encode(np.array([ring.one * 1_000_000]), 20)
        assert ring.decode(total)[0] / ring.one == 20_000_000


def test_the_ring_follows_the_precision():
    """float16 agreed on: half the bytes of a hidden sum, too."""
    assert ring_of("float32") is WIDE
    assert ring_of("float16") is NARROW
    assert NARROW.dtype.itemsize * 2 == WIDE.dtype.itemsize == 8
