"""Frozen foundation models behind one interface: prefix (cacheable), suffix, box decoding.

The grid of an embedding is `image_size / stride` tokens a side. Pixels go in as
fractions of the display range (0 to 1) and are normalised here, each model's way.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evenhand.errors import ConfigError, WeightsError
from evenhand.model import sam_parts
from evenhand.model.tiny_vit import TinyViT
from evenhand.model.weights import fetch, find, load_state_dict, verify

__all__ = ["Backbone", "Encoder", "SplitViT", "load_backbone"]

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""ImageNet statistics as fractions: SAM's 123.675, 116.28, 103.53 and 58.395, 57.12, 57.375."""


class Encoder(Protocol):
    """What a backbone needs of an image encoder."""

    tail: list[nn.Module]

    def prefix(self, x: Tensor, tail_blocks: int) -> Tensor:
        """Compute all before the last `tail_blocks` blocks."""

    def suffix(self, hidden: Tensor, tail_blocks: int) -> Tensor:
        """Compute the rest, up to the embedding."""


class SplitViT(nn.Module):
    """SAM's ViT, cut before its last blocks so that what is frozen can be cached."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    @property
    def tail(self) -> list[nn.Module]:
        """All transformer blocks, first to last."""
        return list(self.vit.blocks)  # type: ignore[arg-type]

    def prefix(self, x: Tensor, tail_blocks: int) -> Tensor:
        """(batch, 3, h, w) -> channels-first tokens, or the embedding if nothing follows."""
        x = self.vit.patch_embed(x) + self.vit.pos_embed  # type: ignore[operator]
        blocks = self.tail
        for block in blocks[: len(blocks) - tail_blocks]:
            x = block(x)
        x = x.permute(0, 3, 1, 2)
        neck: Tensor = self.vit.neck(x) if tail_blocks == 0 else x  # type: ignore[operator]
        return neck

    def suffix(self, hidden: Tensor, tail_blocks: int) -> Tensor:
        """From what `prefix` returned to the embedding (batch, 256, grid, grid)."""
        if tail_blocks == 0:
            return hidden
        x = hidden.permute(0, 2, 3, 1)
        for block in self.tail[-tail_blocks:]:
            x = block(x)
        embedding: Tensor = self.vit.neck(x.permute(0, 3, 1, 2))  # type: ignore[operator]
        return embedding


@dataclass(frozen=True)
class _Recipe:
    """How one family of checkpoints is built."""

    stride: int
    imagenet_pixels: bool
    tiny: tuple[int, int] | None = None
    vit: tuple[int, int, int, tuple[int, ...]] | None = None


_VIT_B = (768, 12, 12, (2, 5, 8, 11))
_RECIPES = {
    "mobile-sam": _Recipe(stride=16, imagenet_pixels=True, tiny=(3, 2)),
    "lite-medsam": _Recipe(stride=4, imagenet_pixels=False, tiny=(1, 1)),
    "sam-vit-b": _Recipe(stride=16, imagenet_pixels=True, vit=_VIT_B),
    "sam-vit-l": _Recipe(stride=16, imagenet_pixels=True, vit=(1024, 24, 16, (5, 11, 17, 23))),
    "sam-vit-h": _Recipe(stride=16, imagenet_pixels=True, vit=(1280, 32, 16, (7, 15, 23, 31))),
    "medsam-vit-b": _Recipe(stride=16, imagenet_pixels=False, vit=_VIT_B),
}
_UNUSED = ("image_encoder.head.", "image_encoder.norm_head.")
"""The ImageNet classifier that MobileSAM's file still carries."""


class Backbone(nn.Module):
    """A frozen SAM: image encoder, prompt encoder, mask decoder. Always in eval mode.

    Attributes:
        name: as in `evenhand weights list`.
        weights_sha256: of the checkpoint file; adapters are tied to it.
        image_size: side of its square input, pixels.
        grid: side of its embedding, tokens.
    """

    def __init__(self, name: str, image_size: int, weights_sha256: str) -> None:
        super().__init__()
        recipe = _RECIPES[name]
        self.name = name
        self.weights_sha256 = weights_sha256
        self.image_size = image_size
        self.grid = image_size // recipe.stride
        self._imagenet_pixels = recipe.imagenet_pixels
        self.image_encoder: nn.Module
        if recipe.tiny is not None:
            kernel, stride = recipe.tiny
            self.image_encoder = TinyViT(patch_kernel=kernel, patch_stride=stride)
        elif recipe.vit is not None:
            dim, depth, heads, global_blocks = recipe.vit
            vit = sam_parts.vit_encoder(
                image_size, dim=dim, depth=depth, heads=heads, global_blocks=global_blocks
            )
            self.image_encoder = SplitViT(vit)
        self.prompt_encoder = sam_parts.prompt_encoder(image_size, self.grid)
        self.mask_decoder = sam_parts.mask_decoder()

    @property
    def encoder(self) -> Encoder:
        """The image encoder, by its interface."""
        return self.image_encoder  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return next(self.parameters()).device

    def normalise(self, pixels: Tensor) -> Tensor:
        """(batch, 3, h, w) fractions of the display range -> what the encoder was trained on."""
        if not self._imagenet_pixels:
            return pixels
        mean = pixels.new_tensor(PIXEL_MEAN).view(1, 3, 1, 1)
        return (pixels - mean) / pixels.new_tensor(PIXEL_STD).view(1, 3, 1, 1)

    def decode_boxes(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """One mask per image from one box per image; see `decode_prompts`."""
        return self.decode_prompts(embedding, boxes=boxes)

    def decode_prompts(
        self,
        embedding: Tensor,
        *,
        boxes: Tensor | None = None,
        points: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """One mask per image from its box, its points, or both.

        The stock decoder takes one image with many prompts; here it is fed image by
        image through its transformer as a batch, each with its own prompt, so that no
        sample is repeated (repeats would inflate a patient's gradient).

        Args:
            embedding: (batch, 256, grid, grid).
            boxes: (batch, 4), x0 y0 x1 y1 in pixels of the `image_size` square.
            points: (batch, n, 2) x y in the same pixels, 0 the middle of the first; and
                (batch, n) labels, 1 inside, 0 outside.

        Returns:
            (batch, 4 grid, 4 grid) logits.
        """
        encoder, decoder = self.prompt_encoder, self.mask_decoder
        sparse, dense = encoder(points=points, boxes=boxes, masks=None)
        batch = embedding.shape[0]
        fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # type: ignore[list-item, union-attr]
        tokens = torch.cat([fixed.expand(batch, -1, -1), sparse], dim=1)
        positions = encoder.get_dense_pe().expand(batch, -1, -1, -1)  # type: ignore[operator]
        hidden, image = decoder.transformer(embedding + dense, positions, tokens)  # type: ignore[operator]
        image = image.transpose(1, 2).view(batch, -1, self.grid, self.grid)
        upscaled = decoder.output_upscaling(image)  # type: ignore[operator]
        weights = decoder.output_hypernetworks_mlps[0](hidden[:, 1])  # type: ignore[index, operator]
        return torch.einsum("bc,bchw->bhw", weights, upscaled)

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002
        """Stay in eval mode: a frozen model has nothing to train."""
        return super().train(mode=False)


def load_backbone(name: str, image_size: int, *, weights: Path | None = None) -> Backbone:
    """Build a backbone and load its checkpoint, strictly.

    Args:
        name: as in `evenhand weights list`.
        image_size: side of the square input in pixels; position tables of ViT
            checkpoints (made for 1024) are resized to it.
        weights: the checkpoint file, whose hash must be the published one; fetched into
            the cache when None.

    Raises:
        WeightsError: the file is missing, broken, or not this backbone's.
    """
    entry = find(name)
    if name not in _RECIPES:
        raise ConfigError(f"There is no way to build backbone '{name}'.")
    path = weights if weights is not None else fetch(name)
    if weights is not None and (found := verify(weights).name) != name:
        raise WeightsError(
            f"'{weights}' holds {found}, not {name}. Set model.backbone to what the "
            f"file holds, or fetch the other with `evenhand weights get {name}`."
        )
    state = load_state_dict(path)
    backbone = Backbone(name, image_size, entry.sha256)
    state = {key: value for key, value in state.items() if not key.startswith(_UNUSED)}
    if isinstance(backbone.image_encoder, SplitViT):
        state = {
            key.replace("image_encoder.", "image_encoder.vit.", 1): value
            for key, value in state.items()
        }
        state = _resize_positions(state, backbone.state_dict())
    try:
        backbone.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"'{path.name}' does not hold {name}: {reason}. Fetch it again with "
            f"`evenhand weights get {name}`."
        ) from None
    if isinstance(backbone.image_encoder, TinyViT):
        backbone.image_encoder.fuse()
    return backbone.requires_grad_(requires_grad=False).eval()


def _resize_positions(state: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Interpolate position tables that were made for another image size."""
    resized = dict(state)
    for key, value in state.items():
        wanted = target.get(key)
        if wanted is None or wanted.shape == value.shape:
            continue
        if key.endswith("pos_embed"):
            table = F.interpolate(
                value.permute(0, 3, 1, 2), wanted.shape[1:3], mode="bicubic", align_corners=False
            )
            resized[key] = table.permute(0, 2, 3, 1)
        elif "rel_pos_" in key:
            table = F.interpolate(value.T[None], wanted.shape[0], mode="linear")
            resized[key] = table[0].T
    return resized
