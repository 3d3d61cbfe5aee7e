"""The prompt head: a mask proposal where nobody gives a prompt.

It joins the frozen embedding, which knows what things look like but is coarse, with
shallow features of the slice itself, which know where edges are. All its work is
done at half the proposal's resolution or below: pixels are folded into channels on
the way in and unfolded on the way out, which is what makes it quick on a CPU.
Group norm never mixes slices, so one patient's gradient is that patient's alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["HEAD_WIDTHS", "PromptHead"]

HEAD_WIDTHS = {"small": (8, 16, 32), "base": (24, 48, 96)}
"""Channels at a half, a quarter and an eighth of the proposal's resolution."""

_EMBEDDING_CHANNELS = 256


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.GroupNorm(8, channels_out),
        nn.SiLU(),
    )


class PromptHead(nn.Module):
    """(slice with neighbours, embedding) -> proposal logits at the slice's resolution."""

    def __init__(self, size: str) -> None:
        super().__init__()
        half, quarter, eighth = HEAD_WIDTHS[size]
        self.enter = nn.Sequential(_block(12, half), _block(half, half))
        self.down_quarter = nn.Sequential(_block(half, quarter, 2), _block(quarter, quarter))
        self.down_eighth = nn.Sequential(_block(quarter, eighth, 2), _block(eighth, eighth))
        # With few patients the head would learn them by heart from the embedding alone.
        self.forget = nn.Dropout2d(0.2)
        self.project = nn.Conv2d(_EMBEDDING_CHANNELS, eighth, 1)
        self.join = nn.Sequential(_block(2 * eighth, eighth), _block(eighth, eighth))
        self.up_quarter = nn.Sequential(_block(eighth + quarter, quarter), _block(quarter, quarter))
        self.up_half = nn.Sequential(_block(quarter + half, half), _block(half, half))
        self.leave = nn.Conv2d(half, 4, 3, padding=1)

    def forward(self, slices: Tensor, embedding: Tensor) -> Tensor:
        """Propose a mask for each slice.

        Args:
            slices: (batch, 3, h, w), z-1, z and z+1 as fractions of the display range.
            embedding: (batch, 256, grid, grid) of the same slices.

        Returns:
            (batch, h, w) logits.
        """
        half = self.enter(F.pixel_unshuffle(slices, 2))  # (batch, c, h/2, w/2)
        quarter = self.down_quarter(half)
        eighth = self.down_eighth(quarter)
        context = self.project(self.forget(embedding))
        if context.shape[-2:] != eighth.shape[-2:]:
            context = F.interpolate(context, eighth.shape[-2:], mode="bilinear")
        joined = self.join(torch.cat([eighth, context], dim=1))
        up = F.interpolate(joined, scale_factor=2.0, mode="nearest")
        up = self.up_quarter(torch.cat([up, quarter], dim=1))
        up = F.interpolate(up, scale_factor=2.0, mode="nearest")
        up = self.up_half(torch.cat([up, half], dim=1))
        return F.pixel_shuffle(self.leave(up), 2)[:, 0]  # (batch, h, w)
