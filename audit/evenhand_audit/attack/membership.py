"""Who took part? Membership inference with the patient as the unit.

Two attacks. **Loss threshold** (Yeom et al. 2018): a model fits those that it was trained on
better. **Likelihood ratio** (LiRA, Carlini et al. 2022): the same, after asking how a model
that never saw this patient, or did, would have fitted this very patient. Online, with models
trained with and without the patient, on phantoms; offline, with whatever other adapters a
finished run holds, where patients are real and cannot be trained on again and again.

What counts is not the average (AUC) but how many members are found at a low rate of false
alarms: an attacker who is sure of three patients has harmed three patients.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evenhand.errors import UsageError
from evenhand.privacy.accounting import Mechanism
from evenhand_audit.attack.bounds import auc_interval, auc_of, rate_interval
from evenhand_audit.attack.people import TokenHead, embedded_patients, train_head

__all__ = [
    "FALSE_ALARMS",
    "Membership",
    "OperatingPoint",
    "attack_phantoms",
    "likelihood_ratios",
    "membership_of",
    "offline_scores",
]

FALSE_ALARMS = (0.01, 0.001)
"""False positive rates at which members found are reported."""

SMALLEST_SPREAD = 1e-3
"""Floor of a standard deviation: with few models one can come out as zero by chance."""


@dataclass(frozen=True)
class OperatingPoint:
    """How many members are found at a rate of false alarms.

    Attributes:
        false_alarms: wanted rate.
        found: members above the threshold, as a rate, with its 95% interval.
        alarms: non-members above the threshold; the largest number that keeps to the rate.
        measurable: whether there are non-members enough to see such a rate at all.
    """

    false_alarms: float
    found: float
    low: float
    high: float
    alarms: int
    measurable: bool


@dataclass(frozen=True)
class Membership:
    """What one attack found.

    Attributes:
        attack: its name.
        members: scores of members (patients, or patients times models).
        others: scores of non-members.
        auc: with its 95% interval; 0.5 is guessing.
        points: one for each of `FALSE_ALARMS`.
    """

    attack: str
    members: int
    others: int
    auc: float
    auc_low: float
    auc_high: float
    points: tuple[OperatingPoint, ...]

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def membership_of(
    attack: str, members: NDArray[np.float64], others: NDArray[np.float64]
) -> Membership:
    """Judge scores, higher for whom the attack takes for a member.

    The interval of a rate takes the threshold as given; with few non-members it is itself
    uncertain, which the number of non-members shows.
    """
    if len(members) < 2 or len(others) < 2:
        raise UsageError(
            "Membership inference needs at least two patients who took part and two who did "
            f"not; got {len(members)} and {len(others)}."
        )
    auc = auc_of(members, others)
    low, high = auc_interval(auc, len(members), len(others))
    points = tuple(_point(members, others, rate) for rate in FALSE_ALARMS)
    return Membership(attack, len(members), len(others), auc, low, high, points)


def _point(
    members: NDArray[np.float64], others: NDArray[np.float64], rate: float
) -> OperatingPoint:
    allowed = int(rate * len(others) + 1e-9)
    threshold = np.sort(others)[::-1][allowed]  # this one and those below raise no alarm
    hits = int((members > threshold).sum())
    low, high = rate_interval(hits, len(members))
    alarms = int((others > threshold).sum())
    return OperatingPoint(rate, hits / len(members), low, high, alarms, len(others) * rate >= 1)


def attack_phantoms(
    mechanism: Mechanism,
    *,
    patients: int = 40,
    models: int = 16,
    private: bool = True,
    learning_rate: float = 1.0,
    size: int = 64,
    seed: int = 0,
    on_model: Callable[[], None] = lambda: None,
) -> tuple[Membership, Membership]:
    """Train many models, each on a random half of twice as many phantoms, and attack each.

    Returns:
        Loss threshold, and online likelihood ratio. Every model is attacked with the others as
        reference, so scores of one patient under two models are not independent: intervals
        are somewhat too narrow.
    """
    if models < 4 or patients < 2:
        raise UsageError(
            "The attack on phantoms needs at least 4 models and 2 patients; got "
            f"{models} and {patients}."
        )
    pool = embedded_patients(2 * patients, size=size, seed=seed)
    source = np.random.default_rng(seed)
    taken = np.zeros((models, len(pool)), dtype=np.bool_)
    for row in taken:  # balanced for every model, at random otherwise
        row[source.permutation(len(pool))[:patients]] = True
    fits, losses = np.empty(taken.shape), np.empty(taken.shape)
    for number, row in enumerate(taken):
        head = TokenHead(size, hidden=16)
        members = [each for each, used in zip(pool, row, strict=True) if used]
        train_head(head, members, mechanism, learning_rate=learning_rate, private=private)
        with torch.no_grad():
            for column, each in enumerate(pool):
                signed = head(each.embeddings) * (2 * each.labels - 1)
                fits[number, column] = float(signed.mean())  # log p / (1 - p) of the truth
                losses[number, column] = float(torch.nn.functional.softplus(-signed).mean())
        on_model()
    ratios = likelihood_ratios(fits, taken)
    usable = np.isfinite(ratios)
    return (
        membership_of("loss threshold", -losses[taken], -losses[~taken]),
        membership_of("likelihood ratio, online", ratios[taken & usable], ratios[~taken & usable]),
    )


def likelihood_ratios(fits: NDArray[np.float64], taken: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Log likelihood ratio of `was in` to `was out`, of each patient under each model.

    Gaussian fits with a mean a patient and, as there are few models, two spreads over all
    patients (Carlini et al. 2022, section VI-C). The model under attack is left out of its
    own reference. NaN where no other model had the patient in, or none had it out.

    Args:
        fits: (models, patients), how well a model fits a patient.
        taken: (models, patients), whether it was trained on that patient.
    """
    ratios = np.full(fits.shape, np.nan)
    for number in range(len(fits)):
        rest = np.arange(len(fits)) != number
        means, spreads = [], []
        for used in (taken[rest], ~taken[rest]):
            kept = np.where(used, fits[rest], np.nan)
            count = used.sum(axis=0)
            mean = np.where(count > 0, np.nansum(kept, axis=0) / np.maximum(count, 1), np.nan)
            freedom = max(int(used.sum() - (count > 0).sum()), 1)
            spread = float(np.sqrt(np.nansum((kept - mean) ** 2) / freedom))
            means.append(mean)
            spreads.append(max(spread, SMALLEST_SPREAD))
        far = [(fits[number] - m) / s for m, s in zip(means, spreads, strict=True)]
        ratios[number] = (far[1] ** 2 - far[0] ** 2) / 2 + np.log(spreads[1] / spreads[0])
    return ratios


def offline_scores(
    target: Sequence[float], references: Sequence[Sequence[float]]
) -> NDArray[np.float64]:
    """Offline likelihood ratio: how much better than expected the model fits each patient.

    Args:
        target: loss of each patient under the adapter that is attacked.
        references: for each patient, losses under adapters that never saw that patient; at
            least one each.

    Returns:
        Expected loss minus loss, over the spread of references that all patients share where
        any has two; a common factor changes no ranking.
    """
    if not all(len(each) for each in references) or len(references) != len(target):
        raise UsageError("The likelihood ratio needs a reference adapter for every patient.")
    expected = np.array([np.mean(each) for each in references])
    rest = [np.asarray(each) - np.mean(each) for each in references if len(each) > 1]
    freedom = sum(len(each) - 1 for each in rest)
    spread = float(np.sqrt(sum((each**2).sum() for each in rest) / freedom)) if freedom else 1.0
    return np.asarray((expected - np.asarray(target)) / max(spread, SMALLEST_SPREAD))
