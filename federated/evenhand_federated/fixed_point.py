"""Numbers as whole ones, in which the masks of a hidden sum cancel exactly.

A ring has numbers modulo a power of two. Of 64 bits it is fine and wide enough for anything. Of 32
bits it moves half the bytes: its step is 2^-16 and its range is shared by the hospitals, 32768 for
all together. What is summed is a change times patients: with four hospitals 8191 may be one's, so
1000 patients and a change of 8, or 10,000 patients and one of 0.8; the mean over 48 patients is off
by 7e-7 at most. Nothing is clipped and nothing wraps around in silence: what is out of range is
refused before it is sent.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenhand.config import Precision
from evenhand.errors import FederationError

__all__ = ["NARROW", "WIDE", "Ring", "Whole", "ring_of"]

Whole = NDArray[Any]
"""Of a ring's type, without sign."""


@dataclass(frozen=True)
class Ring:
    """Whole numbers modulo 2^`bits`.

    Attributes:
        bits: of one number, 32 or 64.
        step: distance of two numbers that can be told apart; each is rounded by half of it at most.
        cap: of one number, however few take part.
        one: what a patient is counted as.
    """

    bits: int
    step: float
    cap: float
    one: float

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Type of its numbers, in the byte order of this machine."""
        return np.dtype(f"u{self.bits // 8}")

    def largest(self, hospitals: int) -> float:
        """Of one number, if so many hospitals' sum is not to wrap around."""
        steps = (2 ** (self.bits - 1) - 1) // hospitals
        return min(self.cap, float(steps) * self.step)

    def encode(self, values: NDArray[np.float64], hospitals: int) -> Whole:
        """Numbers as whole multiples of `step`.

        Raises:
            FederationError: one is not finite or out of range: nothing is clipped in silence.
        """
        largest = self.largest(hospitals)
        if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > largest:
            wide = (
                ", or agree on federation.precision = 'float32' in the study, whose range is wide"
            )
            raise FederationError(
                "A number to be summed, a change of the adapter times this hospital's patients, is "
                f"not finite, or beyond {largest:g}, the share of one of {hospitals} hospitals. "
                "Nothing is sent. Many patients or a large change are the cause: train with a "
                "smaller learning rate or fewer local epochs, or on fewer patients"
                f"{wide if self.bits == 32 else ''}."
            )
        signed = np.rint(values / self.step).astype(f"i{self.bits // 8}")
        return signed.view(self.dtype)

    def decode(self, total: Whole) -> NDArray[np.float64]:
        """A sum of encoded numbers as numbers."""
        signed: NDArray[Any] = total.view(f"i{self.bits // 8}")
        return signed.astype(np.float64) * self.step


WIDE = Ring(64, step=2.0**-24, cap=2.0**26, one=1.0)
"""4096 hospitals at the limit fit into 63 bits."""

NARROW = Ring(32, step=2.0**-16, cap=2.0**15, one=2.0**-16)
"""Patients are counted in steps: there is room for 2^31 of them."""


def ring_of(precision: Precision) -> Ring:
    """The ring that goes with `federation.precision`."""
    return NARROW if precision == "float16" else WIDE
