"""Who the patients are: attributes from a table or from DICOM headers, joined to the scores."""

import difflib
import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from evenhand.artifacts import OPTIONAL_COLUMNS, PREDICTION_COLUMNS
from evenhand.errors import DataError
from evenhand.ingest.mask_dicom import check_keywords, read_header
from evenhand_audit.intake_config import AttributeSource, Bin
from evenhand_audit.intake_patterns import matches_of
from evenhand_audit.intake_tables import numbers, read_any_table

__all__ = ["bin_names", "joined", "read_attributes", "with_bins", "with_values"]

UNKNOWN = "unknown"


def read_attributes(
    source: AttributeSource, rows: pd.DataFrame, wanted: Collection[str]
) -> pd.DataFrame:
    """One row a case with a column for each attribute, indexed as `rows`.

    Args:
        source: where they are.
        rows: with `case` and `patient`.
        wanted: further columns of the table that are needed under their own names.

    Raises:
        DataError: no such table or column, an id twice, a patient without a row, no DICOM.
        UsageError: a keyword does not exist.
    """
    parts = []
    if source.path is not None:
        parts.append(_from_table(source, rows, wanted))
    if source.dicom:
        parts.append(_from_headers(source, rows))
    return pd.concat(parts, axis=1)


def joined(rows: pd.DataFrame, people: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put known columns into the rows; give the others back as they are."""
    rows = rows.copy()
    others = []
    for name in people.columns:
        if name in PREDICTION_COLUMNS or name in OPTIONAL_COLUMNS:
            rows[name] = people[name].to_numpy()
        else:
            others.append(name)
    return rows, people[others].reset_index(drop=True)


def _from_table(
    source: AttributeSource, rows: pd.DataFrame, wanted: Collection[str]
) -> pd.DataFrame:
    assert source.path is not None  # noqa: S101 - the caller has looked
    table, name = read_any_table(source.path), source.path.name
    columns = [str(column) for column in table.columns]
    mapping = {each: each for each in wanted if each in columns} | dict(source.columns)
    for ours, theirs in (("the id", source.key), *mapping.items()):
        if theirs not in columns:
            near = difflib.get_close_matches(theirs, columns, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(columns)}."
            raise DataError(f"'{name}' has no column '{theirs}' (wanted as {ours}); {hint}")
    ids = table[source.key].astype(str).str.strip().str.removeprefix(source.strip_prefix)
    twice = ids[ids.duplicated()]
    if len(twice):
        first = int(twice.index[0]) + 2
        raise DataError(
            f"'{name}', row {first}: the {source.matches} has a row already; every "
            f"{source.matches} must have one. Remove one of them, or match by "
            f"{'case' if source.matches == 'patient' else 'patient'} (attributes.matches)."
        )
    table = table.set_index(pd.Index(ids))
    keys = rows[source.matches].astype(str)
    absent = ~keys.isin(table.index)
    if absent.all():
        raise DataError(
            f"None of the {source.matches}s has a row in '{name}': the ids differ. Check "
            "attributes.key, attributes.strip_prefix and attributes.matches."
        )
    found = table.reindex(keys)
    out = {ours: found[theirs].fillna("").to_numpy() for ours, theirs in mapping.items()}
    return pd.DataFrame(out, index=rows.index)


def _from_headers(source: AttributeSource, rows: pd.DataFrame) -> pd.DataFrame:
    keywords = list(source.keywords.values())
    check_keywords(keywords)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for patient, case in {*zip(rows["patient"].astype(str), rows["case"].astype(str), strict=True)}:
        path = matches_of(source.dicom, case=case, patient=patient)
        if path is None:
            raise DataError(
                f"There is no DICOM file or folder for case '{case}' under attributes.dicom "
                f"('{source.dicom}'). Restore it, or correct the pattern."
            )
        found[patient, case] = read_header(path, keywords, name=path.name)
    keys = zip(rows["patient"].astype(str), rows["case"].astype(str), strict=True)
    headers = [found[key] for key in keys]
    return pd.DataFrame(
        {
            ours: [header[keyword] for header in headers]
            for ours, keyword in source.keywords.items()
        },
        index=rows.index,
    )


def with_values(values: Mapping[str, Mapping[str, str]], rows: pd.DataFrame) -> pd.DataFrame:
    """Translate the values of attributes; what has no entry stays as it is.

    Raises:
        DataError: an attribute is not there.
    """
    rows = rows.copy()
    for name, meaning in values.items():
        if name not in rows.columns:
            near = difflib.get_close_matches(name, list(rows.columns), n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "remove it."
            raise DataError(f"[values] names '{name}', which no source has; {hint}")
        text = rows[name].astype(str).str.strip()
        rows[name] = text.map(dict(meaning)).fillna(text)
    return rows


def with_bins(bins: Mapping[str, Bin], rows: pd.DataFrame, extra: pd.DataFrame) -> pd.DataFrame:
    """Add an attribute for each bin: the name of the group that a number falls into.

    Raises:
        DataError: the column is nowhere, holds something else than numbers, or the attribute's
            name is taken.
    """
    rows = rows.copy()
    for name, rule in bins.items():
        if name in PREDICTION_COLUMNS or name in OPTIONAL_COLUMNS or name == "age_group":
            raise DataError(f"[bins.{name}] takes the name of a column; choose another.")
        source = rows if rule.column in rows.columns else extra
        if rule.column not in source.columns:
            known = [*map(str, rows.columns), *map(str, extra.columns)]
            near = difflib.get_close_matches(rule.column, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "name a column of numbers."
            raise DataError(f"[bins.{name}] wants a column '{rule.column}'; {hint}")
        found = numbers(source[rule.column], f"[bins.{name}]", rule.column).to_numpy()
        groups = np.array(bin_names(rule.edges), dtype=object)
        which = np.searchsorted(np.asarray(rule.edges, dtype=float), found, side="right")
        rows[name] = np.where(np.isnan(found), UNKNOWN, groups[np.minimum(which, len(groups) - 1)])
    return rows


def bin_names(edges: Sequence[float]) -> list[str]:
    """Names of the groups that rising edges cut, in order, as ages are named."""
    between = (f"{low:g} to under {high:g}" for low, high in itertools.pairwise(edges))
    return [f"under {edges[0]:g}", *between, f"{edges[-1]:g} and over"]
