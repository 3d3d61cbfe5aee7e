"""Gaps between like patients: hospital and tumour volume held equal.

A linear mixed model (statsmodels' MixedLM, REML): the patient's figure on the groups, the logarithm
of the reference volume and, where the table has it, tumour grade, with a random intercept for each
hospital. It answers another question than the plain gap: would two patients of the same hospital,
with tumours of the same size, be served equally?

The two groups are those that lie furthest apart before anything is held equal. They were picked
among all pairs, so interval and p-value hold for all pairs of groups at once (Bonferroni). Another
pair may lie further apart between like patients.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evenhand_audit.resampling import LEVEL

__all__ = ["Adjusted", "Covariates", "adjusted_gap"]

SPARE = 8
"""Patients beyond the model's parameters that a fit must have; with fewer it says nothing."""

Floats = NDArray[np.float64]
Labels = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Covariates:
    """What is held equal, of each patient."""

    hospital: Labels
    """(patients,)"""
    volume: Floats
    """Of the reference, in the table's unit, (patients,)."""
    grade: Labels | None = None
    """(patients,)"""


@dataclass(frozen=True)
class Adjusted:
    """The gap that is left when hospitals, volumes and grades are held equal."""

    value: float | None
    """Best minus worst group of the plain gap, so it can be negative; None: could not be fitted."""
    low: float | None
    high: float | None
    """95% interval, for all pairs of groups at once."""
    p_value: float | None
    """Likewise."""
    held_equal: tuple[str, ...]
    """What was held equal, in words."""
    note: str
    """How it was fitted, or why it could not be; a sentence."""
    pairs: int = 1
    """Of groups, among which this one was picked."""


def adjusted_gap(
    values: Floats,
    labels: Sequence[str],
    pair: tuple[str, str],
    covariates: Covariates,
    *,
    hospital_is_compared: bool = False,
    grade_is_compared: bool = False,
) -> Adjusted:
    """Estimate the difference between two groups among like patients.

    Args:
        values: one figure of each patient, (patients,).
        labels: published group of each patient.
        pair: the group that should be better, and the other.
        covariates: what is held equal.
        hospital_is_compared: the groups are hospitals, so hospital is not held equal.
        grade_is_compared: the groups are grades, likewise.
    """
    groups = np.asarray(labels, dtype=object)
    columns = [(groups == name).astype(float) for name in sorted(set(labels)) if name != pair[1]]
    first = [name for name in sorted(set(labels)) if name != pair[1]].index(pair[0])
    extra, held = _held_equal(covariates, with_grade=not grade_is_compared)
    hospitals = None if hospital_is_compared else covariates.hospital
    if hospitals is not None and len(set(hospitals)) > 1:
        held.insert(0, "hospital")
    else:
        hospitals = None
    matrix = np.column_stack([columns[first], *columns[:first], *columns[first + 1 :], *extra])
    refusal = _refusal(matrix, hospitals, values)
    pairs = math.comb(len(set(labels)), 2)
    if refusal:
        return Adjusted(None, None, None, None, tuple(held), refusal, pairs)
    value, error, freedom, note = _fit(values, matrix, hospitals)
    level = 1 - (1 - LEVEL) / pairs
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    tail = float(2 * stats.t.sf(abs(value) / error, freedom)) if error > 0 else 1.0
    p_value = min(1.0, pairs * tail)
    return Adjusted(value, value - reach, value + reach, p_value, tuple(held), note, pairs)


def _held_equal(covariates: Covariates, *, with_grade: bool) -> tuple[list[Floats], list[str]]:
    """Columns of volume and grade that vary, and their names."""
    columns, names = [], []
    volume = np.log1p(covariates.volume)
    if np.ptp(volume) > 0:
        columns.append((volume - volume.mean()) / volume.std())
        names.append("tumour volume")
    if with_grade and covariates.grade is not None and len(set(covariates.grade)) > 1:
        columns += [
            (covariates.grade == level).astype(float) for level in sorted(set(covariates.grade))[1:]
        ]
        names.append("grade")
    return columns, names


def _refusal(matrix: Floats, hospitals: Labels | None, values: Floats) -> str:
    """Say why no adjusted gap can be given; empty where one can."""
    if np.ptp(values) == 0:
        return "All patients have the same figure, so there is nothing to adjust."
    full = _with_intercepts(matrix, hospitals)
    if len(values) < full.shape[1] + SPARE:
        return (
            f"{len(values)} patients are too few to hold hospital and tumour size equal; the gap "
            "is not adjusted."
        )
    if np.linalg.matrix_rank(full) == np.linalg.matrix_rank(np.delete(full, 0, axis=1)):
        return (
            "The two groups cannot be told apart from hospital or grade: within a hospital there "
            "is one of them only. The gap is not adjusted, and may be one of hospitals."
        )
    return ""


def _with_intercepts(matrix: Floats, hospitals: Labels | None) -> Floats:
    """Return the matrix with an intercept for everybody, or one for each hospital."""
    if hospitals is None:
        return np.column_stack([matrix, np.ones(len(matrix))])
    return np.column_stack([matrix, *(hospitals == name for name in sorted(set(hospitals)))])


def _fit(values: Floats, matrix: Floats, hospitals: Labels | None) -> tuple[float, float, int, str]:
    """Difference, its standard error, degrees of freedom, and how it was fitted."""
    import statsmodels.api as sm

    design = np.column_stack([matrix, np.ones(len(values))])
    if hospitals is not None:
        mixed = _mixed(values, design, hospitals)
        if mixed is not None:
            freedom = len(values) - design.shape[1] - len(set(hospitals)) + 1
            return (*mixed, freedom, "Mixed model, hospitals as a random effect.")
        design = _with_intercepts(matrix, hospitals)
        note = "The mixed model could not be fitted; hospitals were held equal one by one instead."
    else:
        note = "Linear model, without a hospital effect."
    plain = sm.OLS(values, design).fit(cov_type="HC3")
    freedom = len(values) - int(np.linalg.matrix_rank(design))
    return float(plain.params[0]), float(plain.bse[0]), freedom, note


def _mixed(values: Floats, design: Floats, hospitals: Labels) -> tuple[float, float] | None:
    """Difference and standard error from the mixed model; None where it could not be fitted.

    A hospital variance of 0 is a valid fit (hospitals do not differ beyond noise), although
    statsmodels warns of it; what counts is that the fixed effects have finite errors.
    """
    import statsmodels.api as sm

    spread = float(values.std())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fitted = sm.MixedLM(values / spread, design, groups=hospitals).fit(
                reml=True, method=["lbfgs", "powell"]
            )
            value, error = float(fitted.fe_params[0]), float(fitted.bse_fe[0])
        except (np.linalg.LinAlgError, ValueError, FloatingPointError):
            return None
    if not (fitted.converged and np.isfinite([value, error]).all() and error > 0):
        return None
    return value * spread, error * spread
