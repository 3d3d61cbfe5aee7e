"""What the tests of models and training share: small models and toy patients without weights."""

import numpy as np
import torch
from torch import nn

from evenhand.config import ModelConfig
from evenhand.model.adapted import AdaptedModel
from evenhand.model.backbones import Backbone
from evenhand.training.data import TrainingCase, TrainingPatient

IMAGE_SIZE = 128
"""The smallest square that a config admits."""
HEAD_SIZE = 64
CONFIG = ModelConfig(
    image_size=IMAGE_SIZE,
    head="small",
    head_size=HEAD_SIZE,
    decoder_lora_rank=2,
    encoder_lora_rank=2,
    encoder_lora_blocks=1,
    precision="float32",
)
"""Everything that an adapter can have: LoRA in decoder and encoder, and a head."""


def random_norms(module: nn.Module) -> None:
    """Give batch norms statistics that are not those of a fresh one, and biases to attention."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
        if hasattr(part, "attention_biases"):
            nn.init.normal_(part.attention_biases)


def small_backbone(seed: int = 0) -> Backbone:
    """MobileSAM's shape with random weights, frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone("mobile-sam", IMAGE_SIZE, "0" * 64)
        random_norms(backbone)
    return backbone.requires_grad_(requires_grad=False).eval()


def small_model(seed: int = 0, **changes: object) -> AdaptedModel:
    """`CONFIG` with changes, on a random backbone."""
    return AdaptedModel(small_backbone(), CONFIG.model_copy(update=changes), seed=seed)


def wake_lora(model: nn.Module, seed: int = 1) -> None:
    """Give LoRA an effect: a fresh one has none."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def toy_case(
    model: AdaptedModel,
    seed: int,
    *,
    depth: int = 4,
    tumours: tuple[int, ...] = (1, 2),
    mirror: int | None = -1,
) -> TrainingCase:
    """Bright boxes on noise: something that a head can learn in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    channels = 320 if model.tail_blocks else 256
    grid = model.backbone.grid
    size, square = model.config.head_size, model.config.image_size
    hidden = torch.randn(depth, channels, grid, grid, generator=generator)
    slices = 0.2 * torch.rand(depth, size, size, generator=generator)
    masks = torch.zeros(depth, size, size, dtype=torch.uint8)
    for z in tumours:
        x, y = torch.randint(8, size - 32, (2,), generator=generator).tolist()
        w, h = torch.randint(8, 24, (2,), generator=generator).tolist()
        masks[z, y : y + h, x : x + w] = 1
        slices[z, y : y + h, x : x + w] += 0.7
    return TrainingCase(
        hidden=hidden.half().numpy().astype(np.float16),
        slices=slices[:, None].half(),
        masks=masks,
        pixel=square / size,
        mirror=mirror,
    )


def toy_patients(model: AdaptedModel, count: int) -> list[TrainingPatient]:
    """Patients of one toy case each."""
    return [TrainingPatient(f"p{n}", (toy_case(model, seed=n),)) for n in range(count)]
