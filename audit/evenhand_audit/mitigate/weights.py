"""How often each patient is drawn in training, so that groups are served alike.

Every method gives one number a patient, with mean 1 over patients. Twice the number is drawn twice
as often.

- **reweighting** (Kamiran and Calders 2012): makes the group independent of something else that
  differs between groups, such as the hospital: P(group) P(other) / P(group and other).
- **group-balanced**: every group is drawn equally often, whatever its size.
- **group-dro** (Sagawa et al., ICLR 2020): one step of its exponentiated ascent: the share of a
  group grows with exp(step x loss). Training, scoring and weighing again makes the next step.
- **fair-error-bound**, after FairSeg (Tian et al., ICLR 2024): the group's loss over the smallest
  loss of any group, to the power gamma. FairSeg scales predictions inside the loss by the
  hyperbolic tangent of the inverse ratio, batch by batch. A table of weights is the same idea, not
  the same computation.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "METHODS",
    "fair_error_bound",
    "group_balanced",
    "group_dro",
    "reweighting",
    "with_mean_one",
]

METHODS = ("reweighting", "group-balanced", "group-dro", "fair-error-bound")
"""In the order of every table."""

SMALLEST_LOSS = 1e-3
"""A group that is served perfectly counts as if it had this loss, or ratios had no end."""

Floats = NDArray[np.float64]


def reweighting(groups: Sequence[str], other: Sequence[str]) -> Floats:
    """Weights under which group and `other` are independent; both one a patient."""
    count = len(groups)
    mine, theirs = Counter(groups), Counter(other)
    both = Counter(zip(groups, other, strict=True))
    return np.array(
        [
            mine[group] * theirs[each] / (count * both[group, each])
            for group, each in zip(groups, other, strict=True)
        ]
    )


def group_balanced(groups: Sequence[str], counts: Mapping[str, float]) -> Floats:
    """Weights under which every group is drawn equally often.

    Args:
        groups: one a patient.
        counts: patients of each group, here or over all hospitals, exact or noised.
    """
    return np.array([1.0 / max(counts[group], 1.0) for group in groups])


def group_dro(
    groups: Sequence[str],
    counts: Mapping[str, float],
    losses: Mapping[str, float],
    shares: Mapping[str, float],
    step: float,
) -> Floats:
    """Weights after one step of group DRO.

    Args:
        groups: one a patient.
        counts: as in `group_balanced`.
        losses: mean loss of each group, 0 to 1.
        shares: how large a part of the draws each group had before.
        step: how strongly shares follow losses.
    """
    grown = {group: shares[group] * np.exp(step * losses[group]) for group in counts}
    whole = sum(grown.values())
    share = {group: value / whole for group, value in grown.items()}
    return np.array([share[group] / max(counts[group], 1.0) for group in groups])


def fair_error_bound(groups: Sequence[str], losses: Mapping[str, float], gamma: float) -> Floats:
    """Weights that grow with a group's loss; arguments as in `group_dro`."""
    smallest = max(min(losses.values()), SMALLEST_LOSS)
    return np.array([(max(losses[group], smallest) / smallest) ** gamma for group in groups])


def with_mean_one(weights: Floats, largest: float) -> Floats:
    """Scale weights to mean 1, none above `largest`, which is at least 1.

    Without a limit few patients would be learnt by heart. What is cut off goes to the others.
    """
    scaled: Floats = weights / weights.mean()
    for _ in range(len(scaled)):
        over = scaled >= largest
        if over.all() or not (scaled > largest * (1 + 1e-12)).any():
            break
        scaled[over] = largest
        free = ~over
        scaled[free] *= (len(scaled) - largest * over.sum()) / scaled[free].sum()
    return scaled
