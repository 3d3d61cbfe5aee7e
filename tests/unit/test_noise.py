"""The noise itself: exact probabilities, from the system's randomness, quick enough."""

import math
import os

import numpy as np
import pytest
from scipy.stats import chi2

from evenhand.privacy import noise
from evenhand.privacy.noise import GRID_BITS, discrete_gaussian, random_words


def exact_chances(bits):
    """The discrete Gaussian by its definition, out to nine deviations."""
    deviation = 2.0**bits
    values = np.arange(-int(9 * deviation) - 1, int(9 * deviation) + 2)
    weights = np.exp(-(values**2) / (2 * deviation**2))
    return values, weights / weights.sum()


def assert_follows(drawn, bits):
    """Pearson's test against the definition; a right sampler fails once in a million runs."""
    values, chances = exact_chances(bits)
    counts = np.array([(drawn == value).sum() for value in values])
    assert counts.sum() == len(drawn)
    wanted = chances * len(drawn)
    often = wanted >= 5
    statistic = ((counts - wanted)[often] ** 2 / wanted[often]).sum()
    statistic += (counts[~often].sum() - wanted[~often].sum()) ** 2 / wanted[~often].sum()
    assert statistic < chi2.isf(1e-6, often.sum())


class TestDiscreteGaussian:
    """Integer i comes with a probability proportional to exp(-i^2 / 2s^2)."""

    @pytest.mark.parametrize("bits", [0, 1, 2, 4])
    def test_it_follows_the_definition(self, bits):
        """Where the deviation is small, every single probability is compared."""
        assert_follows(discrete_gaussian(150_000, bits), bits)

    def test_close_decisions_follow_it_too(self, monkeypatch):
        """The exact way, which is hardly ever taken, taken for every candidate."""
        monkeypatch.setattr(noise, "_MARGIN", 2.0)
        assert_follows(discrete_gaussian(2000, 1), 1)

    def test_close_decisions_about_the_half_normal(self, monkeypatch):
        """Drawn again with 256 bits, k has the chances that the table gives."""
        monkeypatch.setattr(noise, "_TABLED", 1)  # all but k = 0 is decided exactly
        words = random_words(4000)
        drawn = noise._half_normal(words)
        weights = np.exp(-(np.arange(6) ** 2) / 2)
        share = weights / weights.sum()
        for k in range(3):
            deviation = math.sqrt(share[k] * (1 - share[k]) / 4000)
            assert abs((drawn == k).mean() - share[k]) < 6 * deviation

    def test_moments_and_tails_at_full_fineness(self):
        """In units of its deviation it is the standard normal, to six deviations of the mean."""
        drawn = discrete_gaussian(300_000) / 2.0**GRID_BITS
        assert abs(drawn.mean()) < 6 / 300_000**0.5
        assert abs(drawn.var() - 1) < 6 * (2 / 300_000) ** 0.5
        share = (np.abs(drawn) > 1.959964).mean()
        assert abs(share - 0.05) < 6 * (0.05 * 0.95 / 300_000) ** 0.5

    def test_low_bits_are_used(self):
        """Noise on a coarser grid than the sum would leave the sum's own low bits to read."""
        drawn = discrete_gaussian(20_000)
        for bit in range(8):
            assert abs(((drawn >> bit) & 1).mean() - 0.5) < 6 * 0.5 / 20_000**0.5

    @pytest.mark.parametrize("count", [0, 1, 7])
    def test_counts(self, count):
        """As many as were asked for."""
        assert discrete_gaussian(count).shape == (count,)

    @pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
    def test_extreme_words_end_well(self, monkeypatch, byte):
        """All bits clear or set reach the ends of every table without an error."""
        fixed = np.frombuffer(byte * 8 * 3 * 20, dtype=np.uint64)
        monkeypatch.setattr(noise, "random_words", lambda count: fixed[:count])
        assert len(noise._accepted(20, 40)) <= 20

    def test_finer_than_float64_is_refused(self):
        """Beyond 2^40 the float64 part would no longer be exact."""
        with pytest.raises(ValueError, match="0 to 40"):
            discrete_gaussian(1, 41)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_distance_from_the_rounded_gaussian_is_what_the_proof_says(bits):
    """Total variation is at most 1 / (24 s^2): what lets the continuous accountant stand."""
    deviation = 2.0**bits
    values, chances = exact_chances(bits)
    edges = (values[:, None] + np.array([-0.5, 0.5])) / (deviation * math.sqrt(2))
    cells = np.array([0.5 * (math.erf(high) - math.erf(low)) for low, high in edges])
    distance = 0.5 * np.abs(chances - cells).sum()
    assert 0 < distance <= 1 / (24 * deviation**2)


class TestRandomWords:
    """Where randomness comes from."""

    def test_no_seed_of_a_program_repeats_it(self):
        """A global seed, such as that of numpy, has no part in it."""
        first, second = [], []
        for words in (first, second):
            np.random.seed(0)  # noqa: NPY002 - exactly what must not matter
            words.extend(random_words(4).tolist())
        assert first != second

    def test_every_call_has_a_key_of_its_own_from_the_system(self, monkeypatch):
        """32 bytes of key and 16 of counter, asked of the operating system each time."""
        asked = []
        real = os.urandom
        monkeypatch.setattr(os, "urandom", lambda size: asked.append(size) or real(size))
        random_words(10)
        random_words(10)
        assert asked == [48, 48]
