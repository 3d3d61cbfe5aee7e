"""What was done, case by case, in a form that an auditor can read and that identifies nobody."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from evenhand import __version__
from evenhand.ingest.deid.profile import EDITION, Option

__all__ = ["SCHEMA_VERSION", "CaseEvidence", "write_evidence"]

SCHEMA_VERSION = 1
"""Raised when the record's fields change."""


@dataclass
class CaseEvidence:
    """Grows while the files of a case are cleaned. Counts only, never a value.

    Attributes:
        files: how many files of each kind were written.
        actions: how many DICOM attributes met which action.
        caught: DICOM values that held an identifier where no rule expected one.
        removed_beside: keys, columns and bytes' worth of text outside DICOM that went.
        text_blanked: regions of burned-in text that were blanked.
        text_uncertain: regions that a person must look at; they are in the review list.
    """

    files: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    caught: int = 0
    removed_beside: int = 0
    text_blanked: int = 0
    text_uncertain: int = 0


def write_evidence(
    path: Path,
    case: CaseEvidence,
    *,
    case_name: str,
    options: frozenset[Option],
    key_fingerprint: str,
) -> None:
    """Write the record of a case as JSON; equal work gives equal bytes."""
    codes = {"113100": "Basic Application Confidentiality Profile"}
    codes |= {option.code: option.meaning for option in options}
    record = {
        "schema_version": SCHEMA_VERSION,
        "case": case_name,
        "tool": f"evenhand {__version__}",
        "profile": EDITION,
        "codes": dict(sorted(codes.items())),
        "key_fingerprint": key_fingerprint,
        "files": dict(sorted(case.files.items())),
        "dicom_attributes": dict(sorted(case.actions.items())),
        "identifiers_caught_beyond_the_table": case.caught,
        "entries_removed_beside_dicom": case.removed_beside,
        "burned_in_text": {"blanked": case.text_blanked, "uncertain": case.text_uncertain},
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
