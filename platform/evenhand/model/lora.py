"""Low-rank adaptation of linear layers (Hu et al. 2021, "LoRA").

The frozen weight W becomes W + (alpha / rank) B A. B starts at zero, so a fresh
adapter changes nothing.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LoraLinear", "add_lora"]


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trainable low-rank part; alpha equals rank."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(requires_grad=False)
        self.lora_a = nn.Parameter(torch.empty(rank, frozen.in_features))
        self.lora_b = nn.Parameter(torch.zeros(frozen.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        low_rank = F.linear(F.linear(x, self.lora_a), self.lora_b)
        output: Tensor = self.frozen(x) + low_rank
        return output


def add_lora(module: nn.Module, rank: int, targets: tuple[str, ...]) -> list[str]:
    """Replace the linear layers of `module` whose last name is in `targets`, in place.

    Returns:
        The dotted names of the layers that were replaced, in order.
    """
    found = [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear) and name.rpartition(".")[2] in targets
    ]
    for name, child in found:
        parent_name, _, own_name = name.rpartition(".")
        setattr(module.get_submodule(parent_name), own_name, LoraLinear(child, rank))
    return [name for name, _ in found]
