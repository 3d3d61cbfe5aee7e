"""The prompt head: a mask proposal where nobody gives a prompt.

It joins the frozen embedding, which knows what things look like but is coarse, with
shallow features of the slice itself, which know where edges are. All its work is
done at a quarter of the proposal's resolution or below: squares of pixels are folded
into channels on the way in and unfolded on the way out. On a CPU that costs a quarter
of the same at half the resolution, and patients seen more often are worth more than
finer features (docs/results/lgg.md). Group norm never mixes slices, so one patient's
gradient is that patient's alone.
"""

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["HEAD_WIDTHS", "PromptHead"]

HEAD_WIDTHS = {"small": (8, 16, 32), "base": (24, 48, 96)}
"""Channels at a quarter, an eighth and a sixteenth of the proposal's resolution."""

FOLD = 4
"""Side of the square of pixels that becomes channels."""

_EMBEDDING_CHANNELS = 256


def _block(
    channels_in: int, channels_out: int, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation, bias=False),
        nn.GroupNorm(8, channels_out),
        nn.SiLU(),
    )


class PromptHead(nn.Module):
    """(slice with neighbours, embedding) -> proposal logits at the slice's resolution."""

    def __init__(self, size: str) -> None:
        super().__init__()
        quarter, eighth, sixteenth = HEAD_WIDTHS[size]
        self.enter = nn.Sequential(_block(3 * FOLD**2, quarter), _block(quarter, quarter))
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
        self.leave = nn.Conv2d(quarter, FOLD**2, 3, padding=1)

    def forward(self, slices: Tensor, embedding: Tensor) -> Tensor:
        """Propose a mask for each slice.

        Args:
            slices: (batch, 3, h, w), z-1, z and z+1 as fractions of the display range.
            embedding: (batch, 256, grid, grid) of the same slices.

        Returns:
            (batch, h, w) logits.
        """
        quarter = self.enter(F.pixel_unshuffle(slices, FOLD))  # (batch, c, h/4, w/4)
        eighth = self.down_eighth(quarter)
        sixteenth = self.down_sixteenth(eighth)
        context = self.project(self.forget(embedding))
        if context.shape[-2:] != sixteenth.shape[-2:]:
            context = F.interpolate(context, sixteenth.shape[-2:], mode="bilinear")
        joined = self.join(sixteenth + context)
        up = self.up_eighth(eighth + _twice(self.to_eighth(joined)))
        up = self.up_quarter(quarter + _twice(self.to_quarter(up)))
        return F.pixel_shuffle(self.leave(up), FOLD)[:, 0]  # (batch, h, w)


def _twice(values: Tensor) -> Tensor:
    return F.interpolate(values, scale_factor=2.0, mode="nearest")
