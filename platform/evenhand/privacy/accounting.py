"""What a series of private steps costs, by Opacus' accountants.

Costs are composed over all steps of all rounds: for 30 rounds of 10 steps (sigma
1.1, sampling rate 0.1) the epsilons of the rounds add up to 55, while the composed
figure is 9.1.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier

from evenhand.errors import PrivacyError

__all__ = ["ACCOUNTANT", "UNIT", "Mechanism", "default_delta", "epsilon_of", "noise_for"]

ACCOUNTANT = "prv"
"""Opacus' numerical composition (Gopi et al. 2021); RDP would report 4 to 13% more."""

UNIT = "patient"
"""What one guarantee covers: all slices of all cases of one person."""


@dataclass(frozen=True)
class Mechanism:
    """The subsampled Gaussian mechanism, run `steps` times.

    Attributes:
        sampling_rate: probability that a patient takes part in a step.
        noise_multiplier: noise deviation over the clipping norm.
        steps: how often.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse what no accountant could price."""
        if not 0 < self.sampling_rate <= 1:
            raise PrivacyError(
                f"The sampling rate must be above 0 and at most 1; got {self.sampling_rate}."
            )
        if self.noise_multiplier <= 0 or self.steps < 1:
            raise PrivacyError(
                "A private step needs noise above 0 and at least one step; got "
                f"{self.noise_multiplier} and {self.steps}."
            )


def default_delta(patients: int) -> float:
    """1 / (10 N): the usual ceiling is 1 / N. Weak for small N, and to be said so."""
    return 1 / (10 * patients)


def epsilon_of(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Epsilon of everything in `mechanisms` together; 0 for nothing.

    Equal entries are joined first: the accountant's time grows with distinct ones.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for one in mechanisms:
        steps[(one.noise_multiplier, one.sampling_rate)] += one.steps
    if not steps:
        return 0.0
    accountant = create_accountant(ACCOUNTANT)
    accountant.history = [(sigma, rate, count) for (sigma, rate), count in sorted(steps.items())]
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=64)
def noise_for(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Smallest noise multiplier with which `steps` steps stay within epsilon at delta."""
    return float(
        get_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=delta,
            sample_rate=sampling_rate,
            steps=steps,
            accountant=ACCOUNTANT,
        )
    )
