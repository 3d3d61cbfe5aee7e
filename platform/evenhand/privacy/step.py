"""The private step: every patient's gradient clipped as a whole, the sum noised.

What makes the promise, in the order in which it happens:

1. Patients are drawn, each by an own coin (`evenhand.privacy.sampling`).
2. Of each one at most so many slices are drawn, and the gradient of the mean loss over them
   is taken by itself. Patients are streamed, without hooks into modules, so nothing that a
   module does to its batch (windows, repeated prompts) can make a patient count twice.
3. That gradient, over all trained tensors together, is scaled down to the clipping norm C
   where it is longer, put onto a grid of step sigma C / 2^40, and rounded towards zero.
   Rounding so shortens every coordinate: the length stays at most C, exactly.
4. The integers are added up, which is exact in any order, and each gets integer Gaussian
   noise of deviation 2^40, that is sigma C (`evenhand.privacy.noise`).
5. The sum, back in gradient's units, is divided by the number of patients that were to be
   expected, never by the number drawn, and the optimiser steps on it.

An empty draw is a step like any other: noised and charged. A gradient with NaN counts as
zero: no clipping bounds a NaN, and one patient would show through it in everybody's model.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from evenhand.errors import PrivacyError
from evenhand.privacy.noise import GRID_BITS, discrete_gaussian
from evenhand.privacy.sampling import poisson_sample

__all__ = ["NoisedSum", "PrivateStep", "poisson_sample"]

P = TypeVar("P")
S = TypeVar("S")

_SHORTER = 1 - 2.0**-30
"""Clipping aims this much below C, because float64 norms of so many numbers are rounded."""

_LARGEST_SUM = 2.0**62
"""What an int64 holds, halved: room for the noise."""


class NoisedSum:
    """A sum of vectors, one a patient, that is released with Gaussian noise on a grid.

    Args:
        size: numbers in a vector.
        noise_multiplier: noise deviation over `clip_norm`. With 0 there is no noise and no
            promise: for tests and comparisons, and no ledger can be charged for it.
        clip_norm: largest Euclidean norm of one patient's vector.
    """

    def __init__(self, size: int, *, noise_multiplier: float, clip_norm: float) -> None:
        self._clip_norm = clip_norm
        self._noised = noise_multiplier > 0
        self.grid_step = clip_norm * (noise_multiplier or 1.0) / 2**GRID_BITS
        self._total = torch.zeros(size, dtype=torch.int64)
        self._patients = 0

    def add(self, vector: Tensor, share: float = 1.0) -> None:
        """Clip one patient's vector, put it onto the grid, and add it.

        Args:
            vector: of one patient, any shape of `size` numbers.
            share: above 0 and at most 1, multiplied after clipping, so no vector gets longer.

        Raises:
            PrivacyError: so little noise was asked for that the grid's integers run out.
        """
        self._patients += 1
        if self._patients * self._clip_norm / self.grid_step > _LARGEST_SUM:
            raise PrivacyError(
                "The noise multiplier is too small for a sum over so many patients; a useful "
                "one is above 0.1."
            )
        exact = vector.detach().reshape(-1).to("cpu", torch.float64)
        norm = float(torch.linalg.vector_norm(exact))
        if not 0 < share <= 1:
            raise PrivacyError(f"A patient's share must be above 0 and at most 1; got {share}.")
        shrink = min(1.0, self._clip_norm * _SHORTER / norm) * share if norm else 1.0
        self._total += (exact * (shrink / self.grid_step)).trunc_().to(torch.int64)

    def release(self) -> Tensor:
        """The noised sum, float64 of shape (size,); to be used once."""
        if self._noised:
            self._total += torch.from_numpy(discrete_gaussian(self._total.numel()))
        noised: Tensor = self._total.to(torch.float64) * self.grid_step
        return noised


class PrivateStep:
    """One optimiser step on clipped and noised patient gradients.

    Args:
        parameters: what is trained; all of them get noise.
        optimiser: over exactly these parameters.
        noise_multiplier: noise deviation over `clip_norm`.
        clip_norm: largest Euclidean norm of one patient's gradient.
        expected_patients: sampling rate times patients; the sum is divided by it, not
            by the number drawn, which is itself private.
        share: how much of a patient's clipped gradient counts, above 0 and at most 1.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        optimiser: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        clip_norm: float,
        expected_patients: float,
        share: Callable[[Any], float] = lambda _: 1.0,
    ) -> None:
        self._parameters = list(parameters)
        self._optimiser = optimiser
        self._noise_multiplier = noise_multiplier
        self._clip_norm = clip_norm
        self._expected_patients = expected_patients
        self._share = share

    def sampled(
        self,
        patients: Sequence[P],
        *,
        rate: float,
        slices_at_most: int,
        draw: Callable[[P, int], S],
        loss: Callable[[S], Tensor],
        count: Callable[[Any], int] = len,
    ) -> None:
        """Draw patients and their slices, and step on them.

        Args:
            patients: each person once.
            rate: chance of each one to be drawn.
            slices_at_most: contribution bound.
            draw: slices of a patient, at most as many as it is told.
            loss: mean loss over drawn slices.
            count: how many slices were drawn.

        Raises:
            PrivacyError: more slices came than may be drawn; nothing is changed.
        """

        def bounded(patient: P) -> Tensor:
            slices = draw(patient, slices_at_most)
            if count(slices) > slices_at_most:
                raise PrivacyError(
                    f"More slices of a patient were drawn than the {slices_at_most} that may be."
                )
            return loss(slices)

        self(poisson_sample(patients, rate), bounded)

    def __call__(self, drawn: Sequence[P], loss: Callable[[P], Tensor]) -> None:
        """Step on the patients that were drawn.

        Args:
            drawn: each person once; may be empty.
            loss: mean loss over one patient's slices, capped in number.
        """
        total = NoisedSum(
            sum(parameter.numel() for parameter in self._parameters),
            noise_multiplier=self._noise_multiplier,
            clip_norm=self._clip_norm,
        )
        for patient in drawn:
            gradient = self._gradient(loss(patient))
            if gradient is not None:
                total.add(gradient, self._share(patient))
        mean = total.release() / self._expected_patients
        pieces = torch.split(mean, [parameter.numel() for parameter in self._parameters])
        for parameter, piece in zip(self._parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter)
        self._optimiser.step()
        self._optimiser.zero_grad()

    def _gradient(self, loss: Tensor) -> Tensor | None:
        """One patient's gradient over all tensors in a row; None where it counts as zero."""
        if not loss.requires_grad:  # nothing that is trained touches this patient's slices
            return None
        gradients = torch.autograd.grad(
            loss, self._parameters, allow_unused=True, materialize_grads=True
        )
        row = torch.cat([gradient.reshape(-1) for gradient in gradients])
        return row if bool(row.isfinite().all()) else None
