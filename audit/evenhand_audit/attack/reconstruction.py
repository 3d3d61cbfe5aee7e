"""What one update shows of one patient: gradients turned back into embeddings.

For a layer y = W x + b the gradient of any loss is dL/dW = sum of g x and dL/db = sum of g:
divided row by row, it is a weighted mean of the very inputs (Phong et al. 2018; Geiping et al.
2020). An adapter on frozen embeddings begins with such a layer, and clipping scales both
parts alike: a clipped update without noise hands out the patient's embedding. Only the noise
stands in between.

The attacker here is the strongest that one update admits: everybody else's contribution is
known and taken off, the patient was drawn, and the gallery holds the true embedding.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evenhand.errors import UsageError
from evenhand.privacy.step import PrivateStep
from evenhand_audit.attack.bounds import rate_interval
from evenhand_audit.attack.people import (
    EmbeddedPatient,
    TokenHead,
    embedded_patients,
    loss_of_slices,
)

__all__ = ["Reconstruction", "invert", "reconstruct"]


@dataclass(frozen=True)
class Reconstruction:
    """How well patients are recovered from one update each.

    Attributes:
        noise_multiplier: of the update.
        updates: patients that were attacked.
        likeness: median cosine between what was recovered and the patient's nearest slice.
        likeness_of_guess: the same for the best guess without any update: the mean embedding.
        named: share of patients whom the recovered embedding names among `gallery`, with its
            95% interval.
        gallery: patients to choose from; guessing names one in so many.
    """

    noise_multiplier: float
    updates: int
    likeness: float
    likeness_of_guess: float
    named: float
    named_low: float
    named_high: float
    gallery: int

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"named_by_guessing": 1 / self.gallery}


def reconstruct(
    noise_multiplier: float,
    *,
    patients: int = 50,
    slices: int = 4,
    size: int = 256,
    hidden: int = 0,
    clip_norm: float = 1.0,
    seed: int = 0,
    step_type: type[PrivateStep] = PrivateStep,
    on_patient: Callable[[], None] = lambda: None,
) -> Reconstruction:
    """Take one private step on each phantom alone, and turn the update back.

    Args:
        noise_multiplier: 0 for clipping alone.
        patients: phantoms, each attacked once, with all of them as the gallery.
        slices: of each.
        size: of an embedding.
        hidden: width of the head's hidden layer; 0: a linear head.
        clip_norm: of the step.
        seed: of the phantoms.
        step_type: the step that is under attack.
        on_patient: called after each patient.
    """
    if patients < 2:
        raise UsageError(f"Naming a patient needs at least 2 to choose from; got {patients}.")
    people = embedded_patients(patients, slices=slices, size=size, seed=seed)
    public = embedded_patients(200, slices=1, size=size, seed=seed + 1)
    mean = torch.cat([each.embeddings for each in public]).mean(0)
    likeness, guesses, named = [], [], 0
    for number, person in enumerate(people):
        head = TokenHead(size, hidden=hidden)
        parameters = list(head.parameters())
        step = step_type(
            parameters,
            torch.optim.SGD(parameters, lr=1.0),
            noise_multiplier=noise_multiplier,
            clip_norm=clip_norm,
            expected_patients=1.0,
        )
        update = _update_of_first_layer(head, step, person)
        found = invert(*update)
        near = torch.stack([_likeness(found - mean, each, mean) for each in people])
        named += int(near.argmax()) == number
        likeness.append(float(_likeness(found, person)))
        guesses.append(float(_likeness(mean, person)))
        on_patient()
    low, high = rate_interval(named, patients)
    return Reconstruction(
        noise_multiplier=noise_multiplier,
        updates=patients,
        likeness=float(np.median(likeness)),
        likeness_of_guess=float(np.median(guesses)),
        named=named / patients,
        named_low=low,
        named_high=high,
        gallery=patients,
    )


def invert(weight: Tensor, bias: Tensor) -> Tensor:
    """Embedding that best explains the update of a first layer, up to sign-free scale.

    Rows that moved their bias most say most: least squares over rows of weight = bias x.

    Args:
        weight: (rows, size) update of the weights.
        bias: (rows,) update of the biases.
    """
    return (bias @ weight) / bias.square().sum().clamp_min(1e-30)


def _update_of_first_layer(
    head: TokenHead, step: PrivateStep, person: EmbeddedPatient
) -> tuple[Tensor, Tensor]:
    first = head.leave if head.enter is None else head.enter
    before = [each.detach().double().clone() for each in (first.weight, first.bias)]
    step([person], lambda each: loss_of_slices(head, each))
    after = (first.weight.detach().double(), first.bias.detach().double())
    weight, bias = (a - b for a, b in zip(before, after, strict=True))
    return weight, bias


def _likeness(found: Tensor, person: EmbeddedPatient, mean: Tensor | None = None) -> Tensor:
    """Cosine to the nearest slice of a patient; without the mean embedding where it is given."""
    slices = person.embeddings.double()
    slices = slices if mean is None else slices - mean
    return F.cosine_similarity(found.double()[None], slices, dim=1).max()
