"""Where a model computes, and in which arithmetic: chosen by the machine, or told.

Models live on the device; cases, batches and masks on the CPU. A model takes its inputs over
itself, and whoever asks it takes the answer back.
"""

import torch

from evenhand.errors import ConfigError

__all__ = ["chosen_device", "frozen_precision"]


def chosen_device(wanted: str) -> torch.device:
    """`auto` is the first CUDA device where PyTorch has one, else the CPU.

    Raises:
        ConfigError: a CUDA device is wanted and there is none.
    """
    able = torch.cuda.is_available()
    if wanted == "cuda" and not able:
        raise ConfigError(
            "model.device asks for a CUDA device, and PyTorch finds none on this machine. Set it "
            "to auto or cpu, or install PyTorch for CUDA and a driver that fits it."
        )
    return torch.device("cpu") if wanted == "cpu" or not able else torch.device("cuda", 0)


def frozen_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Arithmetic for the frozen part: `auto` is bfloat16 where the device computes in it."""
    if wanted != "auto":
        return torch.float32 if wanted == "float32" else torch.bfloat16
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known = torch.cpu.get_capabilities()
        able = bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    return torch.bfloat16 if able else torch.float32
