"""From cases to patients: one row per patient, arm and prompt, with the group of each attribute."""

import difflib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from evenhand.errors import DataError, UsageError
from evenhand_audit.records import METRICS

__all__ = ["ATTRIBUTES", "age_group_names", "check_attributes", "group_order", "patients_of"]

ATTRIBUTES = ("hospital", "sex", "age_group", "race", "ethnicity")
"""What a table can be audited by."""

UNKNOWN = "unknown"


def check_attributes(attributes: Sequence[str]) -> None:
    """Refuse attributes that a prediction table does not have, and repeats.

    Raises:
        UsageError: names the attribute and the nearest known one.
    """
    for attribute in attributes:
        if attribute not in ATTRIBUTES:
            near = difflib.get_close_matches(attribute, ATTRIBUTES, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(ATTRIBUTES)}."
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
    """Sort groups for a reader: ages by age, others by name, unknown last."""
    known = list(age_group_names(edges)) if attribute == "age_group" else sorted(set(present))
    return [group for group in known if group in present and group != UNKNOWN] + (
        [UNKNOWN] if UNKNOWN in present else []
    )


def patients_of(
    cases: pd.DataFrame, attributes: Sequence[str], edges: Sequence[float]
) -> pd.DataFrame:
    """Average the cases of each patient of one arm and prompt.

    Args:
        cases: rows of a prediction table with one arm and one prompt.
        attributes: what the patients are grouped by.
        edges: ages at which age groups are cut; a patient's age is that at the first case.

    Returns:
        One row a patient: the metrics' means, `cases`, and the attributes as text.

    Raises:
        DataError: a patient has two values of an attribute.
    """
    grouped = cases.groupby("patient", sort=True)
    patients = grouped[[metric.column for metric in METRICS]].mean()
    patients["cases"] = grouped.size()
    for attribute in attributes:
        if attribute == "age_group":
            patients[attribute] = _age_groups(grouped["age_years"].min(), edges)
        else:
            _refuse_two_values(grouped[attribute].nunique(), attribute)
            patients[attribute] = grouped[attribute].first()
    return patients.reset_index(drop=True)


def _age_groups(ages: "pd.Series[float]", edges: Sequence[float]) -> "pd.Series[Any]":
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
