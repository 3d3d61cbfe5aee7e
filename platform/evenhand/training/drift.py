"""SCAFFOLD's correction at no cost on the way: what a hospital learns from two adapters it has.

SCAFFOLD (Karimireddy 2020) sends a control variate beside each adapter, and doubles the bytes.
Scaffnew (Mishchenko 2022) learns it at the hospital: after a round the hospital compares the
adapter that comes with the one that it had sent, and steers against the difference in the next.
With `sent` y, `came` x, `drift` what a whole round is corrected by, and R the mean learning rate of
a round by the common schedule (`evenhand.training.loop.Schedule.mean`),

    drift <- (drift + x - y) * R of this round / R of the round before,

of which each step takes its part: parameter <- parameter + drift * rate / sum of its round's rates.
With steps as many and as long in each round this is Scaffnew's rule. Written so, all hospitals
scale by the same number and each of them adds its whole drift however many steps it makes: the
weighted sum of the drifts is zero in every round, and the mean is not pushed anywhere. (Divided by
each hospital's own sum of rates it was not quite: steps of different lengths meet the schedule in
different places.)

Where hospitals take different numbers of steps, it ends where each one weighs by patients times
sum of rates, which is where FedAvg with small steps ends, too. Where others answer than before,
drifts do not cancel, so what was learned among others is forgotten: the coordinator tells for how
many rounds the hospitals have been the same (`steady`). Here it acts on AdamW's steps, not on
gradients, for which the paper's proof was made. The correction never leaves.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["as_kept", "correct", "learn"]

_DRIFT, _SENT, _MEAN_RATE = "drift", "sent", "/mean_rate"


def learn(
    kept: Mapping[str, Tensor] | None,
    came: Mapping[str, Tensor],
    *,
    steady: int,
    mean_rate: float,
) -> dict[str, Tensor]:
    """What the next round is corrected by as a whole; zeros where nothing was kept.

    Args:
        kept: of the round before, see `as_kept`.
        came: the common adapter.
        steady: rounds before this one in which the same hospitals were put together as are asked
            now. 0: corrections of these would not cancel, and none is made. 1: what the round
            before has taught cancels, what was known before it does not. 2 or more: both do.
        mean_rate: of the next round, by the schedule that all hospitals have.
    """
    if steady < 1 or kept is None or not kept.get(_MEAN_RATE, torch.zeros(())).item():
        return {name: torch.zeros_like(one) for name, one in came.items()}
    scale = mean_rate / kept[_MEAN_RATE].item()
    drift = {}
    for name, one in came.items():
        known = kept[f"{name}/{_DRIFT}"] if steady > 1 else torch.zeros_like(one)
        drift[name] = (known + one - kept[f"{name}/{_SENT}"]) * scale
    return drift


def as_kept(
    drift: Mapping[str, Tensor], sent: Mapping[str, Tensor], mean_rate: float
) -> dict[str, Tensor]:
    """What is kept of a round: what it was corrected by, what was sent, and its mean rate."""
    kept = {f"{name}/{_DRIFT}": one for name, one in drift.items()}
    kept |= {f"{name}/{_SENT}": sent[name] for name in drift}
    return kept | {_MEAN_RATE: torch.tensor(mean_rate, dtype=torch.float64)}


def correct(
    parameters: Mapping[str, nn.Parameter], drift: Mapping[str, Tensor], part: float
) -> None:
    """Steer against the drift after one step of the optimiser.

    Args:
        parameters: are changed in place.
        drift: of the whole round.
        part: of it that this step takes; those of a round add up to 1.
    """
    with torch.no_grad():
        for name, one in drift.items():
            parameters[name].add_(one.to(parameters[name].device), alpha=part)
