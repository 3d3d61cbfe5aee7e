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
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenhand.artifacts import write_atomically
from evenhand.errors import DataError

__all__ = ["REGISTER_SCHEMA", "Register"]

REGISTER_SCHEMA = "evenhand audit register"
"""What the file says it is."""

Bools = NDArray[np.bool_]


class Register:
    """Rows of earlier reports, and those of the report that is being made."""

    def __init__(self, path: Path) -> None:
        """Read the register; a file that is not there is an empty register.

        Raises:
            DataError: the file is something else, or damaged.
        """
        self._path = path
        self._record = _read(path)
        self._key = bytes.fromhex(str(self._record["key"]))
        self._new: dict[frozenset[str], None] = {}

    def earlier(self, patients: Sequence[str]) -> tuple[list[Bools], int]:
        """Rows published before, over these patients and those who are gone.

        Args:
            patients: ids, in the order of the table that is audited.

        Returns:
            Rows, each (patients + gone,), these patients first; and how many are gone.
        """
        here = [self._hash(patient) for patient in patients]
        sets = self._sets()
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
            ResourceError: the file cannot be written.
        """
        patients = sorted(set().union(*self._new))
        rows = [
            base64.b64encode(np.packbits([each in row for each in patients]).tobytes()).decode()
            for row in self._new
        ]
        report = {"patients": patients, "rows": rows}
        if report not in self._record["reports"]:
            self._record["reports"].append(report)
        text = json.dumps(self._record, indent=1)
        write_atomically(self._path, f"{text}\n".encode())

    def _sets(self) -> list[set[str]]:
        sets = []
        for report in self._record["reports"]:
            patients = np.array(report["patients"], dtype=object)
            for row in report["rows"]:
                bits = np.unpackbits(np.frombuffer(base64.b64decode(row), np.uint8))
                sets.append(set(patients[bits[: len(patients)].astype(bool)]))
        return list({frozenset(each): each for each in sets}.values())

    def _hash(self, patient: str) -> str:
        return hmac.digest(self._key, str(patient).encode(), hashlib.sha256).hex()[:24]


def _read(path: Path) -> dict[str, list[dict[str, list[str]]]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"schema": REGISTER_SCHEMA, "key": secrets.token_hex(32), "reports": []}  # type: ignore[dict-item]
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("schema") != REGISTER_SCHEMA:
        raise DataError(
            f"'{path}' is not a register of published audits, or is damaged. Name another file; "
            "a new one knows nothing of earlier reports."
        )
    return record
