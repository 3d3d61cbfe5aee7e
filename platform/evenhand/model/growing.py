"""Frozen activations of a case that grow slice by slice; what somebody waits for comes first."""

import threading

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, arange

from evenhand.model.embeddings import FrozenEncoder

__all__ = ["GrowingSlices"]


class GrowingSlices:
    """Activations (k, channels, grid, grid) by the first axis; what is missing is computed.

    Several threads may ask at once. Who reads (`[...]`) goes before who only fills (`grow`).

    Args:
        encoder: computes them.
        slices: (k, h, w) fractions of the display range.
        near: the slice around which to begin.
    """

    def __init__(self, encoder: FrozenEncoder, slices: Tensor, *, near: int = 0) -> None:
        self.near = near
        self._encoder, self._slices = encoder, slices
        self._found: dict[int, NDArray[np.float16]] = {}
        self._news = threading.Condition()
        self._waiting = 0
        self._busy = False

    def __len__(self) -> int:
        """How many slices there are."""
        return len(self._slices)

    def __getitem__(self, index: slice) -> NDArray[np.float16]:
        """Return some slices (n, channels, grid, grid); at least one."""
        wanted = range(*index.indices(len(self)))
        with self._news:
            self._waiting += 1
        try:
            for number in wanted:
                self._compute(number)
        finally:
            with self._news:
                self._waiting -= 1
                self._news.notify_all()
        return np.stack([self._found[number] for number in wanted])

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return len(self._found) == len(self)

    def grow(self) -> None:
        """Compute the missing slice that is nearest to `near`, once nobody waits for another."""
        with self._news:
            self._news.wait_for(lambda: not self._waiting)
            missing = [number for number in range(len(self)) if number not in self._found]
        if missing:
            self._compute(min(missing, key=lambda number: abs(number - self.near)))

    def _compute(self, number: int) -> None:
        with self._news:
            self._news.wait_for(lambda: not self._busy)
            if number in self._found:
                return
            self._busy = True
        try:
            (found,) = self._encoder(self._slices, arange(number, number + 1))
            self._found[number] = found
        finally:
            with self._news:
                self._busy = False
                self._news.notify_all()
