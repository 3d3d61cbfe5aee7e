"""Who is in the stores: groups counted by patient, beside a reference, and what is missing.

Groups of fewer than `SMALLEST` patients are merged, and so is the next larger one
if what was merged is still smaller: nobody can be told by subtraction.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from statsmodels.stats.proportion import proportion_confint

from evenhand.cases.records import UNKNOWN, Case
from evenhand.errors import UsageError
from evenhand.ingest.quality.assess import StoreQuality

__all__ = ["ATTRIBUTES", "SMALLEST", "Group", "missing", "read_reference", "representation"]

SMALLEST = 5
"""Patients that a group must have to be named."""
ATTRIBUTES = ("hospital", "sex", "age", "race", "ethnicity", "scanner", "field strength")
"""What is counted."""

_MERGED = "smaller groups together"
_AGE_EDGES = (18, 40, 60, 75)


@dataclass(frozen=True)
class Group:
    """Patients of one value of an attribute; unknown ones are a group of their own.

    `share` is of all patients, `low` and `high` its 95% interval (Wilson).
    `reference` is the share that was wanted, if one was given; `verdict` is
    "fewer" or "more" where the interval leaves it out, else "".
    """

    attribute: str
    value: str
    patients: int
    share: float
    low: float
    high: float
    reference: float | None
    verdict: str


def representation(
    stores: Iterable[StoreQuality],
    reference: Mapping[tuple[str, str], float],
    smallest: int = SMALLEST,
) -> list[Group]:
    """Count patients by attribute and value, beside a reference.

    Args:
        stores: of all hospitals.
        reference: wanted shares by attribute and value.
        smallest: patients that a group must have to be named; 1 where nothing leaves.
    """
    patients: dict[tuple[str, str], Mapping[str, str]] = {}
    for store in stores:
        for case in store.cases:
            patients.setdefault((store.hospital, case.patient.patient_id), _values(case))
    groups = []
    for attribute in ATTRIBUTES:
        counts = Counter(values[attribute] for values in patients.values())
        wanted = {value: share for (name, value), share in reference.items() if name == attribute}
        for value in wanted:
            counts.setdefault(value, 0)
        for value, n in _merged(counts, smallest):
            groups.append(_group(attribute, value, n, len(patients), wanted.get(value)))
    return groups


def missing(stores: Iterable[StoreQuality]) -> list[tuple[str, str, int, int]]:
    """Count patients without a value: (hospital, attribute, missing, of). Not to leave."""
    rows = []
    for store in stores:
        patients = {case.patient.patient_id: _values(case) for case in store.cases}
        for attribute in ATTRIBUTES[1:]:
            gone = sum(values[attribute] == UNKNOWN for values in patients.values())
            rows.append((store.hospital, attribute, gone, len(patients)))
    return rows


def read_reference(path: Path) -> dict[tuple[str, str], float]:
    """Read a table of shares: columns attribute, value, share (0 to 1).

    Raises:
        UsageError: it cannot be read, a column is missing, or an attribute is unknown.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
        table = {(row["attribute"], row["value"]): float(row["share"]) for row in rows}
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError):
        raise UsageError(
            f"'{path}' is no reference: a CSV with columns attribute, value, share (0 to 1) is "
            "wanted."
        ) from None
    for (attribute, _), share in table.items():
        if attribute not in ATTRIBUTES or not 0 <= share <= 1:
            raise UsageError(
                f"'{path}': attributes are {', '.join(ATTRIBUTES)}; shares lie between 0 and 1."
            )
    return table


def _values(case: Case) -> Mapping[str, str]:
    patient = case.patient
    return {
        "hospital": patient.hospital,
        "sex": patient.sex,
        "age": _decade(patient.age_years),
        "race": patient.race,
        "ethnicity": patient.ethnicity,
        "scanner": case.acquisition.get("manufacturer", UNKNOWN),
        "field strength": _field(case.acquisition.get("field_strength_t")),
    }


def _decade(age_years: float | None) -> str:
    if age_years is None:
        return UNKNOWN
    edges = [0, *_AGE_EDGES]
    low = max(edge for edge in edges if edge <= age_years)
    above = [edge for edge in edges if edge > age_years]
    return f"{low} to {above[0] - 1}" if above else f"{low} and over"


def _field(tesla: str | None) -> str:
    return UNKNOWN if tesla is None else f"{float(tesla):.1f} T"


def _merged(counts: Mapping[str, int], smallest: int) -> Sequence[tuple[str, int]]:
    """Groups by size, those that are too small together; empty ones are named, they hide nobody."""
    large = sorted(((n, value) for value, n in counts.items() if n >= smallest), reverse=True)
    small = sum(n for n in counts.values() if 0 < n < smallest)
    while 0 < small < smallest and large:
        small += large.pop()[0]
    groups = [(value, n) for n, value in large]
    groups += [(_MERGED, small)] if small else []
    return groups + sorted((value, 0) for value, n in counts.items() if n == 0)


def _group(attribute: str, value: str, n: int, total: int, reference: float | None) -> Group:
    low, high = proportion_confint(n, total, method="wilson")
    verdict = ""
    if reference is not None:
        verdict = "fewer" if high < reference else "more" if low > reference else ""
    return Group(attribute, value, n, n / total, float(low), float(high), reference, verdict)
