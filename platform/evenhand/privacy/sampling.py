"""Who takes part in a step: each patient by an own coin, from the system's randomness.

Amplification by sampling, which the accountant counts on, holds for this draw and not for
a fixed number of patients, a shuffle, or a generator whose seed is known.
"""

import secrets
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["poisson_sample"]

T = TypeVar("T")


def poisson_sample(patients: Sequence[T], rate: float) -> list[T]:
    """Draw each patient by itself with probability `rate`, to within 2^-53."""
    source = secrets.SystemRandom()
    return [patient for patient in patients if source.random() < rate]
