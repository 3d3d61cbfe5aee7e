"""What the head is told of a drawn slice, so that it learns to listen: a box, a neighbour's mask.

A person's box is not tight, so its sides are jittered. The mask that is carried from slice to
slice is a model's, so the reference of the neighbour has its outline bent. Most slices that are
told nothing teach the automatic mode.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from evenhand.config import TrainingConfig
from evenhand.model.head import box_hints
from evenhand.model.prompts import jittered, tight_boxes

__all__ = ["draw_hints", "with_bent_outline"]

BENDS, BEND, SOFT = 16, 0.18, 9
"""How an outline is bent: knots of the field a side, its largest spread, pixels of softness."""


def draw_hints(
    masks: Tensor,
    beside: Tensor,
    config: TrainingConfig,
    generator: torch.Generator,
    *,
    jitter: int,
) -> Tensor:
    """Tell the head something of some slices.

    Args:
        masks: (batch, s, s), what it is to find.
        beside: (batch, 1, s, s), the reference on a slice before or after.
        config: on which share of slices there is a box or a mask.
        generator: of all that is drawn.
        jitter: largest shift of each side of a box, pixels.

    Returns:
        (batch, 2, s, s) as `evenhand.model.head` takes them.
    """
    side = masks.shape[-1]
    boxes = tight_boxes(masks)
    there = ~boxes[:, 0].isnan()
    boxes[there] = jittered(boxes[there], by=jitter, limit=side, generator=generator)
    kind = torch.rand(len(masks), 1, 1, generator=generator)
    boxed = kind < config.box_hints
    hints = box_hints(boxes, side)
    hints[:, 0] *= boxed
    carried = ~boxed & (kind < config.box_hints + config.mask_hints)
    hints[:, 1] = with_bent_outline(beside, generator)[:, 0] * carried
    return hints


def with_bent_outline(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Bend the outlines of masks: a smooth random field grows them here and shrinks them there.

    Args:
        masks: (batch, 1, h, w), 0 to 1.
        generator: of the field, and of how strong it is in each.

    Returns:
        (batch, 1, h, w) of 0 and 1; an empty mask stays empty.
    """
    coarse = torch.randn(len(masks), 1, BENDS, BENDS, generator=generator)
    field = F.interpolate(coarse, masks.shape[-2:], mode="bicubic")
    strength = BEND * torch.rand(len(masks), 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(masks, SOFT, stride=1, padding=SOFT // 2)
    somewhere = masks.flatten(1).any(1)[:, None, None, None]
    return ((soft + strength * field > 0.5) & somewhere).float()
