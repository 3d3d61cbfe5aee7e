"""What was published before, so that no two reports give a small group away together.

A report over yesterday's patients and one more shows, beside yesterday's, that one patient: the
sums differ by the new patient's score. Nothing in a single report can prevent this, so it needs a
memory. The register is one file that lies with the tables, at the hospital. It holds, for each
report, every set of patients that a published row stood for, with patients as keyed hashes. It is
patient data and stays where the tables stay.

With it a new report shows no row that, together with all earlier ones, gives a small group away:
rows that would are pooled, and a report whose patients differ from an earlier report's by fewer
than the minimum is refused. The rule does not look at which model was judged, so it errs to hiding.
Reports that were made without the register, or with another one, are not known to it.

A report is planned on what the file held when it was read. Saving takes a lock and reads the file
again: if somebody else has noted a report meanwhile, the new one is not written.
"""

import base64
import binascii
import fcntl
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenhand.artifacts import write_atomically
from evenhand.errors import DataError, ResourceError

__all__ = ["REGISTER_SCHEMA", "Register"]

REGISTER_SCHEMA = "evenhand audit register"
"""What the file says it is."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class _Report:
    """What one report showed: hashed patients, and for each row a bit a patient, packed."""

    patients: tuple[str, ...]
    rows: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[frozenset[str]]) -> "_Report":
        patients = sorted(set().union(*rows))
        return cls(
            tuple(patients),
            tuple(
                base64.b64encode(np.packbits([each in row for each in patients]).tobytes()).decode()
                for row in rows
            ),
        )

    def sets(self) -> list[frozenset[str]]:
        """The rows; ValueError where one is of another length than the patients."""
        patients, found = np.array(self.patients, dtype=object), []
        for row in self.rows:
            packed = np.frombuffer(base64.b64decode(row, validate=True), np.uint8)
            if len(packed) != (len(patients) + 7) // 8:
                raise ValueError
            found.append(frozenset(patients[np.unpackbits(packed)[: len(patients)].astype(bool)]))
        return found


class Register:
    """Rows of earlier reports, and those of the report that is being made."""

    def __init__(self, path: Path | None = None) -> None:
        """Read the register; a file that is not there is an empty register.

        Args:
            path: the file; None: a memory for the arms of one report, which is never saved.

        Raises:
            DataError: the file is something else, or damaged.
        """
        self._path = path
        known = _read(path) if path is not None else None
        self._key, self._reports = known or (secrets.token_hex(32), ())
        self._new: dict[frozenset[str], None] = {}

    def earlier(
        self, patients: Sequence[str], *, with_new: bool = False
    ) -> tuple[list[Bools], int]:
        """Rows published before, over these patients and those who are gone.

        Args:
            patients: ids, in the order of the table that is audited.
            with_new: rows that were noted and not yet saved count too.

        Returns:
            Rows, each (patients + gone,), these patients first; and how many are gone.
        """
        here = [self._hash(patient) for patient in patients]
        told = dict.fromkeys(each for report in self._reports for each in report.sets())
        sets = list(told | self._new if with_new else told)
        gone = sorted(set().union(*sets) - set(here)) if sets else []
        order = here + gone
        return [np.array([each in row for each in order]) for row in sets], len(gone)

    def note(self, patients: Sequence[str], rows: Sequence[Bools]) -> None:
        """Take down what the new report shows; `save` writes it."""
        hashed = np.array([self._hash(patient) for patient in patients], dtype=object)
        for row in rows:
            self._new[frozenset(hashed[row])] = None

    def save(self) -> None:
        """Add the new report to the file.

        Raises:
            DataError: another report was noted since the file was read.
            ResourceError: the file cannot be written.
        """
        path = self._path
        if path is None:
            return
        lock_path = path.with_name(f".{path.name}.lock")
        try:
            lock_path.parent.mkdir(parents=True, exist_ok=True)
            with lock_path.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._save(path)
        except OSError as error:
            raise ResourceError(
                f"'{path}' could not be written: {error.strerror}. Free space or name "
                "another folder."
            ) from None

    def _save(self, path: Path) -> None:
        known = _read(path)
        if (known[1] if known else ()) != self._reports or (known and known[0] != self._key):
            raise DataError(
                "Another report was noted in the register while this one was made, and the two "
                "together may show too much. Nothing was written; run the command again."
            )
        report = _Report.of(list(self._new))
        if report not in self._reports:
            self._reports = (*self._reports, report)
        record = {
            "schema": REGISTER_SCHEMA,
            "key": self._key,
            "reports": [
                {"patients": list(each.patients), "rows": list(each.rows)} for each in self._reports
            ],
        }
        write_atomically(path, f"{json.dumps(record, indent=1)}\n".encode())

    def _hash(self, patient: str) -> str:
        key = bytes.fromhex(self._key)
        return hmac.digest(key, str(patient).encode(), hashlib.sha256).hex()[:24]


def _read(path: Path) -> tuple[str, tuple[_Report, ...]] | None:
    """Key and reports; None where there is no file yet."""
    try:
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, binascii.Error):
        raise DataError(
            f"'{path}' is not a register of published audits, or is damaged. Name another file; "
            "a new one knows nothing of earlier reports."
        ) from None


def _checked(record: Any) -> tuple[str, tuple[_Report, ...]]:
    """Key and reports of a whole record; ValueError, KeyError or TypeError of another."""
    if record["schema"] != REGISTER_SCHEMA or len(bytes.fromhex(record["key"])) < 16:
        raise ValueError
    reports = []
    for each in record["reports"]:
        if not all(isinstance(each[part], list) for part in ("patients", "rows")):
            raise TypeError
        if not all(isinstance(name, str) for name in each["patients"]):
            raise TypeError
        report = _Report(tuple(each["patients"]), tuple(each["rows"]))
        report.sets()  # rows that do not fit the patients
        reports.append(report)
    return record["key"], tuple(reports)
