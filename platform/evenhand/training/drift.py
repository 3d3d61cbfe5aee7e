"""SCAFFOLD's correction at no cost on the way: what a hospital learns from two adapters it has.

SCAFFOLD (Karimireddy 2020) sends a control variate beside each adapter, and doubles the bytes.
Scaffnew (Mishchenko 2022) learns it at the hospital: after a round the hospital compares the
adapter that comes with the one that it had sent, and steers against the difference in the next.
With `sent` y, `came` x and S the sum of the round's learning rates,

    drift <- drift + (x - y) / S,    each step: parameter <- parameter + rate * drift.

Where the same hospitals answer as before, the weighted sum of rate * drift over them is zero, so
the mean is not pushed anywhere. Where others answer it is not, so what was learned among others is
forgotten: the coordinator tells for how many rounds the hospitals have been the same (`steady`).
Here it acts on AdamW's steps, not on gradients, for which the paper's proof was made. The
correction never leaves.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["as_kept", "correct", "learn"]

_DRIFT, _SENT, _RATES = "drift", "sent", "/rates"


def learn(
    kept: Mapping[str, Tensor] | None, came: Mapping[str, Tensor], *, steady: int
) -> dict[str, Tensor]:
    """The correction for the next round; zeros where nothing was kept.

    Args:
        kept: of the round before, see `as_kept`.
        came: the common adapter.
        steady: rounds before this one in which the same hospitals were put together as are asked
            now. 0: corrections of these would not cancel, and none is made. 1: what the round
            before has taught cancels, what was known before it does not. 2 or more: both do.
    """
    if steady < 1 or kept is None or _RATES not in kept:
        return {name: torch.zeros_like(one) for name, one in came.items()}
    rates = kept[_RATES].item()
    drift = {}
    for name, one in came.items():
        known = kept[f"{name}/{_DRIFT}"] if steady > 1 else torch.zeros_like(one)
        drift[name] = known + (one - kept[f"{name}/{_SENT}"]) / rates if rates else known
    return drift


def as_kept(
    drift: Mapping[str, Tensor], sent: Mapping[str, Tensor], rates: float
) -> dict[str, Tensor]:
    """What is kept of a round: the correction used in it, what was sent, and the rates' sum."""
    kept = {f"{name}/{_DRIFT}": one for name, one in drift.items()}
    kept |= {f"{name}/{_SENT}": sent[name] for name in drift}
    return kept | {_RATES: torch.tensor(rates, dtype=torch.float64)}


def correct(
    parameters: Mapping[str, nn.Parameter], drift: Mapping[str, Tensor], rate: float
) -> None:
    """Steer against the drift after one step of the optimiser."""
    with torch.no_grad():
        for name, one in drift.items():
            parameters[name].add_(one.to(parameters[name].device), alpha=rate)
