"""The participants table of a BIDS tree: one row a patient, read strictly.

Errors name the column and the row's line number in the file, never its value.
"""

import csv
import difflib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from evenhand.cases.records import UNKNOWN, Patient, Sex
from evenhand.errors import DataError

__all__ = ["Participant", "age_of", "read_participants", "sex_of", "text_of"]

_MISSING = {"", "n/a", "nan", "unknown"}
_SEXES: Mapping[str, Sex] = {
    "f": "F",
    "female": "F",
    "m": "M",
    "male": "M",
    "o": "O",
    "other": "O",
    "unknown": "unknown",
}
_KNOWN = ("participant_id", "sex", "age", "race", "ethnicity")


@dataclass(frozen=True)
class Participant:
    """One row: the patient, and the line of the file it stands on."""

    patient: Patient
    line: int

    @property
    def folder(self) -> str:
        """Name of the patient's folder, such as `sub-01`."""
        return f"sub-{self.patient.patient_id}"


def read_participants(source: Path, *, site_column: str = "site") -> list[Participant]:
    """Read `participants.tsv`, sorted by patient id.

    Missing attributes become "unknown" (age: None); columns that Evenhand does
    not know are kept in the patient's `extra`.

    Args:
        source: the BIDS tree.
        site_column: the column that says which hospital a patient belongs to.

    Raises:
        DataError: no table, a column is missing, a row is short, long or
            double, or an attribute cannot be read.
    """
    rows = _rows(source / "participants.tsv", ("participant_id", site_column))
    people = [Participant(_patient(row, line, site_column), line) for line, row in rows]
    lines: dict[str, int] = {}
    for person in people:
        first = lines.setdefault(person.patient.patient_id, person.line)
        if first != person.line:
            raise DataError(
                f"'participants.tsv' lists '{person.folder}' twice, in lines {first} and "
                f"{person.line}; every patient must have one row. Remove one of them."
            )
    return sorted(people, key=lambda person: person.patient.patient_id)


def _rows(path: Path, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"'{path}' is missing; a BIDS tree must have a table of its patients with the "
            f"columns {', '.join(needed)}."
        ) from None
    except (OSError, UnicodeDecodeError):
        raise DataError(f"'{path}' cannot be read as UTF-8 text; save it as such.") from None
    lines = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    header = [name.strip() for name in lines[0]] if lines else []
    for column in needed:
        if header.count(column) != 1:
            near = difflib.get_close_matches(column, header, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(header)}."
            raise DataError(
                f"'participants.tsv' must have one column '{column}' (separated by tabs); {hint}"
            )
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise DataError(
                f"'participants.tsv', line {number}: {len(header)} cells wanted, {len(cells)} "
                "came. Separate cells by one tab and write n/a where a value is missing."
            )
        rows.append(
            (number, {name: cell.strip() for name, cell in zip(header, cells, strict=True)})
        )
    if not rows:
        raise DataError("'participants.tsv' has no rows; give one row a patient.")
    return rows


def _patient(row: dict[str, str], line: int, site_column: str) -> Patient:
    where = f"'participants.tsv', line {line}, column"
    if not row["participant_id"].startswith("sub-"):
        raise DataError(f"{where} 'participant_id': an id must start with 'sub-'; prefix it.")
    if row[site_column].lower() in _MISSING:
        raise DataError(
            f"{where} '{site_column}': no hospital is given; every patient must have one."
        )
    used = {*_KNOWN, site_column}
    try:
        return Patient(
            patient_id=row["participant_id"].removeprefix("sub-"),
            hospital=row[site_column],
            sex=sex_of(row.get("sex", ""), where),
            age_years=age_of(row.get("age", ""), where),
            race=text_of(row.get("race", "")),
            ethnicity=text_of(row.get("ethnicity", "")),
            extra=MappingProxyType({k: text_of(v) for k, v in row.items() if k not in used}),
        )
    except DataError as error:
        text = str(error)
        raise DataError(
            text if text.startswith("'participants.tsv'") else f"{where.rpartition(',')[0]}: {text}"
        ) from None


def text_of(cell: str) -> str:
    """Return a cell's text; "unknown" where it says that the value is missing."""
    return UNKNOWN if cell.lower() in _MISSING else cell


def sex_of(cell: str, where: str) -> Sex:
    """Read a sex as people write it; `where` begins the error's sentence.

    Raises:
        DataError: it is not one.
    """
    sex = _SEXES.get(text_of(cell).lower())
    if sex is None:
        raise DataError(
            f"{where} 'sex': F, M, O, female, male, other or n/a wanted, something else came; "
            "correct it."
        )
    return sex


def age_of(cell: str, where: str) -> float | None:
    """Read an age in years; None where it is missing. `where` begins the error's sentence.

    Raises:
        DataError: it is not one.
    """
    if text_of(cell) == UNKNOWN:
        return None
    try:
        age = float(cell)
    except ValueError:
        age = -1.0
    if not 0 <= age <= 130:
        raise DataError(
            f"{where} 'age': years from 0 to 130 or n/a wanted, something else came; correct it."
        )
    return age
