"""Figures that put inequality between groups into one number; definitions are named."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["equity_scaled_by_std", "equity_scaled_by_sum", "skewed_error_ratio"]

Floats = NDArray[np.float64]


def equity_scaled_by_sum(overall: Floats, groups: Floats) -> Floats:
    """I / (1 + sum over groups of |I - I_g|): FairSeg, Tian et al., ICLR 2024.

    Args:
        overall: I, mean over all patients, (...).
        groups: I_g, mean of each group, (..., groups).
    """
    scaled: Floats = overall / (1 + np.abs(groups - overall[..., None]).sum(axis=-1))
    return scaled


def equity_scaled_by_std(overall: Floats, groups: Floats) -> Floats:
    """I / (1 + std of the group means): FairMedFM, Jin et al., NeurIPS 2024.

    The standard deviation is the population's (divided by the number of groups), as in that
    project's code. Arguments as in `equity_scaled_by_sum`.
    """
    scaled: Floats = overall / (1 + groups.std(axis=-1))
    return scaled


def skewed_error_ratio(groups: Floats) -> Floats:
    """Largest over smallest group error, the error being 1 - I_g: Wang and Deng, CVPR 2020.

    1 is equality. Infinite where one group is perfect and another is not.

    Args:
        groups: I_g, mean of each group, at most 1, (..., groups).
    """
    errors = 1 - groups
    largest, smallest = errors.max(axis=-1), errors.min(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = largest / smallest
    equal: Floats = np.where(largest == smallest, 1.0, ratio)
    return equal
