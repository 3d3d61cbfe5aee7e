"""How far a model's probabilities lie from what is found, and the temperature that mends it.

Over the voxels of a window around the tumour, probabilities are put into bins of equal width; of
each bin the mean probability and the share of tumour voxels are compared, and the absolute
differences are averaged, weighted by the voxels of each bin (Guo et al., ICML 2017, for one
class; as MONAI's `calibration_binning`). The window is the box around both masks plus a margin of
`WINDOW_MARGIN` voxels: over a whole volume the error would measure how much empty air surrounds
the patient, and a larger field of view would look better calibrated.

A temperature divides logits (the same paper): one number, which leaves every mask at 0.5 as it is.
It is fitted to voxels of the same window, counted by logit, so that many cases cost no memory.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from evenhand.metrics.surfaces import crop_to_masks

__all__ = [
    "CALIBRATION_BINS",
    "LOGIT_EDGES",
    "WINDOW_MARGIN",
    "calibration_window",
    "expected_calibration_error",
    "fit_temperature",
    "logit_counts",
    "logit_loss",
]

CALIBRATION_BINS = 15
"""Bins of equal width over 0 to 1."""

WINDOW_MARGIN = 10
"""Voxels around the box of both masks that count."""

LOGIT_EDGES = np.linspace(-12, 12, 241)
"""Borders of the bins of logits in which voxels are counted."""

TEMPERATURES = (0.3, 5.0)
"""Between these one is looked for."""


def calibration_window(box: tuple[slice, ...]) -> tuple[slice, ...]:
    """Grow a box of masks by `WINDOW_MARGIN`: where probabilities are held against what is found.

    Args:
        box: from `evenhand.metrics.surfaces.crop_to_masks`.
    """
    return tuple(
        slice(max(part.start - WINDOW_MARGIN, 0), part.stop + WINDOW_MARGIN) for part in box
    )


def expected_calibration_error(
    probability: NDArray[np.floating], reference: NDArray[np.bool_], *, bins: int = CALIBRATION_BINS
) -> float:
    """Mean distance between stated and found share of tumour, weighted by voxels, 0 to 1.

    Args:
        probability: of tumour at each voxel, 0 to 1.
        reference: same shape.
        bins: how many; a probability of 1 belongs to the last one.
    """
    stated = probability.ravel().astype(np.float64)
    which = np.minimum((stated * bins).astype(np.int64), bins - 1)
    voxels = np.bincount(which, minlength=bins)
    stated_sum = np.bincount(which, weights=stated, minlength=bins)
    found_sum = np.bincount(which, weights=reference.ravel(), minlength=bins)
    # |mean stated - share found| x voxels / all voxels; the voxels of a bin cancel out.
    return float(np.abs(stated_sum - found_sum).sum() / voxels.sum())


def logit_counts(
    probability: NDArray[np.floating], reference: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Count voxels by logit, in the window around both masks.

    Args:
        probability: (i, j, k) of tumour, under a temperature of 1.
        reference: (i, j, k), 0 and 1.

    Returns:
        (2, bins): all voxels, and those of the tumour. Zeros where both masks are empty.
    """
    inside = (reference > 0) | (probability > 0.5)
    if not inside.any():
        return np.zeros((2, len(LOGIT_EDGES) - 1), np.int64)
    window = calibration_window(crop_to_masks(inside))
    p = probability[window].astype(np.float64).clip(1e-5, 1 - 1e-5).ravel()
    logits = np.log(p / (1 - p))
    tumour = logits[reference[window].ravel() > 0]
    return np.stack([np.histogram(values, LOGIT_EDGES)[0] for values in (logits, tumour)])


def logit_loss(counts: NDArray[np.number], temperature: float) -> float:
    """Mean cross-entropy of voxels counted by `logit_counts`, under a temperature."""
    logits = (LOGIT_EDGES[1:] + LOGIT_EDGES[:-1]) / 2 / temperature
    voxels, tumour = counts
    return float((np.logaddexp(0, logits) * voxels - logits * tumour).sum() / voxels.sum())


def fit_temperature(counts: NDArray[np.number]) -> float:
    """The temperature, 0.3 to 5, under which the counted voxels have the least cross-entropy.

    Raises:
        ValueError: nothing was counted.
    """
    if not counts[0].sum():
        raise ValueError("no voxel to fit a temperature to")
    found = minimize_scalar(lambda t: logit_loss(counts, t), bounds=TEMPERATURES, method="bounded")
    return float(found.x)
