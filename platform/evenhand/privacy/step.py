"""The private step: every patient's gradient clipped as a whole, the sum noised.

Patients are streamed: the gradient of the mean loss over one patient's slices is
taken by itself, so no hooks into modules are needed and nothing that a module does
to its batch (windows, repeated prompts) can make a patient count more than once.
Clipping and scaling are Opacus', the noise is the system's. An empty draw is a step
like any other: noised and charged.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from evenhand.privacy.noise import SystemNoiseOptimizer

__all__ = ["PrivateStep", "poisson_sample"]

T = TypeVar("T")


def poisson_sample(patients: Sequence[T], rate: float) -> list[T]:
    """Draw each patient by itself with probability `rate`, from the system's randomness."""
    source = secrets.SystemRandom()
    return [patient for patient in patients if source.random() < rate]


class PrivateStep:
    """One optimiser step on clipped and noised patient gradients.

    Args:
        parameters: what is trained; all of them get noise.
        optimiser: over exactly these parameters.
        noise_multiplier: noise deviation over `clip_norm`.
        clip_norm: largest Euclidean norm of one patient's gradient.
        expected_patients: sampling rate times patients; the sum is divided by it, not
            by the number drawn, which is itself private.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        optimiser: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        clip_norm: float,
        expected_patients: float,
    ) -> None:
        self._parameters = list(parameters)
        self._optimiser = SystemNoiseOptimizer(
            optimiser,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip_norm,
            expected_batch_size=expected_patients,
            loss_reduction="mean",
        )

    def __call__(self, drawn: Sequence[T], loss: Callable[[T], Tensor]) -> None:
        """Step on the patients that were drawn.

        Args:
            drawn: may be empty.
            loss: mean loss over one patient's slices, capped in number.
        """
        self._optimiser.zero_grad()
        for parameter in self._parameters:
            parameter.summed_grad = None  # type: ignore[attr-defined]  # of a step that was broken off
        for patient in drawn[:-1]:
            self._add(patient, loss, last=False)
        if drawn:
            self._add(drawn[-1], loss, last=True)
        else:
            for parameter in self._parameters:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
            self._finish()

    def _add(self, patient: T, loss: Callable[[T], Tensor], *, last: bool) -> None:
        gradients = self._gradients(loss(patient))
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad_sample = gradient[None]  # type: ignore[attr-defined]
        if last:
            self._finish()
        else:
            self._optimiser.signal_skip_step(do_skip=True)
            self._optimiser.step()
            self._optimiser.zero_grad()

    def _gradients(self, loss: Tensor) -> Sequence[Tensor]:
        zeros = [torch.zeros_like(parameter) for parameter in self._parameters]
        if not loss.requires_grad:  # nothing that is trained touches this patient's slices
            return zeros
        gradients = torch.autograd.grad(
            loss, self._parameters, allow_unused=True, materialize_grads=True
        )
        # No clipping bounds a NaN: one patient would show through it in everybody's adapter.
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            return zeros
        return gradients

    def _finish(self) -> None:
        self._optimiser.signal_skip_step(do_skip=False)
        self._optimiser.step()
        self._optimiser.zero_grad()
