"""The training objective: cross-entropy per pixel plus soft Dice over the batch.

Dice over the whole batch, not per slice, so that a slice without tumour adds no
meaningless term; false positives on it still count, in both parts.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from evenhand.model.adapted import AdaptedModel
from evenhand.training.data import Batch

__all__ = ["adapter_loss", "label_loss", "mask_loss"]


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy + (1 - soft Dice), both over all of (batch, h, w)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, masks)
    probability = logits.sigmoid()
    overlap = (probability * masks).sum()
    dice = (2 * overlap + 1) / (probability.sum() + masks.sum() + 1)
    return cross_entropy + 1 - dice


def label_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """`mask_loss` of each label by itself, averaged.

    Args:
        logits: (batch, labels, h, w).
        masks: (batch, h, w), 0 or the number of a label.
    """
    each = [mask_loss(one, (masks == n).float()) for n, one in enumerate(logits.unbind(1), start=1)]
    return torch.stack(each).mean()


def adapter_loss(model: AdaptedModel, batch: Batch) -> Tensor:
    """Loss of everything that the adapter has: its automatic and its prompted mode."""
    loss, masks = torch.zeros((), device=model.device), batch.masks.to(model.device)
    if model.head is not None:
        logits = model.propose_labels(batch.slices, batch.hidden, batch.hints).float()
        loss = loss + label_loss(logits, masks)
    prompted = model.config.decoder_lora_rank or (model.tail_blocks and model.head is None)
    if prompted and len(batch.boxed):
        logits = model.answer_boxes(batch.hidden[batch.boxed], batch.boxes).float()
        size = batch.masks.shape[-2:]
        logits = F.interpolate(logits[:, None], size, mode="bilinear")[:, 0]
        loss = loss + mask_loss(logits, masks[batch.boxed])
    return loss
