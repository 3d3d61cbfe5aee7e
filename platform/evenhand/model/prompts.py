"""Box prompts made from reference masks, for training and for prompted evaluation.

A box made from a reference knows where the tumour is: figures that use one must say
so, and by how much it was jittered.
"""

import torch
from torch import Tensor

__all__ = ["jittered", "tight_boxes"]


def tight_boxes(masks: Tensor) -> Tensor:
    """Smallest box around each slice's mask.

    Args:
        masks: (k, h, w), nonzero inside.

    Returns:
        (k, 4) float, x0 y0 x1 y1 in pixels (x along w; x1 and y1 exclusive); NaN where
        a slice has no mask.
    """
    inside = masks != 0
    boxes = torch.full((masks.shape[0], 4), float("nan"))
    for axis, (low, high) in ((1, (0, 2)), (2, (1, 3))):
        line = inside.any(dim=axis)  # columns, then rows
        size = line.shape[1]
        index = torch.arange(size)
        first = torch.where(line, index, size).amin(dim=1)
        last = torch.where(line, index, -1).amax(dim=1)
        found = last >= 0
        boxes[found, low] = first[found].float()
        boxes[found, high] = last[found].float() + 1
    return boxes


def jittered(boxes: Tensor, *, by: float, limit: float, generator: torch.Generator) -> Tensor:
    """Move each side of each box by a uniform whole number of up to `by` pixels.

    Args:
        boxes: (n, 4), x0 y0 x1 y1.
        by: largest shift, pixels.
        limit: sides stay within 0 and this.
        generator: of the shifts.

    Returns:
        (n, 4) boxes at least one pixel wide and high.
    """
    span = 2 * int(by) + 1
    shift = torch.randint(0, span, boxes.shape, generator=generator) - int(by)
    moved = (boxes + shift).clamp(0, limit)
    low, high = torch.minimum(moved[:, :2], moved[:, 2:]), torch.maximum(moved[:, :2], moved[:, 2:])
    low = low.clamp(max=limit - 1)
    return torch.cat([low, torch.maximum(high, low + 1)], dim=1)
