"""segment-anything's modules without torchvision.

`import segment_anything` runs an `__init__` that needs torchvision, whose wheels
need CUDA libraries. Only its `modeling` subpackage is used here and that needs
torch alone, so where torchvision is absent Python is given a bare parent package
that points at the installed folder.
"""

import importlib
import importlib.util
import sys
import types
from typing import Any

from torch import nn

from evenhand.errors import ResourceError

__all__ = ["layer_norm_2d", "mask_decoder", "prompt_encoder", "vit_encoder"]

PROMPT_CHANNELS = 256
"""Channels of an image embedding and of every prompt token, in all SAM models."""


def _modeling() -> Any:
    if "segment_anything" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        spec = importlib.util.find_spec("segment_anything")
        if spec is None or spec.submodule_search_locations is None:
            raise ResourceError("segment-anything is not installed; run `make install`.")
        parent = types.ModuleType("segment_anything")
        parent.__path__ = list(spec.submodule_search_locations)
        sys.modules["segment_anything"] = parent
    return importlib.import_module("segment_anything.modeling")


def layer_norm_2d(channels: int) -> nn.Module:
    """Channel-wise layer norm over (batch, channels, height, width)."""
    _modeling()
    common = importlib.import_module("segment_anything.modeling.common")
    module: nn.Module = common.LayerNorm2d(channels)
    return module


def prompt_encoder(image_size: int, grid: int) -> nn.Module:
    """Prompt encoder for square images of `image_size` px and a `grid` x `grid` embedding."""
    module: nn.Module = _modeling().PromptEncoder(
        embed_dim=PROMPT_CHANNELS,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    return module


def mask_decoder() -> nn.Module:
    """Mask decoder with the dimensions that all SAM checkpoints share."""
    modeling = _modeling()
    module: nn.Module = modeling.MaskDecoder(
        num_multimask_outputs=3,
        transformer=modeling.TwoWayTransformer(
            depth=2, embedding_dim=PROMPT_CHANNELS, mlp_dim=2048, num_heads=8
        ),
        transformer_dim=PROMPT_CHANNELS,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return module


def vit_encoder(
    image_size: int, *, dim: int, depth: int, heads: int, global_blocks: tuple[int, ...]
) -> nn.Module:
    """ViT image encoder of SAM for square images of `image_size` px."""
    from functools import partial

    module: nn.Module = _modeling().ImageEncoderViT(
        img_size=image_size,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        patch_size=16,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=global_blocks,
        window_size=14,
        out_chans=PROMPT_CHANNELS,
    )
    return module
