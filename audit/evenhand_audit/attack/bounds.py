"""What guesses prove about epsilon, and intervals for rates and for AUC.

`epsilon_lower_bound` is theorem 5.2 of Steinke, Nasr and Jagielski (2023, "Privacy auditing
with one (1) training run", arXiv 2305.08846): each of m canaries is in or out by a fair coin,
the auditor guesses r of the coins and abstains from the rest. Under (epsilon, delta) the
number of right guesses is hardly larger than a binomial of r with probability
e^epsilon / (1 + e^epsilon). So 20 right guesses of 20 prove only epsilon >= 1.82 at 95%.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

__all__ = [
    "auc_interval",
    "auc_of",
    "epsilon_lower_bound",
    "guess_p_value",
    "largest_tpr",
    "rate_interval",
]

LARGEST_EPSILON = 64.0
"""Nothing above is looked for; to prove it would take more canaries than there are patients."""


def guess_p_value(
    correct: int, *, guesses: int, canaries: int, epsilon: float, delta: float
) -> float:
    """Largest chance of so many right guesses under (epsilon, delta).

    Args:
        correct: right guesses, 0 to `guesses`.
        guesses: how many were to be made; fixed before looking at the scores.
        canaries: all of them, also those that no guess was made about.
        epsilon: of the hypothesis.
        delta: of the hypothesis.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError("right guesses <= guesses <= canaries must hold")
    right = special.expit(epsilon)
    tail = float(stats.binom.sf(correct - 1, guesses, right))
    if delta == 0 or correct == 0:
        return min(1.0, tail)
    # below[i - 1] is the chance that the binomial lies in [correct - i, correct)
    below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    steepest = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, tail + 2 * canaries * delta * steepest)


def epsilon_lower_bound(
    correct: int, *, guesses: int, canaries: int, delta: float, confidence: float
) -> float:
    """Largest epsilon that these guesses rule out at `confidence`; 0 where they rule out none.

    The true epsilon at `delta` is at least this with that confidence, for one audit. Whoever
    looks at n audits and wants all to hold takes 1 - (1 - confidence) / n for each.
    """

    def excess(epsilon: float) -> float:
        chance = guess_p_value(
            correct, guesses=guesses, canaries=canaries, epsilon=epsilon, delta=delta
        )
        return chance - (1 - confidence)

    if guesses == 0 or excess(0.0) > 0:
        return 0.0
    low, high = 0.0, 0.25
    while excess(high) <= 0:
        low, high = high, 2 * high
        if low >= LARGEST_EPSILON:
            return low
    for _ in range(50):  # to the side on which the hypothesis is still refuted
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) <= 0 else (low, middle)
    return low


def rate_interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval for a rate; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    alpha = (1 - confidence) / 2
    low = float(stats.beta.ppf(alpha, hits, trials - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - alpha, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def auc_of(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Chance that a member scores above a non-member; ties count half."""
    ranks = stats.rankdata(np.concatenate([members, others]))
    above = ranks[: len(members)].sum() - len(members) * (len(members) + 1) / 2
    return float(above / (len(members) * len(others)))


def auc_interval(
    auc: float, members: int, others: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Newcombe's interval (2006, method 5): a score interval, so never a point, also at 0 or 1."""
    z = float(stats.norm.ppf((1 + confidence) / 2))
    half = (members + others) / 2 - 1

    def distance(true: float) -> float:
        spread = 1 + half * ((1 - true) / (2 - true) + true / (1 + true))
        return (auc - true) ** 2 - z**2 * true * (1 - true) * spread / (members * others)

    beside = 1e-9  # at 0 and 1 the observed value is a root too, and not the one wanted
    low = optimize.brentq(distance, 0, auc - beside) if auc > 0 else 0.0
    high = optimize.brentq(distance, auc + beside, 1) if auc < 1 else 1.0
    return float(low), float(high)


def largest_tpr(fpr: float, *, epsilon: float, delta: float) -> float:
    """Most members that any attack can find at this false positive rate, by the promise."""
    steep = math.exp(min(epsilon, 700.0)) * fpr + delta
    flat = 1 - math.exp(-epsilon) * (1 - delta - fpr)
    return max(0.0, min(1.0, steep, flat))
