"""Gaussian noise from the operating system's randomness, under Opacus' optimiser.

torch's generator on the CPU keeps 32 bits of its seed: whoever tries all of them could
take the noise off again. Here every number costs 8 bytes of `os.urandom`, turned into
a normal deviate by the inverse distribution function. What is not closed yet: floating
point numbers are unevenly dense, which leaks a little of what they were added to
(Mironov 2012, "On significance of the least significant bits").
"""

import os
from collections.abc import Sequence

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from scipy.special import ndtri
from torch import Tensor

__all__ = ["SystemNoiseOptimizer", "system_normal"]

_BITS = 52
"""One less than a float64's mantissa has, so that adding a half is exact: never 0, never 1."""


def system_normal(shape: Sequence[int]) -> Tensor:
    """Standard normal float32 numbers of a shape, from `os.urandom`."""
    count = int(np.prod(shape))
    words = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(64 - _BITS)
    uniform = (words + 0.5) / 2.0**_BITS
    return torch.from_numpy(ndtri(uniform).astype(np.float32)).reshape(tuple(shape))


class SystemNoiseOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser with `system_normal` noise; clipping and scaling are its own."""

    def add_noise(self) -> None:
        """Set each gradient to the clipped sum plus noise of the stated deviation."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = system_normal(parameter.summed_grad.shape).to(parameter.summed_grad)
            parameter.grad = (parameter.summed_grad + deviation * noise).view_as(parameter)
