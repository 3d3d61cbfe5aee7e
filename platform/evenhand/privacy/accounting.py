"""What a series of private steps costs, by Opacus' accountants.

Costs are composed over all steps of all rounds: for 30 rounds of 10 steps (sigma
1.1, sampling rate 0.1) the epsilons of the rounds add up to 55, while the composed
figure is 9.1.

Opacus and SciPy are imported where they are used: they take seconds, which a process that prices
nothing should not wait for.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import PrivacyError

__all__ = [
    "ACCOUNTANT",
    "UNIT",
    "Mechanism",
    "default_delta",
    "epsilon_of",
    "noise_for",
    "rdp_epsilon_of",
]

ACCOUNTANT = "prv"
"""Opacus' numerical composition (Gopi et al. 2021); RDP would report 4 to 13% more."""

BEYOND_USE = 500.0
"""From this RDP epsilon on that looser figure stands: PRV would fill the memory for it."""

_ERROR, _SHARE, _SMALLEST_ERROR = 0.01, 0.005, 1e-5
"""Numerical error of the close accountant: largest, as a share of epsilon, smallest."""

_NEAR, _MOST_NOISE, _MOST_TRIES = 0.01, 1e6, 60
"""The search for noise: how near to epsilon it ends, and where it gives up."""

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
        if not 0 < self.noise_multiplier < math.inf or self.steps < 1:
            raise PrivacyError(
                "A private step needs finite noise above 0 and at least one step; got "
                f"{self.noise_multiplier} and {self.steps}."
            )


def default_delta(patients: int) -> float:
    """1 / (10 N): the usual ceiling is 1 / N. Weak for small N, and to be said so."""
    return 1 / (10 * patients)


def epsilon_of(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Epsilon of everything in `mechanisms` together; 0 for nothing.

    Equal entries are joined first: the accountant's time grows with distinct ones.

    Raises:
        PrivacyError: the accountant cannot price it, as with next to no noise.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for one in mechanisms:
        steps[(one.noise_multiplier, one.sampling_rate)] += one.steps
    if not steps:
        return 0.0
    history = [(sigma, rate, count) for (sigma, rate), count in sorted(steps.items())]
    try:
        with _numerics():
            epsilon = _price("rdp", history, delta)
            if epsilon < BEYOND_USE:
                epsilon = _close_price(history, delta, expected=epsilon)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        raise PrivacyError(
            f"The {ACCOUNTANT.upper()} accountant cannot price this at delta {delta:g} "
            f"({error}). Choose more noise, or fewer steps."
        ) from None
    if math.isnan(epsilon):
        raise PrivacyError(
            f"The {ACCOUNTANT.upper()} accountant gave no figure at delta {delta:g}. "
            "Choose more noise, or fewer steps."
        )
    return epsilon


def rdp_epsilon_of(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """A looser epsilon of everything in `mechanisms` together, within milliseconds.

    Renyi costs add up, so those of one step are kept and multiplied: what a ledger asks at
    every charge must not take the seconds that many distinct entries take with PRV.
    """
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import get_privacy_spent

    total = np.zeros(len(RDPAccountant.DEFAULT_ALPHAS))
    for one in mechanisms:
        total = total + one.steps * _renyi_of_step(one.sampling_rate, one.noise_multiplier)
    if not total.any():
        return 0.0
    with _numerics():
        epsilon, _ = get_privacy_spent(
            orders=RDPAccountant.DEFAULT_ALPHAS, rdp=total.tolist(), delta=delta
        )
    return max(0.0, float(epsilon))


@lru_cache(maxsize=1024)
def _renyi_of_step(sampling_rate: float, noise_multiplier: float) -> NDArray[np.float64]:
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import compute_rdp

    with _numerics():
        renyi = compute_rdp(
            q=sampling_rate,
            noise_multiplier=noise_multiplier,
            steps=1,
            orders=RDPAccountant.DEFAULT_ALPHAS,
        )
    return np.asarray(renyi, dtype=np.float64)


def _price(
    accountant: str, history: list[tuple[float, float, int]], delta: float, **more: float
) -> float:
    from opacus.accountants import create_accountant

    pricing = create_accountant(accountant)
    pricing.history = history
    return float(pricing.get_epsilon(delta, **more))


def _close_price(
    history: list[tuple[float, float, int]], delta: float, *, expected: float
) -> float:
    """Epsilon by the close accountant, too large by at most half a percent.

    Opacus adds its numerical error, by default 0.01, to what it found: little at epsilon 8, half
    of it at 0.02. So it is asked again with a smaller error where the first one weighs.
    """
    error = min(_ERROR, max(_SHARE * expected, _SMALLEST_ERROR))
    while True:
        epsilon = _price(ACCOUNTANT, history, delta, eps_error=error)
        wanted = max(_SHARE * (epsilon - error), _SMALLEST_ERROR)
        if error <= wanted or math.isnan(epsilon):
            return epsilon
        error = 0.9 * wanted


@lru_cache(maxsize=64)
def noise_for(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Smallest noise multiplier with which `steps` steps stay within epsilon at delta.

    Smallest to within 0.01 of epsilon, and never below. Each try costs the accountant most of a
    second, so the search starts from the limit of many steps and goes on by secants: some 4 tries,
    where halving takes 15.

    Raises:
        PrivacyError: no noise reaches it.
    """

    def cost(logarithm: float) -> float:
        history = [(math.exp(logarithm), sampling_rate, steps)]
        return _price(ACCOUNTANT, history, delta)

    try:
        with _numerics():
            guess = _first_guess(epsilon, delta, sampling_rate, steps)
            return math.exp(_searched(cost, epsilon, guess))
    except (RuntimeError, ValueError, ArithmeticError) as error:
        raise PrivacyError(
            f"No noise gives epsilon {epsilon:g} at delta {delta:g} over {steps} steps with "
            f"sampling rate {sampling_rate:g} ({error}). Choose a larger privacy.epsilon, or "
            "fewer steps."
        ) from None


def _first_guess(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Logarithm of the noise if there were infinitely many steps (Dong, Roth and Su 2019)."""
    from scipy import optimize, special

    def excess(logarithm: float) -> float:
        sigma = math.exp(logarithm)
        mu = math.sqrt(steps) / sigma
        if sampling_rate < 1:
            mu = sampling_rate * math.sqrt(steps * math.expm1(sigma**-2))
        above = special.ndtr(mu / 2 - epsilon / mu)
        return float(above - math.exp(epsilon + special.log_ndtr(-mu / 2 - epsilon / mu)) - delta)

    low, high = math.log(0.2), math.log(_MOST_NOISE)
    if not excess(low) > 0 > excess(high):
        return 0.0
    return float(optimize.brentq(excess, low, high, xtol=1e-3))


def _searched(cost: Callable[[float], float], epsilon: float, guess: float) -> float:
    """Logarithm of a noise whose cost is at most epsilon and at least epsilon less 0.01.

    Cost falls with noise, nearly as a power of it, so secants run through the logarithms of both.

    Raises:
        ValueError: none was found.
    """
    goal = math.log(max(epsilon - _NEAR / 2, epsilon / 2))
    low, high = -math.inf, math.inf
    before = math.nan, math.nan
    for _ in range(_MOST_TRIES):
        found = cost(guess)
        if epsilon - _NEAR <= found <= epsilon:
            return guess
        low, high = (low, guess) if found <= epsilon else (guess, high)
        level = math.log(found) if 0 < found < math.inf else math.nan
        slope = (level - before[1]) / (guess - before[0])
        before = guess, level
        guess += (goal - level) / (slope if slope < 0 else -1.0)
        if not low < guess < high:  # or no number
            guess = min(low + 1, high) if high == math.inf else max(low, high - 1)
            guess = (low + high) / 2 if math.isfinite(low + high) else guess
        if guess > math.log(_MOST_NOISE):
            break
    raise ValueError("the privacy budget is too low")


@contextmanager
def _numerics() -> Iterator[None]:
    """Silence what the accountant says to developers of accountants."""
    with warnings.catch_warnings():
        # Only sets the width of the numerical domain, through an RDP bound that may be loose.
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        # log(1 - q) at sampling rate 1, and exp of losses beyond the domain: both have the right
        # limit; the tests hold the result to the closed form.
        warnings.filterwarnings("ignore", "(divide by zero|overflow) encountered", RuntimeWarning)
        yield
