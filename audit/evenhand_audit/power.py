"""The smallest gap that a sample could have found, so that "no gap found" is not read as "fair".

For Welch's t-test of two groups at the level that is left after the correction for all comparisons
of the report: the true difference at which the test finds it in 80% of repeats. Spread and sizes
are those of this sample.
"""

import numpy as np
from scipy import optimize, stats

__all__ = ["POWER", "detectable_gap"]

LEAST_FREEDOM = 3.0
"""Degrees of freedom under which no gap is named: critical values have no bound there."""

POWER = 0.8
"""Chance with which a gap of the named size would have been found."""


def detectable_gap(errors: tuple[float, float], counts: tuple[int, int], level: float) -> float:
    """Difference of two means that a two-sided Welch test at `level` finds with power `POWER`.

    Args:
        errors: standard errors of the two figures.
        counts: patients of the two groups, at least 2 each.
        level: of the test, such as 0.05 divided by the number of comparisons.

    Returns:
        The difference, in the figure's unit; infinite where the spread is not known or rests
        on fewer than `LEAST_FREEDOM` degrees of freedom, 0 where there is none.
    """
    variances = [error**2 for error in errors]
    error = float(np.sqrt(sum(variances)))
    if not np.isfinite(error):
        return float("inf")
    if error == 0:
        return 0.0
    freedom = error**4 / sum(
        variance**2 / (count - 1) for variance, count in zip(variances, counts, strict=True)
    )
    if freedom < LEAST_FREEDOM:
        return float("inf")
    if freedom > 300:  # normal from here on: scipy's noncentral t is slow and no different
        return error * float(stats.norm.isf(level / 2) + stats.norm.isf(1 - POWER))
    critical = float(stats.t.isf(level / 2, freedom))

    def lacks(shift: float) -> float:
        # The other tail adds less than level / 2 and nothing where the power is 80%.
        return float(stats.nct.sf(critical, freedom, shift)) - POWER

    highest = 2 * critical + 10
    if not lacks(highest) > 0:  # not a number where the noncentral t gives out
        return float("inf")
    return error * float(optimize.brentq(lacks, 0.0, highest, maxiter=100))
