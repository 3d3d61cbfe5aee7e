"""Whose a case is, where the source itself does not say: a table, or the case's own name.

The unit of privacy is the patient, so a source whose cases have no patients is
taken with a warning: each case counts as a patient of its own.
"""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evenhand.cases.records import Patient
from evenhand.errors import DataError, UsageError
from evenhand.ingest.deid import OLDEST_AGE_YEARS, Pseudonymiser
from evenhand.ingest.participants import age_of, sex_of, text_of

__all__ = ["People", "person", "read_people", "read_rows"]

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST = 40


@dataclass(frozen=True, kw_only=True)
class People:
    """How cases get names and patients.

    `names` answers for the hospital's key; None: names are kept as they are.
    `rows` maps the name of a case to its row of the patients' table, if there is one.
    """

    hospital: str
    names: Pseudonymiser | None
    rows: Mapping[str, Mapping[str, str]] | None = None

    def case(self, name: str, label: str) -> tuple[str, Patient]:
        """Return the case's name in the store, and its patient.

        Raises:
            DataError: the table has no row for it.
        """
        if self.rows is None:
            return person(self, case=name, patient=name, row={}, label=label)
        if name not in self.rows:
            raise DataError(f"{label} has no row in the table of patients (--patients).")
        row = self.rows[name]
        return person(self, case=name, patient=row["patient"], row=row, label=label)


def person(
    people: People, *, case: str, patient: str, row: Mapping[str, str], label: str
) -> tuple[str, Patient]:
    """Return a case's name in the store and the patient, with attributes from a row.

    Raises:
        DataError: an attribute cannot be read, or there is no patient.
    """
    where = f"{label}, column"
    if text_of(patient) == "unknown":
        raise DataError(f"{label} does not say whose it is; fill in its patient.")
    age_years = age_of(row.get("age", ""), where)
    if people.names is None:
        patient_id, case_id = _plain(patient), _plain(case)
    else:
        age_years = None if age_years is None else min(age_years, float(OLDEST_AGE_YEARS))
        patient_id = people.names.pseudonym(patient)
        case_id = f"{patient_id}-{people.names.token('case', case)[:8]}"
    return case_id, Patient(
        patient_id=patient_id,
        hospital=people.hospital,
        sex=sex_of(row.get("sex", ""), where),
        age_years=age_years,
        race=text_of(row.get("race", "")),
        ethnicity=text_of(row.get("ethnicity", "")),
    )


def _plain(name: str) -> str:
    return _UNSAFE.sub("-", name).strip("-_")[:_LONGEST] or "case"


def read_people(path: Path) -> dict[str, dict[str, str]]:
    """Read a table of patients: columns `case` and `patient`, perhaps sex, age, race, ethnicity.

    Raises:
        UsageError: it cannot be read, or a column is missing.
        DataError: a case has two rows.
    """
    rows = read_rows(path)
    if rows and not {"case", "patient"} <= set(rows[0]):
        raise UsageError(f"'{path}' must have the columns 'case' and 'patient'.")
    table = {row["case"]: row for row in rows}
    if len(table) != len(rows):
        raise DataError(f"'{path}' has two rows for one case; keep one of them.")
    return table


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV or TSV file as one mapping a row, cells without outer spaces.

    Raises:
        UsageError: it cannot be read as text, or has no rows.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise UsageError("The table cannot be read as UTF-8 text; save it as such.") from None
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = [
        {(key or "").strip(): (value or "").strip() for key, value in row.items() if key}
        for row in reader
    ]
    if not rows:
        raise UsageError("The table has no rows.")
    return rows
