"""From cases to patients: one row per patient, arm and prompt, with the group of each attribute."""

import difflib
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenhand.artifacts import OPTIONAL_COLUMNS, PREDICTION_COLUMNS
from evenhand.errors import DataError, UsageError
from evenhand_audit.records import METRICS, MISSED_UNDER, OPTIONAL_METRICS, Metric
from evenhand_audit.resampling import Figure

__all__ = [
    "ATTRIBUTES",
    "LESIONS",
    "age_group_names",
    "age_groups",
    "attributes_of",
    "check_attributes",
    "figure_of",
    "group_order",
    "lesion_f1",
    "metrics_of",
    "patients_of",
]

ATTRIBUTES = ("hospital", "sex", "age_group", "race", "ethnicity")
"""What every table can be audited by."""

UNKNOWN = "unknown"

AMOUNT = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
CUT = re.compile(rf"(?P<under>under )?(?P<low>{AMOUNT})(?: to under {AMOUNT}| and over)?")
"""Names that `age_group_names` and the bins of an intake give, and plain numbers."""

LESIONS = ("lesions_reference", "lesions_found", "lesions_predicted", "lesions_predicted_true")
"""Counts of a case, which add up over the cases of a patient."""

FROM_LESIONS = ("missed_lesions", "false_lesions", "lesion_f1")
"""Metrics that follow from them."""


def attributes_of(table: pd.DataFrame) -> tuple[str, ...]:
    """What this table can be audited by: what every table has, and its own further columns."""
    own = (str(column) for column in table.columns)
    known = {*PREDICTION_COLUMNS, *OPTIONAL_COLUMNS}
    return (*ATTRIBUTES, *(column for column in own if column not in known))


def check_attributes(attributes: Sequence[str], known: Sequence[str] = ATTRIBUTES) -> None:
    """Refuse attributes that a prediction table does not have, and repeats.

    Raises:
        UsageError: names the attribute and the nearest known one.
    """
    for attribute in attributes:
        if attribute not in known:
            near = difflib.get_close_matches(attribute, known, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}."
            raise UsageError(f"A table cannot be audited by '{attribute}'; {hint}")
    if len(set(attributes)) < len(attributes):
        raise UsageError("An attribute is named twice in audit.attributes; name each once.")


def age_group_names(edges: Sequence[float]) -> tuple[str, ...]:
    """Name the groups that rising `edges` cut; each edge belongs to the group above it."""
    if not edges:
        return ("all ages",)
    between = (f"{low:g} to under {high:g}" for low, high in itertools.pairwise(edges))
    return (f"under {edges[0]:g}", *between, f"{edges[-1]:g} and over")


def group_order(attribute: str, present: Sequence[str], edges: Sequence[float]) -> list[str]:
    """Sort groups for a reader: cut numbers by size, others by name, unknown last."""
    known = (
        list(age_group_names(edges))
        if attribute == "age_group"
        else sorted(set(present), key=_by_size)
    )
    return [group for group in known if group in present and group != UNKNOWN] + (
        [UNKNOWN] if UNKNOWN in present else []
    )


def _by_size(group: str) -> tuple[float, str]:
    """Sort key: where a group of cut numbers begins; everything else by name, after them."""
    found = CUT.fullmatch(group)
    if found is None:
        return float("inf"), group
    return (float("-inf") if found["under"] else float(found["low"])), group


def patients_of(
    cases: pd.DataFrame, attributes: Sequence[str], edges: Sequence[float]
) -> pd.DataFrame:
    """Put the cases of each patient of one arm and prompt together.

    Args:
        cases: rows of a prediction table with one arm and one prompt.
        attributes: what the patients are grouped by.
        edges: ages at which age groups are cut; a patient's age is that at the first case.

    Returns:
        One row a patient: `patient`, the metrics' means, sums of lesion counts, the mean
        reference volume, `cases`, whether a tumour was `missed`, the attributes as text, and where
        there is one `grade`.

    Raises:
        DataError: a patient has two values of an attribute, of hospital or of grade.
    """
    grouped = cases.groupby("patient", sort=True)
    means = [metric.column for metric in METRICS] + ["volume_reference"]
    if "calibration_error" in cases:
        means.append("calibration_error")
    patients = grouped[means].mean()
    patients["cases"] = grouped.size()
    missed = (cases["dice"] < MISSED_UNDER) & ~cases["empty"].isin(["reference", "both"])
    patients["missed"] = missed.groupby(cases["patient"]).any()
    if set(LESIONS) <= set(cases.columns):
        counts = grouped[list(LESIONS)].sum(min_count=1)
        patients[list(LESIONS)] = counts
        patients["lesions_missed"] = counts["lesions_reference"] - counts["lesions_found"]
        patients["lesions_predicted_false"] = (
            counts["lesions_predicted"] - counts["lesions_predicted_true"]
        )
        patients["lesion_f1"] = lesion_f1(counts)
    for covariate in ("hospital", "grade"):  # held equal whether or not they are compared
        if covariate in cases:
            _refuse_two_values(grouped[covariate].nunique(), covariate)
            patients[covariate] = grouped[covariate].first()
    for attribute in attributes:
        if attribute == "age_group":
            patients[attribute] = age_groups(grouped["age_years"].min(), edges)
        else:
            _refuse_two_values(grouped[attribute].nunique(), attribute)
            patients[attribute] = grouped[attribute].first()
    return patients.reset_index()


def lesion_f1(counts: pd.DataFrame) -> NDArray[np.float64]:
    """Harmonic mean of lesion sensitivity and precision of each patient, over all its cases.

    The rule for empty masks: without any lesion, in reference or prediction, 1; with lesions in one
    of the two only, 0.
    """
    reference, found, predicted, true = (
        counts[column].to_numpy(dtype=np.float64) for column in LESIONS
    )
    sensitivity = found / np.maximum(reference, 1)
    precision = true / np.maximum(predicted, 1)
    both = np.maximum(sensitivity + precision, 1e-300)
    nothing = reference + predicted == 0
    return np.where(nothing, 1.0, 2 * sensitivity * precision / both)


def metrics_of(cases: pd.DataFrame) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """Metrics that can be computed of one arm, and names of those that some of its cases lack.

    A metric that no case of the arm has is simply not there. One that only a part has is left
    out: a mean over the cases that happen to have it would be of other patients than its row says.
    """
    usable, incomplete = list(METRICS), []
    for metric in OPTIONAL_METRICS:
        needs = list(LESIONS) if metric.column in FROM_LESIONS else [metric.column]
        if not set(needs) <= set(cases.columns):
            continue
        there = cases[needs].notna()
        if there.to_numpy().all():
            usable.append(metric)
        elif there.to_numpy().any():
            incomplete.append(metric.name)
    return tuple(usable), tuple(incomplete)


def figure_of(patients: pd.DataFrame, metric: Metric) -> Figure:
    """One metric of all patients, as the bootstrap takes it."""
    if metric.parts is None:
        return Figure(patients[metric.column].to_numpy(dtype=np.float64))
    top, bottom = (patients[part].to_numpy(dtype=np.float64) for part in metric.parts)
    return Figure(top, bottom)


def age_groups(ages: "pd.Series[float]", edges: Sequence[float]) -> "pd.Series[Any]":
    """Name the age group of each patient; unknown where the age is not a number."""
    names = np.array(age_group_names(edges), dtype=object)
    groups = names[np.searchsorted(np.asarray(edges, dtype=float), ages.to_numpy(), side="right")]
    return pd.Series(np.where(ages.isna(), UNKNOWN, groups), index=ages.index)


def _refuse_two_values(counts: "pd.Series[int]", attribute: str) -> None:
    several = int((counts > 1).sum())
    if several:
        raise DataError(
            f"{several} patient{'s have' if several > 1 else ' has'} two values of '{attribute}'; "
            "a patient is one person with one. Correct the table, or make patient ids unique "
            "across hospitals, such as by putting the hospital's name before each."
        )
