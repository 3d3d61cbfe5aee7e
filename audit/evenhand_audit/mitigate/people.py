"""Who is trained on: a table of patients, grouped; and how well each group is served so far."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evenhand.artifacts import read_prediction_table
from evenhand.errors import DataError, UsageError
from evenhand_audit.cohort import age_groups, patients_of
from evenhand_audit.disclosure import POOL
from evenhand_audit.intake_tables import blank_as_missing, numbers, read_any_table

__all__ = [
    "People",
    "count_table",
    "group_losses",
    "grouped",
    "losses_by_group",
    "one_arm",
    "read_counts",
    "read_people",
]

MISSING = {"", "n/a", "na", "nan", "none", "null", "unknown"}
"""Spellings of a value that is not known, in lower case."""


@dataclass(frozen=True, eq=False)
class People:
    """Training patients; small groups are one group, so that nobody is weighted alone."""

    patients: tuple[str, ...]
    groups: tuple[str, ...]
    """One a patient."""
    other: tuple[str, ...] | None
    """What the group is to be made independent of, one a patient."""
    pooled: frozenset[str]
    """Groups under the minimum."""

    @property
    def counts(self) -> dict[str, float]:
        """Patients of each group."""
        return {group: float(count) for group, count in Counter(self.groups).items()}


def read_people(
    path: Path,
    *,
    by: str,
    against: str,
    key: str,
    strip_prefix: str,
    minimum: int,
    edges: Sequence[float],
) -> People:
    """Read the table of training patients.

    Args:
        path: CSV, TSV (such as participants.tsv) or Parquet, one row or more a patient.
        by: column of the group; `age_group` is cut from the column `age_years` or `age`.
        against: column that the group is to be independent of; may be missing in the table.
        key: column of the patient's id.
        strip_prefix: taken off ids, such as `sub-`.
        minimum: groups with fewer patients are put together.
        edges: ages at which age groups are cut.

    Raises:
        DataError: the table is damaged, or a patient has two groups.
        UsageError: a column is not there, or there is only one group.
    """
    rows = grouped(path, by=by, against=against, key=key, edges=edges, strip_prefix=strip_prefix)
    groups, pooled = _pooled(list(rows[by]), minimum)
    if len(set(groups)) < 2:
        raise UsageError(
            f"By '{by}' there is only one group of {minimum} patients or more, so there is nothing "
            "to weigh. Choose another attribute with --by, or a lower --minimum-group."
        )
    other = tuple(rows[against]) if against in rows.columns else None
    return People(tuple(rows["patient"]), tuple(groups), other, pooled)


def grouped(
    path: Path,
    *,
    by: str,
    against: str,
    key: str,
    edges: Sequence[float],
    strip_prefix: str = "",
) -> pd.DataFrame:
    """One row a patient: `patient`, the group under its own name, and `against` if there is one.

    Arguments and errors as in `read_people`.
    """
    table = read_any_table(path)
    if by == "age_group" and by not in table.columns:
        column = next((each for each in ("age_years", "age") if each in table.columns), "age_years")
        if column in table.columns:
            table[by] = age_groups(numbers(table[column], path.name, column), edges)
    for column in (key, by):
        if column not in table.columns:
            known = [str(each) for each in table.columns]
            near = difflib.get_close_matches(column, known, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(known)}."
            raise UsageError(f"'{path.name}' has no column '{column}'; {hint}")
    wanted = [by, *([against] if against in table.columns and against != by else [])]
    rows = pd.DataFrame({name: blank_as_missing(table[name], MISSING) for name in wanted})
    rows["patient"] = table[key].astype(str).str.strip().str.removeprefix(strip_prefix)
    rows = rows.drop_duplicates()
    if rows["patient"].duplicated().any():
        raise DataError(
            f"'{path.name}' gives some patient two values of {' or '.join(wanted)}; a patient has "
            "one. Correct the table."
        )
    return rows


def _pooled(groups: Sequence[str], minimum: int) -> tuple[list[str], frozenset[str]]:
    """Give one name to all groups under the minimum, or to what joins them to reach it."""
    sizes = Counter(groups)
    small = {group for group, count in sizes.items() if count < minimum}
    for group in sorted(set(sizes) - small, key=lambda each: (sizes[each], each)):
        if not small or sum(sizes[each] for each in small) >= minimum:
            break
        small.add(group)
    return [POOL if group in small else group for group in groups], frozenset(small)


def read_counts(path: Path, people: People) -> dict[str, float]:
    """Patients of each group over all hospitals, exact or noised: columns `group`, `patients`.

    Raises:
        DataError: a column or a group is missing, or a count is no number.
    """
    found: dict[str, float] = {}
    for group, count in count_table(path).items():
        name = POOL if group in people.pooled else group
        found[name] = found.get(name, 0.0) + count
    lacking = sorted(set(people.groups) - set(found))
    if lacking:
        raise DataError(
            f"'{path.name}' has no count of {', '.join(lacking)}. Count the groups that the "
            "patients have, or leave --counts out."
        )
    return {group: found[group] for group in people.counts}


def count_table(path: Path) -> dict[str, float]:
    """Patients of each group as a table says, rows of one group added up; none below 0.

    Raises:
        DataError: a column is missing, or a count is no number.
    """
    table = read_any_table(path)
    if not {"group", "patients"} <= set(table.columns):
        raise DataError(f"'{path.name}' wants the columns group and patients.")
    counts = numbers(table["patients"], path.name, "patients").fillna(0).clip(lower=0)
    summed = counts.groupby(table["group"].astype(str), sort=False).sum()
    return {str(group): float(count) for group, count in summed.items()}


def one_arm(path: Path, arm: str, prompt: str) -> pd.DataFrame:
    """Cases of one arm and prompt of a prediction table.

    Raises:
        DataError: the table is damaged.
        UsageError: there is no such arm, or there are several and none is named.
    """
    table, _ = read_prediction_table(path)
    if "label" in table and len(set(table["label"])) > 1:
        raise UsageError(f"'{path.name}' has several labels; keep the rows of one.")
    for column, wanted in (("arm", arm), ("prompt", prompt)):
        known = list(dict.fromkeys(table[column]))
        if wanted and wanted not in known:
            raise UsageError(
                f"'{path.name}' has no {column} '{wanted}'; it has: {', '.join(known)}."
            )
        if not wanted and len(known) > 1:
            raise UsageError(
                f"'{path.name}' has several values of {column} ({', '.join(known)}); name one with "
                f"--{column}."
            )
        table = table[table[column] == (wanted or known[0])]
    return table


def group_losses(
    cases: pd.DataFrame, by: str, edges: Sequence[float], people: People
) -> Mapping[str, float]:
    """Mean of 1 - Dice over the scored patients of each training group.

    Raises:
        DataError: nobody of a group was scored.
        UsageError: the table has no such attribute.
    """
    return losses_by_group(cases, by, edges, list(people.counts), people.pooled)


def losses_by_group(
    cases: pd.DataFrame,
    by: str,
    edges: Sequence[float],
    groups: Sequence[str],
    pooled: frozenset[str] = frozenset(),
) -> dict[str, float]:
    """The same for these groups, `pooled` ones together."""
    if by != "age_group" and by not in cases.columns:
        raise UsageError(f"The results have no attribute '{by}', so groups have no loss.")
    scored = patients_of(cases, (by,), edges)
    labels = [POOL if group in pooled else str(group) for group in scored[by]]
    means = (1 - scored["dice"]).groupby(pd.Series(labels, index=scored.index)).mean()
    lacking = sorted(set(groups) - set(means.index))
    if lacking:
        raise DataError(
            f"Nobody of the group {', '.join(lacking)} is in the results, so how well the group is "
            "served is not known. Score patients of every group, or lower --minimum-group."
        )
    return {group: float(means[group]) for group in groups}
