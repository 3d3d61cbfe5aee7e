"""How far a model's probabilities lie from what is found: the expected calibration error.

Over the voxels of a window around the tumour, probabilities are put into bins of equal width; of
each bin the mean probability and the share of tumour voxels are compared, and the absolute
differences are averaged, weighted by the voxels of each bin (Guo et al., ICML 2017, for one
class; as MONAI's `calibration_binning`). The window is the box around both masks plus a margin of
`WINDOW_MARGIN` voxels: over a whole volume the error would measure how much empty air surrounds
the patient, and a larger field of view would look better calibrated.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["CALIBRATION_BINS", "WINDOW_MARGIN", "expected_calibration_error"]

CALIBRATION_BINS = 15
"""Bins of equal width over 0 to 1."""

WINDOW_MARGIN = 10
"""Voxels around the box of both masks that count."""


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
