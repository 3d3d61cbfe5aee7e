"""Gaussian noise on the integers, sampled exactly from the operating system's randomness.

Noise made of floating point numbers leaks what it was added to: such numbers are unevenly
dense, so some sums can come from one value and not from its neighbour (Mironov 2012, "On
significance of the least significant bits for differential privacy"). Integers have no such
gaps. What is noised is therefore put onto a grid first (`evenhand.privacy.step`), and the
noise is the discrete Gaussian of Canonne, Kamath and Steinke (2020, "The discrete Gaussian
for differential privacy"), whose integer i has a probability proportional to
exp(-i^2 / 2s^2), with s = 2^40.

Sampling is Karney's rejection (2016, "Sampling exactly from the normal distribution",
algorithm D), on whole arrays: i = k s + j with k drawn from exp(-k^2 / 2), j uniform below
s, accepted with probability exp(-x (2k + x) / 2) at x = j / s. The product of the three is
exp(-i^2 / 2s^2), so accepted integers are exact. Decisions are made in float64, and one
that lies within its rounding is made again with 256 random bits and 90 decimal digits.

Why the accountant of the continuous Gaussian stays right: integers plus a *rounded*
continuous Gaussian are that mechanism's output, rounded, and the discrete Gaussian differs
from the rounded one by at most 1 / (24 s^2) in total variation (half of what the second
derivative gives: |p - r| <= max |phi''| / 24 in each unit, summed). For half a million
numbers a step and a thousand steps that is 2^-55 in all; it adds (1 + e^epsilon) times that
to delta, under 1e-12 at epsilon 8. See docs/privacy.md.
"""

import os
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["GRID_BITS", "discrete_gaussian", "random_words"]

GRID_BITS = 40
"""The noise's standard deviation is 2^40 grid steps: rounding is far below the noise."""

_TABLED = 9
"""Values of k that are told apart by a table; larger ones come once in 10^17 draws."""
_MARGIN = 2.0**-48
"""More than float64 can be wrong by in a probability here."""
_SPARE_BITS = 192
"""What a close decision takes beyond its first 64 random bits."""
_DIGITS = 90
_SURPLUS = 1.45
"""Candidates a number: a little above 1 / 0.715, Karney's acceptance."""


def random_words(count: int) -> NDArray[np.uint64]:
    """Random 64-bit words: AES-256 in counter mode under a fresh key of the system.

    The system's own generator does the same with ChaCha20, but hands out a few MB/s only
    on some machines. No key serves two calls, and none is kept.
    """
    secret = os.urandom(48)
    cipher = Cipher(algorithms.AES(secret[:32]), modes.CTR(secret[32:]))
    return np.frombuffer(cipher.encryptor().update(bytes(8 * count)), dtype=np.uint64)


def discrete_gaussian(count: int, bits: int = GRID_BITS) -> NDArray[np.int64]:
    """Independent discrete Gaussian integers of standard deviation 2^bits.

    Args:
        count: how many.
        bits: at most 40, so that every step of the computation is exact or known not to be.
    """
    if not 0 <= bits <= GRID_BITS:
        raise ValueError(f"bits must be from 0 to {GRID_BITS}; got {bits}")
    parts: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    missing = count
    while missing:
        some = _accepted(int(_SURPLUS * missing) + 16, bits)[:missing]
        parts.append(some)
        missing -= len(some)
    return np.concatenate(parts)


def _accepted(candidates: int, bits: int) -> NDArray[np.int64]:
    words = random_words(3 * candidates).reshape(3, candidates)
    k = _half_normal(words[0])
    j = (words[1] >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros_like(k)
    x = j / 2.0**bits  # exact: a power of two divides
    chance = np.exp(-x * (2 * k + x) / 2)
    drawn = words[2] * 2.0**-64
    accept = drawn < chance
    for n in np.nonzero(np.abs(drawn - chance) <= _MARGIN)[0].tolist():
        accept[n] = _exactly(int(words[2][n])) < _acceptance(int(k[n]), int(j[n]), bits)
    negative = (words[1] & np.uint64(1)).astype(bool)  # a bit that j does not use
    value = (k << bits) | j
    accept &= ~(negative & (value == 0))  # zero has no sign, and must not count twice
    signed: NDArray[np.int64] = np.where(negative, -value, value)[accept]
    return signed


def _half_normal(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Integers k >= 0 with probability proportional to exp(-k^2 / 2)."""
    limits = np.array([int(share * 2**64) for share in _shares()[:_TABLED]], dtype=np.uint64)
    k = np.searchsorted(limits, words, side="right").astype(np.int64)
    close = (words == limits[np.minimum(k, _TABLED) - 1]) | (k == _TABLED)
    for n in np.nonzero(close)[0].tolist():
        drawn = _exactly(int(words[n]))
        k[n] = sum(share <= drawn for share in _shares())
    return k


def _exactly(word: int) -> Decimal:
    """A uniform number below 1 that begins with these 64 bits, and goes on to 256."""
    spare = int.from_bytes(os.urandom(_SPARE_BITS // 8), "big")
    with localcontext() as context:
        context.prec = _DIGITS
        return Decimal((word << _SPARE_BITS) | spare) / Decimal(2 ** (64 + _SPARE_BITS))


def _acceptance(k: int, j: int, bits: int) -> Decimal:
    with localcontext() as context:
        context.prec = _DIGITS
        return (Decimal(-j * ((k << (bits + 1)) + j)) / Decimal(2 ** (2 * bits + 1))).exp()


@lru_cache(maxsize=1)
def _shares() -> tuple[Decimal, ...]:
    """Chance that k is at most 0, 1, 2, ...; what is beyond the last is under 1e-80."""
    with localcontext() as context:
        context.prec = _DIGITS
        weights = [(Decimal(-k * k) / 2).exp() for k in range(30)]
        total = sum(weights)
        return tuple(sum(weights[: k + 1], Decimal(0)) / total for k in range(20))
