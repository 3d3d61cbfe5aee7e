"""From a volume to what models see: display range, slices with neighbours, letterbox."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Letterbox", "display_range", "display_slices", "with_neighbours"]

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
"""Of the voxels above zero; what lies outside is clipped."""


def display_range(volume: NDArray[np.float32]) -> Tensor:
    """Scale a volume to fractions of its display range.

    Args:
        volume: (i, j, k), any unit; zero is taken to be outside the body.

    Returns:
        (k, i, j) float32 in 0 to 1: one slice after the other.
    """
    inside = volume[volume > 0]
    low, high = np.percentile(inside, (LOW_PERCENTILE, HIGH_PERCENTILE)) if inside.size else (0, 1)
    scaled = np.clip((volume - low) / max(float(high - low), 1e-6), 0, 1)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32))


def display_slices(images: Mapping[str, NDArray[np.float32]], sequences: Sequence[str]) -> Tensor:
    """Stack the sequences of a case, each in its own display range.

    Args:
        images: (i, j, k) by sequence; those that a case lacks are absent.
        sequences: which, in order; at least the first is there.

    Returns:
        (k, sequences, i, j) float32 in 0 to 1; zero where a sequence is absent.
    """
    first = display_range(images[sequences[0]])
    others = [
        display_range(images[name]) if name in images else torch.zeros_like(first)
        for name in sequences[1:]
    ]
    return torch.stack([first, *others], dim=1)


def with_neighbours(slices: Tensor, index: Tensor) -> Tensor:
    """Put z-1, z and z+1 into channels; the first and last slice repeat themselves.

    Args:
        slices: (k, sequences, h, w).
        index: (batch,) slice numbers.

    Returns:
        (batch, 3 sequences, h, w), the three of each sequence together.
    """
    last = slices.shape[0] - 1
    around = torch.stack([(index - 1).clamp(min=0), index, (index + 1).clamp(max=last)], dim=1)
    return slices[around].transpose(1, 2).flatten(1, 2)


@dataclass(frozen=True)
class Letterbox:
    """Fit a slice of `height` x `width` into a square of `size` pixels and back.

    The longer side fills the square; the rest is padded with zeros at the end, as SAM
    does.
    """

    height: int
    width: int
    size: int

    @property
    def scale(self) -> float:
        """Pixels of the square per pixel of the slice."""
        return self.size / max(self.height, self.width)

    @property
    def _inner(self) -> tuple[int, int]:
        return round(self.height * self.scale), round(self.width * self.scale)

    def apply(self, slices: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, channels, size, size), bilinear."""
        rows, columns = self._inner
        if (rows, columns) != (self.height, self.width):
            slices = F.interpolate(slices, (rows, columns), mode="bilinear", antialias=True)
        return F.pad(slices, (0, self.size - columns, 0, self.size - rows))

    def invert(self, logits: Tensor) -> Tensor:
        """(batch, s, s) on any square grid -> (batch, height, width), bilinear."""
        side = logits.shape[-1]
        rows, columns = (max(1, round(n * side / self.size)) for n in self._inner)
        inner = logits[:, None, :rows, :columns]
        if (rows, columns) == (self.height, self.width):
            return inner[:, 0]
        return F.interpolate(inner, (self.height, self.width), mode="bilinear")[:, 0]

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes x0 y0 x1 y1 in slice pixels -> pixels of the square."""
        return boxes * self.scale

    def points(self, points: Tensor) -> Tensor:
        """Points x y on a slice (0.5 is the middle of the first pixel) -> pixels of the square.

        There 0 is the middle of the first pixel, as the prompt encoder counts.
        """
        return points * self.scale - 0.5
