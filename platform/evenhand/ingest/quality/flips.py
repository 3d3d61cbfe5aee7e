"""Voxels against the header: a case that fits the others better when it is mirrored.

Each case is compared with the mean of all others of its first sequence, both as
coarse volumes in RAS order: once as its header says, once mirrored along each
axis. Where the others agree that the anatomy has sides, and this one fits
clearly better mirrored, its header or its voxels are flipped. A brain is nearly
the same on both sides, so there the answer is most often that nothing can be
told; front and back, top and bottom are told apart well.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evenhand.ingest.quality.checks import Finding

__all__ = ["FEWEST", "find_flips"]

FEWEST = 5
"""Cases that a comparison needs."""

_AXES = ("left and right", "front and back", "top and bottom")
_CLEARLY = 0.1
"""By how much the correlation must be better mirrored than as it is."""
_USUAL = 0.05
"""How much better the others fit as they are (median), or the anatomy has no sides."""


def find_flips(coarse: Mapping[str, NDArray[np.float32]]) -> dict[str, list[Finding]]:
    """Compare coarse volumes of one sequence; return findings by case, and nothing where in doubt.

    Args:
        coarse: by case, each of mean 0 and deviation 1.
    """
    if len(coarse) < FEWEST:
        return {}
    names = list(coarse)
    stack = np.stack([coarse[name] for name in names])
    total = stack.sum(axis=0)
    gains = np.zeros((len(names), 3))
    for number, own in enumerate(stack):
        others = (total - own) / (len(names) - 1)
        spread = float(others.std()) or 1.0
        for axis in range(3):
            straight = float((own * others).mean()) / spread
            mirrored = float((np.flip(own, axis) * others).mean()) / spread
            gains[number, axis] = mirrored - straight
    found: dict[str, list[Finding]] = {}
    for sides, own_gains in zip(_AXES, gains.T, strict=True):
        if np.median(own_gains) > -_USUAL:
            continue  # the others do not agree on sides
        for name, gain in zip(names, own_gains, strict=True):
            if gain > _CLEARLY:
                why = (
                    f"it fits the other cases better with {sides} exchanged (correlation higher "
                    f"by {gain:.2f}): voxels and header do not agree"
                )
                found.setdefault(name, []).append(Finding("flipped", "error", why))
    return found
