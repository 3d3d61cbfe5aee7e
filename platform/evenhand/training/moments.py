"""What AdamW remembers of its gradients, kept at a hospital from one round to the next.

An optimiser that starts anew in each round takes its first steps at full length in
whatever direction its first few slices point, and hospitals drift apart by that. The
memory stays where it arose: it is never sent, and a round that is run again starts from
the same memory as before.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn, optim

from evenhand.artifacts import write_atomically
from evenhand.errors import DataError

__all__ = ["moments_of", "read_moments", "remember", "write_moments"]

_KEPT = ("step", "exp_avg", "exp_avg_sq")


def moments_of(optimiser: optim.AdamW, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copy an optimiser's memory, by name of parameter and of what is remembered."""
    return {
        f"{name}/{kind}": optimiser.state[one][kind].detach().clone()
        for name, one in parameters.items()
        if one in optimiser.state  # not one that no gradient has reached
        for kind in _KEPT
    }


def remember(
    optimiser: optim.AdamW,
    parameters: Mapping[str, nn.Parameter],
    moments: Mapping[str, Tensor],
) -> None:
    """Give an optimiser the memory that `moments_of` has copied.

    Raises:
        DataError: the memory is of other parameters.
    """
    for name, one in parameters.items():
        kept = {kind: moments.get(f"{name}/{kind}") for kind in _KEPT}
        if kept["step"] is None:
            continue
        for kind in ("exp_avg", "exp_avg_sq"):
            value = kept[kind]
            if value is None or value.shape != one.shape:
                raise DataError(
                    f"What the optimiser remembers of '{name}' does not fit this model. Delete "
                    "the hospital's folder 'moments' and run again."
                )
        optimiser.state[one] = {
            # Where the parameter is, but for the number of steps.
            kind: value.clone() if kind == "step" else value.to(one.device, copy=True)
            for kind, value in kept.items()
            if value is not None
        }


def write_moments(path: Path, moments: Mapping[str, Tensor]) -> None:
    """Write a memory whole or not at all, readable by its owner only.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    write_atomically(path, save({name: one.contiguous() for name, one in moments.items()}))


def read_moments(path: Path) -> dict[str, Tensor] | None:
    """Read a memory; None where there is none.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        moments: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError):
        raise DataError(f"'{path}' is damaged. Delete it and run again.") from None
    return moments
