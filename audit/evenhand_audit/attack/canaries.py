"""Auditing in one run with canary patients (Steinke, Nasr and Jagielski 2023).

A canary is a made-up patient whose gradient is one single coordinate, longer than the
clipping norm: the most that one patient can ever say to the model. A fair coin decides for
each whether it takes part, in the same private steps as the other patients. Afterwards the
attacker, who sees the model before and after, guesses the coins: in where the model moved
most in the canary's coordinate, out where it moved least, nothing in between.

The attacker is strong: it knows every canary, the clipping norm and all public settings. It
is not the strongest: each of the steps in between would tell it a little more.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evenhand.errors import UsageError
from evenhand.privacy.accounting import Mechanism, epsilon_of
from evenhand.privacy.step import PrivateStep
from evenhand_audit.attack.bounds import epsilon_lower_bound
from evenhand_audit.attack.people import TokenHead, embedded_patients, loss_of_slices

__all__ = ["CanaryAudit", "audit_in_one_run", "bound_of_scores", "guesses_for"]

AUDIT_DELTA = 1e-5
"""Delta at which promise and proof are compared, where the claim's own is larger.

One mechanism has an epsilon for every delta. A proof from m canaries must allow for 2 m delta
of bad luck, so at a small hospital's delta, such as 1/120, hundreds of canaries prove nothing.
"""

LONGER = 10.0
"""Length of a canary's gradient over the clipping norm: it is always clipped."""

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Fractions of the canaries about which guesses may be made."""


@dataclass(frozen=True)
class CanaryAudit:
    """One audit.

    Attributes:
        mechanism: what was run, with the noise that was promised.
        canaries: how many coins were thrown.
        guesses: about how many the attacker said something; fixed beforehand.
        correct: right guesses.
        delta: at which the two epsilons below are compared.
        epsilon_claimed: the accountant's, at that delta.
        epsilon_proven: what the guesses rule out everything below of.
        confidence: of the proof, for this audit alone.
    """

    mechanism: Mechanism
    canaries: int
    guesses: int
    correct: int
    delta: float
    epsilon_claimed: float
    epsilon_proven: float
    confidence: float

    @property
    def holds(self) -> bool:
        """Whether the proof leaves the promise standing."""
        return self.epsilon_proven <= self.epsilon_claimed

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"holds": self.holds}


@dataclass(frozen=True)
class _Canary:
    """A patient of one slice, whose loss is linear in one number of the model."""

    coordinate: int

    def __len__(self) -> int:
        return 1


def audit_in_one_run(
    mechanism: Mechanism,
    *,
    canaries: int = 400,
    patients: int = 20,
    delta: float = AUDIT_DELTA,
    confidence: float = 0.95,
    clip_norm: float = 1.0,
    seed: int | None = None,
    step_type: type[PrivateStep] = PrivateStep,
    on_step: Callable[[], None] = lambda: None,
) -> CanaryAudit:
    """Train once with canaries among phantoms, and guess which canaries took part.

    Args:
        mechanism: rate, noise and steps of the promise.
        canaries: made-up patients with a coin each.
        patients: phantoms who take part in any case.
        delta: see `AUDIT_DELTA`.
        confidence: of the bound.
        clip_norm: of the steps; the promise does not depend on it.
        seed: of coins and phantoms; None: fresh ones.
        step_type: the step that is under audit.
        on_step: called after each step.
    """
    if canaries < 10:
        raise UsageError(f"An audit needs at least 10 canaries; got {canaries}.")
    source = np.random.default_rng(seed)
    head = TokenHead(64, hidden=max(16, -(-canaries // 66)))
    parameters = list(head.parameters())
    before = _flat(parameters)
    coordinates = source.permutation(len(before))[:canaries]
    coins = source.random(canaries) < 0.5
    people: list[Any] = [_Canary(int(at)) for at in coordinates[coins]]
    people += embedded_patients(patients, seed=int(source.integers(2**31)))
    step = step_type(
        parameters,
        torch.optim.SGD(parameters, lr=1.0),
        noise_multiplier=mechanism.noise_multiplier,
        clip_norm=clip_norm,
        expected_patients=mechanism.sampling_rate * (canaries / 2 + patients),
    )

    def loss(person: Any) -> Tensor:
        if isinstance(person, _Canary):
            return LONGER * clip_norm * _number(parameters, person.coordinate)
        return loss_of_slices(head, person)

    for _ in range(mechanism.steps):
        step.sampled(
            people,
            rate=mechanism.sampling_rate,
            slices_at_most=8,
            draw=lambda person, _: person,
            loss=loss,
        )
        on_step()
    scores = (before - _flat(parameters))[coordinates].numpy().astype(np.float64)
    return bound_of_scores(mechanism, scores, coins, delta=delta, confidence=confidence)


def bound_of_scores(
    mechanism: Mechanism,
    scores: NDArray[np.float64],
    coins: NDArray[np.bool_],
    *,
    delta: float = AUDIT_DELTA,
    confidence: float = 0.95,
) -> CanaryAudit:
    """Guess `in` for the highest scores and `out` for the lowest, and say what that proves."""
    guesses = guesses_for(mechanism, len(scores), delta=delta, confidence=confidence)
    order = np.argsort(scores)
    correct = _right(coins[order], guesses)
    return CanaryAudit(
        mechanism=mechanism,
        canaries=len(scores),
        guesses=guesses,
        correct=correct,
        delta=delta,
        epsilon_claimed=epsilon_of([mechanism], delta),
        epsilon_proven=epsilon_lower_bound(
            correct, guesses=guesses, canaries=len(scores), delta=delta, confidence=confidence
        ),
        confidence=confidence,
    )


def guesses_for(mechanism: Mechanism, canaries: int, *, delta: float, confidence: float) -> int:
    """How many guesses to make, chosen before any score is seen.

    Few guesses are surer, many prove more. The choice is the best of `SHARES` in simulated
    audits of the promised mechanism, so it depends on public settings alone.
    """
    source = np.random.default_rng(0)
    trials = 16
    coins = source.random((trials, canaries)) < 0.5
    seen = source.binomial(mechanism.steps, mechanism.sampling_rate, size=coins.shape)
    noise = mechanism.noise_multiplier * mechanism.steps**0.5
    scores = coins * seen + noise * source.standard_normal(coins.shape)
    ordered = np.take_along_axis(coins, np.argsort(scores, axis=1), axis=1)
    options = sorted({max(2, 2 * round(share * canaries / 2)) for share in SHARES})
    options = [min(option, canaries - canaries % 2) for option in options]

    def proven(guesses: int) -> float:
        right = round(np.mean([_right(row, guesses) for row in ordered]))
        return epsilon_lower_bound(
            right, guesses=guesses, canaries=canaries, delta=delta, confidence=confidence
        )

    return max(options, key=lambda guesses: (proven(guesses), guesses))


def _right(ordered: NDArray[np.bool_], guesses: int) -> int:
    """Right guesses where coins stand in the order of their scores, lowest first."""
    half = guesses // 2
    return int(ordered[len(ordered) - half :].sum() + (~ordered[:half]).sum())


def _flat(parameters: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in parameters]).clone()


def _number(parameters: Sequence[Tensor], coordinate: int) -> Tensor:
    """One number of the model, by its place in all tensors put in a row."""
    for parameter in parameters:
        if coordinate < parameter.numel():
            return parameter.reshape(-1)[coordinate]
        coordinate -= parameter.numel()
    raise IndexError(coordinate)
