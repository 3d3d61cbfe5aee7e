"""The training loop: without privacy here, with it in `training.private`."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evenhand.config import TrainingConfig
from evenhand.errors import DataError
from evenhand.model.adapted import AdaptedModel
from evenhand.training import drift as drifting
from evenhand.training.data import Batch, TrainingPatient, draw
from evenhand.training.loss import adapter_loss
from evenhand.training.moments import moments_of, remember
from evenhand.training.patient_weights import epoch_order, read_patient_weights
from evenhand.training.personal import stays
from evenhand.training.resume import KeptTraining

__all__ = ["Schedule", "TrainingReport", "loss_of", "train"]

WARM_UP = 0.05
"""Share of all steps over which the learning rate rises."""


@dataclass(frozen=True)
class Schedule:
    """Where in the whole training this piece lies, from `start` to `end` (0 to 1).

    A hospital that trains one round of several runs a piece of one common schedule:
    the learning rate rises over the first 5% and falls as a half cosine to zero.
    """

    learning_rate: float
    start: float = 0.0
    end: float = 1.0

    def at(self, fraction: float) -> float:
        """Learning rate when `fraction` (0 to 1) of this piece is done."""
        progress = self.start + (self.end - self.start) * fraction
        if progress < WARM_UP:
            return self.learning_rate * max(progress / WARM_UP, 0.02)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def mean(self) -> float:
        """Mean learning rate of this piece, whoever takes how many steps in it.

        By the midpoint rule with 1000 points, so equal bit for bit wherever it is computed.
        """
        return math.fsum(self.at((point + 0.5) / 1000) for point in range(1000)) / 1000


@dataclass(frozen=True)
class TrainingReport:
    """What a piece of training did: mean losses of its first and last quarter, seconds.

    `moments` is what the optimiser remembers at its end, see `evenhand.training.moments`.
    """

    steps: int
    patients: int
    first_loss: float
    last_loss: float
    seconds: float
    moments: dict[str, Tensor] = field(repr=False)


def loss_of(model: AdaptedModel, batch: Batch) -> Tensor:
    """Loss of a batch, computed where the model lies, in the precision that it trains in."""
    precision, kind = model.training_precision, model.device.type
    with torch.autocast(kind, dtype=precision, enabled=precision is not torch.float32):
        return adapter_loss(model, batch)


def train(
    model: AdaptedModel,
    patients: Sequence[TrainingPatient],
    config: TrainingConfig,
    *,
    epochs: int,
    schedule: Schedule,
    seed: int,
    proximal: float = 0.0,
    moments: Mapping[str, Tensor] | None = None,
    drift: Mapping[str, Tensor] | None = None,
    free: Sequence[str] = (),
    kept: KeptTraining | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> TrainingReport:
    """Train all of the adapter with AdamW; without weights every epoch sees every patient once.

    Args:
        model: its adapter is changed in place.
        patients: at least one.
        config: batch composition and weight decay.
        epochs: passes over the patients.
        schedule: of the learning rate.
        seed: of the order, the slices and the jitter.
        proximal: weight of half the squared distance from where this piece starts, which is
            added to the loss (FedProx); 0: none.
        moments: what the optimiser remembered at the end of the piece before; None: nothing.
        drift: what this piece is corrected by, see `evenhand.training.drift`; None: nothing.
        free: patterns of tensors that nothing is held to: there is no common one.
        kept: where it is kept epoch by epoch, and goes on from after a stop; None: nowhere.
        advance: told 1 after each step, and how many were kept.

    Raises:
        DataError: there is no patient, or `moments` are of another model.
    """
    if not patients:
        raise DataError("There is no patient to train on; lower data.test_fraction or add cases.")
    started = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    named = model.choose_trainable()
    parameters = list(named.values())
    optimiser = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, weight_decay=config.weight_decay
    )
    if moments is not None:
        remember(optimiser, named, moments)
    weights = read_patient_weights(config.patient_weights, [each.patient_id for each in patients])
    per_epoch = math.ceil(len(patients) / config.patients_per_step)
    steps = epochs * len(torch.arange(len(patients)).chunk(per_epoch))
    rates = [schedule.at(step / (epochs * per_epoch)) for step in range(steps)]
    held = [one for name, one in named.items() if not stays(name, free)] if proximal else []
    start = [one.detach().clone() for one in held]
    model.train()
    torch.manual_seed(seed)  # of dropout
    kept = kept or KeptTraining(None)
    if losses := kept.load(model, optimiser, named, generator):
        advance(len(losses))
    for _ in range(len(losses) * epochs // max(1, steps), epochs):
        order = epoch_order(len(patients), weights, generator)
        for chosen in order.chunk(per_epoch):
            rate = rates[len(losses)]
            for group in optimiser.param_groups:
                group["lr"] = rate
            image_size = model.config.image_size
            parts = [
                draw(
                    patients[i],
                    config,
                    generator,
                    image_size=image_size,
                    hints=model.config.head_hints,
                )
                for i in chosen.tolist()
            ]
            loss = loss_of(model, Batch.join(parts))
            optimiser.zero_grad()
            if loss.requires_grad:  # not where no drawn slice touches what is trained
                loss.backward()  # type: ignore[no-untyped-call]
            if proximal:
                _pull_back(held, start, proximal)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            if drift is not None:
                drifting.correct(named, drift, rate / sum(rates))
            losses.append(loss.item())
            advance(1)
        kept.keep(model, optimiser, named, generator, losses)
    model.eval()
    quarter = max(1, len(losses) // 4)
    return TrainingReport(
        steps=len(losses),
        patients=len(patients),
        first_loss=sum(losses[:quarter]) / quarter,
        last_loss=sum(losses[-quarter:]) / quarter,
        seconds=time.monotonic() - started,
        moments=moments_of(optimiser, named),
    )


def _pull_back(parameters: Sequence[Tensor], start: Sequence[Tensor], weight: float) -> None:
    """Add the gradient of `weight` / 2 times the squared distance from the start."""
    for one, first in zip(parameters, start, strict=True):
        pull = weight * (one.detach() - first)
        one.grad = pull if one.grad is None else one.grad + pull
