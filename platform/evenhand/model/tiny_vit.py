"""TinyViT, the image encoder of MobileSAM and LiteMedSAM, written against their checkpoints' keys.

Wu et al. 2022, "TinyViT: Fast Pretraining Distillation for Small Vision
Transformers"; the dimensions are those of the "5m" model that MobileSAM (Zhang et
al. 2023) uses. Only inference and adapters are wanted, so there is no drop path.

Checked: MobileSAM's file has 388 encoder tensors; all are used except the four of
the unused ImageNet classifier (`head.*`, `norm_head.*`).
"""

from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evenhand.model.sam_parts import layer_norm_2d

__all__ = [
    "ConvNorm",
    "FeedForward",
    "InvertedBottleneck",
    "Merge",
    "PatchEmbed",
    "Stage",
    "TinyViT",
    "WindowAttention",
    "WindowBlock",
]

DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
STAGE_STRIDES = (2, 2, 1)
"""Strides of the three downsamplings between the four stages."""


class ConvNorm(nn.Sequential):
    """Convolution and batch norm, folded into one convolution by `fuse`."""

    def __init__(
        self, dim_in: int, dim_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d(
            dim_in, dim_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.add_module("c", convolution)
        self.add_module("bn", nn.BatchNorm2d(dim_out))

    def fuse(self) -> nn.Conv2d:
        """Return the equal single convolution (running statistics are frozen in it)."""
        convolution, norm = cast(nn.Conv2d, self[0]), cast(nn.BatchNorm2d, self[1])
        return fuse_conv_bn_eval(convolution.eval(), norm.eval())


class InvertedBottleneck(nn.Module):
    """MBConv: expand 4 times, depthwise 3 x 3, project, add."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, 4 * dim, 1)
        self.conv2 = ConvNorm(4 * dim, 4 * dim, 3, groups=4 * dim)
        self.conv3 = ConvNorm(4 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, h, w) -> the same shape."""
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class Merge(nn.Module):
    """Change the number of channels between stages, and halve the grid if `stride` is 2."""

    def __init__(self, dim: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, dim_out, 1)
        self.conv2 = ConvNorm(dim_out, dim_out, 3, stride, groups=dim_out)
        self.conv3 = ConvNorm(dim_out, dim_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, h, w) -> (batch, dim_out, h / stride, w / stride)."""
        merged: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return merged


class WindowAttention(nn.Module):
    """Self-attention inside a window, with a learned bias per relative offset."""

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        points = list(product(range(window), repeat=2))
        # Offsets are numbered in the order of first appearance, as in the checkpoints.
        offsets: dict[tuple[int, int], int] = {}
        index = [
            offsets.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(offsets))
            for a in points
            for b in points
        ]
        self.attention_biases = nn.Parameter(torch.zeros(heads, len(offsets)))
        table = torch.tensor(index).view(len(points), len(points))
        self.register_buffer("attention_bias_idxs", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, tokens, dim) -> the same shape."""
        windows, tokens, dim = x.shape
        qkv = self.qkv(self.norm(x)).view(windows, tokens, self.heads, 3, dim // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)  # each (windows, heads, tokens, dim / heads)
        bias = self.attention_biases[:, self.attention_bias_idxs]
        # Spelled out: with a mask, torch's fused attention takes a slower way on a CPU.
        scores = (q * (dim // self.heads) ** -0.5) @ k.transpose(-2, -1)
        out = (scores + bias.to(q.dtype)).softmax(-1) @ v
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(windows, tokens, dim))
        return projected


class FeedForward(nn.Module):
    """Layer norm and a two-layer perceptron."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class WindowBlock(nn.Module):
    """Window attention, a depthwise convolution and a feed-forward part."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(dim, heads, window)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.mlp = FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, h, w) -> the same shape."""
        x = self.local_conv(x + self._attend(x))
        tokens = x.permute(0, 2, 3, 1)
        mixed: Tensor = (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)
        return mixed

    def _attend(self, x: Tensor) -> Tensor:
        batch, dim, height, width = x.shape
        size = self.window
        tokens = x.permute(0, 2, 3, 1)
        tokens = F.pad(tokens, (0, 0, 0, -width % size, 0, -height % size))
        rows, columns = tokens.shape[1] // size, tokens.shape[2] // size
        tokens = tokens.view(batch, rows, size, columns, size, dim).transpose(2, 3)
        tokens = self.attn(tokens.reshape(-1, size * size, dim))
        tokens = tokens.view(batch, rows, columns, size, size, dim).transpose(2, 3)
        tokens = tokens.reshape(batch, rows * size, columns * size, dim)
        attended: Tensor = tokens[:, :height, :width].permute(0, 3, 1, 2)
        return attended


class Stage(nn.Module):
    """Blocks on one grid, and the merge that leads to the next."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class PatchEmbed(nn.Module):
    """Two convolutions from pixels to the first stage's channels."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, DIMS[0] // 2, kernel, stride),
            nn.GELU(),
            ConvNorm(DIMS[0] // 2, DIMS[0], kernel, stride),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, h, w) -> (batch, 64, h / stride^2, w / stride^2)."""
        embedded: Tensor = self.seq(x)
        return embedded


class TinyViT(nn.Module):
    """Image encoder: (batch, 3, h, w) -> (batch, 256, grid, grid).

    Args:
        patch_kernel: kernel of the two patch convolutions: 3 in MobileSAM, whose grid
            is a sixteenth of the image, 1 in LiteMedSAM.
        patch_stride: stride of both: 2 in MobileSAM, 1 in LiteMedSAM, whose grid is a
            quarter of the image.
    """

    def __init__(self, *, patch_kernel: int, patch_stride: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_kernel, patch_stride)
        self.layers = nn.ModuleList()
        for index, (dim, depth) in enumerate(zip(DIMS, DEPTHS, strict=True)):
            blocks: list[nn.Module] = [
                InvertedBottleneck(dim)
                if index == 0
                else WindowBlock(dim, HEADS[index], WINDOWS[index])
                for _ in range(depth)
            ]
            last = index == len(DIMS) - 1
            merge = None if last else Merge(dim, DIMS[index + 1], STAGE_STRIDES[index])
            self.layers.append(Stage(blocks, merge))
        self.neck = nn.Sequential(
            nn.Conv2d(DIMS[-1], 256, 1, bias=False),
            layer_norm_2d(256),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            layer_norm_2d(256),
        )

    @property
    def tail(self) -> list[nn.Module]:
        """The blocks that can be adapted, first to last: those of the last stage."""
        stage = self.layers[-1]
        return list(stage.blocks)  # type: ignore[arg-type]

    def prefix(self, x: Tensor, tail_blocks: int) -> Tensor:
        """Everything before the last `tail_blocks` blocks (and the neck, unless 0)."""
        x = self.patch_embed(x)
        for stage in self.layers:
            last = stage is self.layers[-1]
            blocks = list(stage.blocks)  # type: ignore[arg-type]
            for block in blocks[: len(blocks) - tail_blocks] if last else blocks:
                x = block(x)
            if not last:
                x = stage.downsample(x)  # type: ignore[operator]
        neck: Tensor = self.neck(x) if tail_blocks == 0 else x
        return neck

    def suffix(self, hidden: Tensor, tail_blocks: int) -> Tensor:
        """From what `prefix` returned to the embedding."""
        if tail_blocks == 0:
            return hidden
        for block in self.tail[-tail_blocks:]:
            hidden = block(hidden)
        embedding: Tensor = self.neck(hidden)
        return embedding

    def fuse(self) -> None:
        """Fold all batch norms into their convolutions, in place.

        Faster, and frozen statistics can no longer drift when somebody calls `train()`.
        """
        for parent in list(self.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, ConvNorm):
                    setattr(parent, name, child.fuse())
