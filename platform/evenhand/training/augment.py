"""Augmentation of a drawn slice: picture, mask and cached activations move as one.

A frozen embedding is computed once, so a turned slice has no embedding of its own. It
gets the turned embedding of the slice as it was: a convolutional encoder nearly
commutes with small turns and changes of size, and exactly with none. Mirroring is one
of these moves; it is kept to the axis that runs between the patient's sides.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from evenhand.config import TrainingConfig

__all__ = ["moved", "other_scanner", "random_moves", "without_some_sequences"]


def random_moves(
    count: int, config: TrainingConfig, mirror: int | None, generator: torch.Generator
) -> Tensor:
    """Draw a turn, a change of size and perhaps a mirroring for each slice.

    Args:
        count: of slices.
        config: `rotation_degrees` and `scale_jitter`.
        mirror: axis (-1 or -2) that may be mirrored; None for none.
        generator: of the draw.

    Returns:
        (count, 2, 3) matrices as `torch.nn.functional.affine_grid` reads them: where in
        the slice, in -1 to 1, a place of the moved one is taken from.
    """
    unit = 2 * torch.rand(2, count, generator=generator) - 1
    angle = unit[0] * math.radians(config.rotation_degrees)
    size = (1 + config.scale_jitter) ** unit[1]
    cosine, sine = size * angle.cos(), size * angle.sin()
    moves = torch.zeros(count, 2, 3)
    moves[:, 0, 0], moves[:, 0, 1] = cosine, -sine
    moves[:, 1, 0], moves[:, 1, 1] = sine, cosine
    if mirror is not None:
        flipped = torch.rand(count, generator=generator) < 0.5
        moves[flipped, :, -1 - mirror] *= -1  # axis -1 is x, the first column; -2 is y
    return moves


def moved(values: Tensor, moves: Tensor) -> Tensor:
    """Move each of (batch, channels, h, w) by its matrix; what comes from outside is zero."""
    grid = F.affine_grid(moves, list(values.shape), align_corners=False)
    return F.grid_sample(values, grid, align_corners=False)


def other_scanner(slices: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change gain and gamma of each sequence as another scanner might; background stays zero.

    Args:
        slices: (batch, 3 sequences, h, w), fractions of the display range.
        strength: largest relative change.
        generator: of the change.
    """
    each = slices.reshape(-1, 3, *slices.shape[-2:])  # (batch sequences, 3, h, w)
    unit = 2 * torch.rand(2, len(each), 1, 1, 1, generator=generator) - 1
    gain, gamma = 1 + strength * unit
    changed: Tensor = (each * gain).clamp(0, 1) ** gamma
    return changed.view(slices.shape)


def without_some_sequences(slices: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Take sequences after the first away, each from a share of slices: some cases lack them.

    Args:
        slices: (batch, 3 sequences, h, w).
        share: of slices that lose a sequence.
        generator: of which.
    """
    others = slices.shape[1] // 3 - 1
    if not others:
        return slices
    kept = torch.rand(len(slices), others, generator=generator) >= share
    kept = torch.cat([torch.ones(len(slices), 1, dtype=torch.bool), kept], dim=1)
    return slices * kept.repeat_interleave(3, dim=1)[..., None, None]
