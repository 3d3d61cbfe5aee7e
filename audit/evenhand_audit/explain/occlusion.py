"""Where a model looks: hide a piece of the slice, see how much of the proposed tumour goes.

Occlusion (Zeiler and Fergus 2014) asks nothing of a model but its answer. A patch of the slice and
of its neighbours is replaced, and the drop of the mean probability over the target is the patch's
importance. The target is what the model proposes in the slice, or the reference where it proposes
nothing.

A map that changes with how it was made explains nothing. So each is made twice, with another grid
of patches (shifted by half a patch) and another filling (the slice blurred, and the mean of the
slice), and the stability is Pearson's correlation of the two over the body. (Ranks would be those
of the noise in places without any importance.) Under `STABLE` a map should not be read.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from evenhand.model.adapted import AdaptedModel
from evenhand.model.preprocessing import Letterbox, display_range, with_neighbours

__all__ = ["PATCHES", "STABLE", "Explanation", "explain_slice"]

PATCHES = 10
"""Patches along the longer side of a slice."""

STABLE = 0.5
"""Stability under which a map should not be read."""

BATCH = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Importance of one slice, (i, j): drop of probability where a place is hidden."""

    slice_number: int
    image: Floats
    """(i, j), fractions of the display range."""
    importance: Floats
    """Mean of the two maps, (i, j)."""
    stability: float
    """Pearson's correlation of the two maps; not a number where one is constant."""
    inside: float
    """Share of the positive importance that lies in the reference."""
    area: float
    """Share of the body that the reference covers: what `inside` would be by chance."""


def explain_slice(
    model: AdaptedModel, volume: NDArray[np.float32], mask: NDArray[np.uint8]
) -> Explanation:
    """Explain the automatic proposal in the slice with most tumour.

    Args:
        model: with a trained adapter that has a head.
        volume: (i, j, k), any unit; zero is outside the body.
        mask: reference, (i, j, k).
    """
    slices = display_range(volume)
    number = int(mask.sum(axis=(0, 1)).argmax())
    pixels = with_neighbours(slices[:, None], torch.tensor([number]))  # (1, 3, i, j)
    reference = mask[:, :, number] > 0
    proposed = _probability(model, pixels)[0]
    target = proposed > 0.5 if (proposed > 0.5).any() else reference
    body = (volume[:, :, number] > 0) | reference
    side = max(4, max(reference.shape) // PATCHES)
    blurred = ndimage.gaussian_filter(pixels.numpy(), (0, 0, side / 2, side / 2))
    mean = float(pixels[pixels > 0].mean()) if (pixels > 0).any() else 0.0
    scene = _Scene(model, pixels, target, body, side, float(proposed[target].mean()))
    maps = [
        scene.importance(torch.from_numpy(blurred), 0),
        scene.importance(torch.full_like(pixels, mean), side // 2),
    ]
    together = np.mean(maps, axis=0)
    positive = np.where(body, together.clip(min=0), 0.0)
    total = float(positive.sum())
    return Explanation(
        slice_number=number,
        image=pixels[0, 1].numpy().astype(np.float64),
        importance=together,
        stability=_agreement(maps[0][body], maps[1][body]),
        inside=float(positive[reference].sum()) / total if total > 0 else float("nan"),
        area=float(reference.sum() / body.sum()),
    )


def _agreement(first: Floats, second: Floats) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


@dataclass(frozen=True, eq=False)
class _Scene:
    """One slice, and what the model says of it before anything is hidden."""

    model: AdaptedModel
    pixels: Tensor
    """(1, 3, i, j)"""
    target: NDArray[np.bool_]
    body: NDArray[np.bool_]
    side: int
    """Of a patch, voxels."""
    before: float
    """Mean probability over the target."""

    def importance(self, filling: Tensor, shift: int) -> Floats:
        """Drop of the mean probability by the place that is hidden, (i, j); 0 off the body."""
        importance = np.zeros(self.body.shape)
        places = _patches(self.body.shape, self.side, shift)
        places = [place for place in places if self.body[place].any()]
        for start in range(0, len(places), BATCH):
            some = places[start : start + BATCH]
            hidden = self.pixels.repeat(len(some), 1, 1, 1)
            for row, place in enumerate(some):
                hidden[row][:, *place] = filling[0][:, *place]
            for place, probability in zip(some, _probability(self.model, hidden), strict=True):
                importance[place] = self.before - float(probability[self.target].mean())
        return importance


def _patches(shape: tuple[int, ...], side: int, shift: int) -> list[tuple[slice, slice]]:
    starts = [range(-shift, size, side) for size in shape]
    return [(slice(max(i, 0), i + side), slice(max(j, 0), j + side)) for i, j in product(*starts)]


@torch.inference_mode()
def _probability(model: AdaptedModel, pixels: Tensor) -> Floats:
    """Probability of tumour, (batch, i, j), of slices with neighbours, (batch, 3, i, j)."""
    height, width = pixels.shape[-2:]
    square = Letterbox(height, width, model.config.image_size)
    head = Letterbox(height, width, model.config.head_size)
    image = model.backbone.normalise(square.apply(pixels))
    hidden = model.backbone.encoder.prefix(image.to(model.device), model.tail_blocks)
    logits = head.invert(model.propose(head.apply(pixels), hidden).cpu())
    return (logits / model.temperature).sigmoid().numpy().astype(np.float64)
