"""The prompt head: a mask proposal where nobody gives a prompt.

It joins the frozen embedding, which knows what things look like but is coarse, with
shallow features of the slice itself, which know where edges are. All its work is
done at a quarter of the proposal's resolution or below: squares of pixels are folded
into channels on the way in and unfolded on the way out. On a CPU that costs a quarter
of the same at half the resolution, and patients seen more often are worth more than
finer features (docs/results/lgg.md). Group norm never mixes slices, so one patient's
gradient is that patient's alone.

What a person says about a slice comes in beside it, as two more channels (`hint_channels`): a
box around the tumour, and the tumour's mask on the slice before, which carries a mask from
slice to slice. Both are empty where nobody said anything.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["HEAD_WIDTHS", "HINTS", "PromptHead", "box_hints"]

HEAD_WIDTHS = {"small": (8, 16, 32), "base": (24, 48, 96)}
"""Channels at a quarter, an eighth and a sixteenth of the proposal's resolution."""

FOLD = 4
"""Side of the square of pixels that becomes channels."""

HINTS = 2
"""Channels of what is said about a slice: inside the box, inside the neighbour's mask."""

_EMBEDDING_CHANNELS = 256


def box_hints(boxes: Tensor, side: int) -> Tensor:
    """Hints from boxes.

    Args:
        boxes: (batch, 4), x0 y0 x1 y1 in pixels of the head's square; NaN where there is none.
        side: of the square.

    Returns:
        (batch, HINTS, side, side): 1 in the first channel where a pixel's centre is in the box.
    """
    centre = torch.arange(side) + 0.5
    x0, y0, x1, y1 = boxes.unsqueeze(-1).unbind(1)  # (batch, 1); nothing lies beside a NaN
    columns = (centre >= x0) & (centre < x1)
    rows = (centre >= y0) & (centre < y1)
    hints = torch.zeros(len(boxes), HINTS, side, side)
    hints[:, 0] = (rows[:, :, None] & columns[:, None, :]).float()
    return hints


def _block(
    channels_in: int, channels_out: int, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation, bias=False),
        nn.GroupNorm(8, channels_out),
        nn.SiLU(),
    )


class PromptHead(nn.Module):
    """(slice with neighbours, embedding, hints) -> logits of masks at the slice's resolution.

    Args:
        size: which widths.
        sequences: image sequences that are looked at together.
        hints: whether it listens to what is said about a slice.
        labels: how many masks it draws of each slice.
    """

    def __init__(
        self, size: str, *, sequences: int = 1, hints: bool = False, labels: int = 1
    ) -> None:
        super().__init__()
        quarter, eighth, sixteenth = HEAD_WIDTHS[size]
        self.hints = hints
        channels = 3 * sequences + (HINTS if hints else 0)
        self.enter = nn.Sequential(_block(channels * FOLD**2, quarter), _block(quarter, quarter))
        self.down_eighth = nn.Sequential(_block(quarter, eighth, stride=2), _block(eighth, eighth))
        self.down_sixteenth = nn.Sequential(
            _block(eighth, sixteenth, stride=2), _block(sixteenth, sixteenth)
        )
        # With few patients the head would learn them by heart from the embedding alone.
        self.forget = nn.Dropout2d(0.2)
        self.project = nn.Conv2d(_EMBEDDING_CHANNELS, sixteenth, 1)
        # Spread wide, at no cost: a large tumour of low contrast is told from its surroundings
        # only by who sees both.
        self.join = nn.Sequential(
            _block(sixteenth, sixteenth, dilation=2), _block(sixteenth, sixteenth, dilation=4)
        )
        self.to_eighth = nn.Conv2d(sixteenth, eighth, 1)
        self.up_eighth = _block(eighth, eighth)
        self.to_quarter = nn.Conv2d(eighth, quarter, 1)
        self.up_quarter = _block(quarter, quarter)
        self.leave = nn.Conv2d(quarter, labels * FOLD**2, 3, padding=1)

    def forward(self, slices: Tensor, embedding: Tensor, hints: Tensor | None = None) -> Tensor:
        """Propose a mask of each label for each slice.

        Args:
            slices: (batch, 3 sequences, h, w): of each sequence z-1, z and z+1, as fractions of
                the display range; zero where a case lacks the sequence.
            embedding: (batch, 256, grid, grid) of the same slices.
            hints: (batch, HINTS, h, w), for a head that listens; None: nothing is said.

        Returns:
            (batch, labels, h, w) logits.
        """
        if self.hints:
            if hints is None:
                hints = slices.new_zeros(len(slices), HINTS, *slices.shape[-2:])
            slices = torch.cat([slices, hints], dim=1)
        quarter = self.enter(F.pixel_unshuffle(slices, FOLD))  # (batch, c, h/4, w/4)
        eighth = self.down_eighth(quarter)
        sixteenth = self.down_sixteenth(eighth)
        context = self.project(self.forget(embedding))
        if context.shape[-2:] != sixteenth.shape[-2:]:
            context = F.interpolate(context, sixteenth.shape[-2:], mode="bilinear")
        joined = self.join(sixteenth + context)
        up = self.up_eighth(eighth + _twice(self.to_eighth(joined)))
        up = self.up_quarter(quarter + _twice(self.to_quarter(up)))
        return F.pixel_shuffle(self.leave(up), FOLD)  # (batch, labels, h, w)


def _twice(values: Tensor) -> Tensor:
    return F.interpolate(values, scale_factor=2.0, mode="nearest")
