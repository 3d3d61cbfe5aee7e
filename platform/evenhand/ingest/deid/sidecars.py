"""JSON sidecars and participants tables: only what is on a list stays.

Numbers of the acquisition stay, a few terms with a limited vocabulary stay as
long as they are short and plain, everything else goes: names, dates, free text,
unknown keys, the DICOM header that converters like to copy.
"""

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

from evenhand.errors import DataError
from evenhand.ingest.deid.allowed import allowed
from evenhand.ingest.deid.pseudonyms import OLDEST_AGE_YEARS

__all__ = ["clean_participants", "clean_sidecar"]

_TERM = re.compile(r"[A-Za-z][A-Za-z0-9 ./+_-]{0,31}|[ijk]-?")
_MISSING = "n/a"
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9 /(),_-]{0,39}|n/a")


def clean_sidecar(content: bytes) -> tuple[bytes, int]:
    """A sidecar with only the listed keys, and how many keys went.

    Raises:
        DataError: not a JSON object.
    """
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise DataError("It is not a JSON object.")
    kept = {key: value for key, value in raw.items() if _stays(key, value)}
    return json.dumps(kept, indent=1, sort_keys=True).encode() + b"\n", len(raw) - len(kept)


def clean_participants(content: bytes, rename: Callable[[str], str]) -> tuple[bytes, int]:
    """A participants table with renamed patients and the listed columns, and how many went.

    Args:
        content: tab separated, with a header and a column `participant_id`.
        rename: from `sub-X` to `sub-PSEUDONYM`.

    Raises:
        DataError: not such a table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig")), delimiter="\t"))
    except (UnicodeDecodeError, csv.Error):
        raise DataError("It is not a table in UTF-8.") from None
    if not rows or "participant_id" not in rows[0]:
        raise DataError("It has no rows or no column 'participant_id'.")
    columns = [name for name in rows[0] if name in allowed("participants", "columns")]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    for row in sorted(
        ({name: _cell(name, row[name] or "", rename) for name in columns} for row in rows),
        key=lambda row: row["participant_id"],
    ):
        writer.writerow(row)
    return out.getvalue().encode(), len(rows[0]) - len(columns)


def _stays(key: str, value: Any) -> bool:
    if key in allowed("sidecar", "numbers"):
        return _is_numbers(value)
    values = value if isinstance(value, list) else [value]
    return key in allowed("sidecar", "terms") and all(
        isinstance(each, bool) or (isinstance(each, str) and _TERM.fullmatch(each))
        for each in values
    )


def _is_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_numbers(each) for each in value)
    return isinstance(value, (bool, int, float))


def _cell(column: str, text: str, rename: Callable[[str], str]) -> str:
    text = text.strip()
    if column == "participant_id":
        return rename(text)
    if column == "age":
        try:
            return f"{min(float(text), OLDEST_AGE_YEARS):g}"
        except ValueError:
            return _MISSING
    return text if _WORD.fullmatch(text) else _MISSING
