"""Look at a table before it is judged: what makes an audit meaningless, and what weakens it."""

import pandas as pd

from evenhand.config import AuditConfig
from evenhand.errors import DataError

__all__ = ["MUCH_UNKNOWN", "examine"]

MUCH_UNKNOWN = 0.2
"""From this share of patients on, an attribute that is not known is a finding."""

UNKNOWN = "unknown"


def examine(rows: pd.DataFrame, config: AuditConfig) -> tuple[str, ...]:
    """Say what a reader should know; counts of small groups are not among it.

    Raises:
        DataError: no reference mask holds anything, so that nothing was measured.
    """
    _refuse_without_tumour(rows)
    return (*_silent_models(rows), *_attributes(rows, config))


def _refuse_without_tumour(rows: pd.DataFrame) -> None:
    if rows["empty"].isin(["reference", "both"]).all():
        raise DataError(
            "Every reference mask is empty, so nothing was measured: Dice is 1 or 0 by the rule "
            "for empty masks alone. Check the masks, their labels and the pattern of their paths."
        )


def _silent_models(rows: pd.DataFrame) -> list[str]:
    found = []
    for arm, cases in rows.groupby("arm", sort=False):
        if cases["empty"].isin(["prediction", "both"]).all():
            found.append(
                f"Model '{arm}' marks nothing in any case. Check its masks before reading on."
            )
    return found


def _attributes(rows: pd.DataFrame, config: AuditConfig) -> list[str]:
    people = rows.drop_duplicates("patient")
    found = []
    for attribute in config.attributes:
        column = "age_years" if attribute == "age_group" else attribute
        if column not in people.columns:
            continue  # the audit itself refuses it, and names the nearest
        values = people[column]
        unknown = values.isna() | values.astype(str).str.lower().isin({"", UNKNOWN, "nan", "none"})
        share = float(unknown.mean())
        name = attribute.replace("_", " ")
        if share == 1:
            found.append(
                f"{name.capitalize()} is known of no patient: nothing can be compared by it."
            )
        elif share >= MUCH_UNKNOWN:
            found.append(
                f"{name.capitalize()} is not known of {_share(unknown, config)} of the patients. "
                "A gap can hide there: those whose data are incomplete are seldom a random part."
            )
        if share < 1 and column != "age_years" and len(values[~unknown].unique()) == 1:
            found.append(
                f"All patients whose {name} is known are of one group: nothing can be compared by "
                "it."
            )
    return found


def _share(unknown: "pd.Series[bool]", config: AuditConfig) -> str:
    """A rounded share, or words where the exact one would give a small group away."""
    count, total = int(unknown.sum()), len(unknown)
    if count < config.minimum_group:
        return "some"
    if total - count < config.minimum_group:
        return "nearly all"
    return f"{100 * count / total:.0f}%"
