"""The prediction table: one row per arm x prompt x case (x label), with a sidecar for it.

    predictions.csv    rows of `PREDICTION_COLUMNS`, any `OPTIONAL_COLUMNS`, further attributes
    predictions.json   schema version, sha256 of the csv, its attributes, what made it (`meta`)

Attributes beyond sex, age, race, ethnicity and hospital are columns of their own name. The sidecar
lists them, or the reader names them; any other column is refused, so that a misspelt one is found.

The csv is plain so that anybody can audit a model of their own: a table without a sidecar is
read too, with nothing to vouch for it. Row numbers in messages count the header as row 1, as a
spreadsheet does.
"""

import difflib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenhand.errors import DataError, ResourceError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "OPTIONAL_COLUMNS",
    "PREDICTION_COLUMNS",
    "TABLE_SCHEMA",
    "TABLE_SCHEMA_VERSION",
    "file_sha256",
    "read_prediction_table",
    "write_atomically",
    "write_prediction_table",
]

TABLE_SCHEMA = "evenhand prediction table"
"""What the sidecar says it belongs to."""

TABLE_SCHEMA_VERSION = 2
"""Raised when columns or their meaning change. 2 added optional columns and attributes."""

READABLE_VERSIONS = (1, 2)
"""Versions whose tables mean the same to this reader."""

PREDICTION_COLUMNS = (
    "arm",
    "prompt",
    "case",
    "patient",
    "hospital",
    "sex",
    "age_years",
    "race",
    "ethnicity",
    "units",
    "dice",
    "hd95",
    "nsd",
    "nsd_tolerance",
    "volume_reference",
    "volume_predicted",
    "empty",
)
"""Columns in the order in which they are written; all are required."""

OPTIONAL_COLUMNS = (
    "label",
    "iou",
    "volume_difference",
    "lesions_reference",
    "lesions_found",
    "lesions_predicted",
    "lesions_predicted_true",
    "calibration_error",
    "uncertainty",
)
"""Columns that a table may have; a cell may be empty where a figure does not exist."""

_CHOICES = {
    "prompt": ("automatic", "box", "slice"),
    "units": ("mm", "voxel"),
    "empty": ("none", "reference", "prediction", "both"),
}
_NAMES = ("arm", "case", "patient", "hospital")
_ATTRIBUTES = ("sex", "race", "ethnicity")
_RANGES: dict[str, tuple[float, float]] = {
    "age_years": (0, 130),
    "dice": (0, 1),
    "hd95": (0, float("inf")),
    "nsd": (0, 1),
    "nsd_tolerance": (0, float("inf")),
    "volume_reference": (0, float("inf")),
    "volume_predicted": (0, float("inf")),
    "iou": (0, 1),
    "volume_difference": (-float("inf"), float("inf")),
    "lesions_reference": (0, float("inf")),
    "lesions_found": (0, float("inf")),
    "lesions_predicted": (0, float("inf")),
    "lesions_predicted_true": (0, float("inf")),
    "calibration_error": (0, 1),
    "uncertainty": (0, 1),
}
_PARTS = {"lesions_found": "lesions_reference", "lesions_predicted_true": "lesions_predicted"}
_KEY = ("arm", "prompt", "case", "label")


def write_prediction_table(
    path: Path,
    rows: Iterable[Mapping[str, object]],
    meta: Mapping[str, Any],
    *,
    attributes: Sequence[str] = (),
) -> None:
    """Write the table and its sidecar; each file appears whole or not at all.

    Args:
        path: the csv; the sidecar gets the same name with `.json`.
        rows: one mapping a row, keys as in `PREDICTION_COLUMNS`, and as in `OPTIONAL_COLUMNS`
            and `attributes` where there are such; `age_years` and optional figures may be None.
        meta: what made the table (config fingerprint, weights, ...); plain JSON values.
        attributes: names of further columns to compare patients by.

    Raises:
        DataError: a row breaks the schema; nothing is written then.
        ResourceError: the disk is full or the folder cannot be written.
    """
    import pandas as pd

    frame = _validated(pd.DataFrame(list(rows), dtype=object), attributes, name=path.name)
    content = frame.to_csv(index=False, lineterminator="\n").encode()
    sidecar = {
        "schema": TABLE_SCHEMA,
        "schema_version": TABLE_SCHEMA_VERSION,
        "sha256": hashlib.sha256(content).hexdigest(),
        "rows": len(frame),
        "attributes": list(attributes),
        "meta": dict(meta),
    }
    # The sidecar last: after a crash between the two, the old hash disowns the new table.
    write_atomically(path, content)
    write_atomically(_sidecar(path), (json.dumps(sidecar, indent=2) + "\n").encode())


def read_prediction_table(
    path: Path, *, attributes: Sequence[str] = ()
) -> "tuple[pd.DataFrame, dict[str, Any]]":
    """Read and validate a prediction table.

    Args:
        path: the csv.
        attributes: columns beyond the schema's that are attributes, where no sidecar says so;
            names that the table does not have are passed over.

    Returns:
        The rows (`PREDICTION_COLUMNS`, then what the table has of `OPTIONAL_COLUMNS`, then its
        further attributes; numbers as float64, a blank attribute as "unknown") and the sidecar's
        `meta`, empty where there is no sidecar.

    Raises:
        DataError: the file is missing, is not what its sidecar vouches for, or breaks the schema.
    """
    import pandas as pd

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"There is no prediction table '{path}'. `evenhand run` writes predictions.csv."
        ) from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}. Name a CSV file.") from None
    sidecar = _vouched(path, hashlib.sha256(content).hexdigest())
    try:
        frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError):
        raise DataError(
            f"'{path.name}' is not a CSV table in UTF-8. Save it again as comma-separated text."
        ) from None
    further = dict.fromkeys([*(sidecar.get("attributes") or ()), *attributes])
    present = [name for name in further if name in frame.columns]
    frame = _validated(frame, [name for name in present if not _is_known(name)], name=path.name)
    return frame, dict(sidecar.get("meta") or {})


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_known(column: str) -> bool:
    return column in PREDICTION_COLUMNS or column in OPTIONAL_COLUMNS


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def _vouched(path: Path, sha256: str) -> dict[str, Any]:
    sidecar = _sidecar(path)
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("schema") != TABLE_SCHEMA:
        raise DataError(
            f"'{sidecar.name}' lies beside '{path.name}' and is not its sidecar, or is damaged. "
            "Write the table again, or move that file away to read the table unvouched."
        )
    if record.get("schema_version") not in READABLE_VERSIONS:
        known = " and ".join(map(str, READABLE_VERSIONS))
        raise DataError(
            f"'{sidecar.name}' has table schema {record.get('schema_version')}; this version of "
            f"Evenhand reads {known}. Write the table again with this version."
        )
    if record.get("sha256") != sha256:
        raise DataError(
            f"'{path.name}' is not the file that '{sidecar.name}' vouches for: their sha256 "
            "differ, so it was changed or cut short. Write the table again."
        )
    return record


def _validated(frame: "pd.DataFrame", attributes: Sequence[str], *, name: str) -> "pd.DataFrame":
    columns = [str(column) for column in frame.columns]
    _check_columns(columns, attributes, name)
    optional = [column for column in OPTIONAL_COLUMNS if column in columns]
    frame = frame[[*PREDICTION_COLUMNS, *optional, *attributes]].copy()
    if frame.empty:
        raise DataError(f"'{name}' has no rows; there is nothing to audit.")
    named = [*_NAMES, "label"] if "label" in optional else list(_NAMES)
    for column in (*named, *_CHOICES, *_ATTRIBUTES, *attributes):
        frame[column] = frame[column].fillna("").astype(str).str.strip()
    for column in (*_ATTRIBUTES, *attributes):
        frame[column] = frame[column].replace("", "unknown")
    for column in named:
        _refuse(frame[column] == "", name, column, "a name", "nothing")
    for column, known in _CHOICES.items():
        _refuse(~frame[column].isin(known), name, column, f"one of {', '.join(known)}", "another")
    for column in _RANGES:
        if column in frame.columns:
            frame[column] = _numbers(frame[column], name, column)
    _check_rows(frame, name)
    return frame


def _check_columns(columns: list[str], attributes: Sequence[str], name: str) -> None:
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise DataError(f"'{name}' has the column '{repeated[0]}' twice; keep one.")
    for column in columns:
        if not _is_known(column) and column not in attributes:
            known = (*PREDICTION_COLUMNS, *OPTIONAL_COLUMNS)
            near = difflib.get_close_matches(column, known, n=1, cutoff=0.6)
            hint = (
                f"did you mean '{near[0]}'?"
                if near
                else "remove it, or name it as an attribute to compare patients by it. The "
                f"columns of a table are: {', '.join(known)}."
            )
            raise DataError(f"'{name}' has an unknown column '{column}'; {hint}")
    missing = [column for column in (*PREDICTION_COLUMNS, *attributes) if column not in columns]
    if missing:
        listed = ", ".join(f"'{column}'" for column in missing)
        raise DataError(
            f"'{name}' lacks {'columns' if missing[1:] else 'the column'} {listed}; add what is "
            "missing (an attribute that is not known is the text unknown, an age is left empty)."
        )


def _numbers(values: "pd.Series[Any]", name: str, column: str) -> "pd.Series[float]":
    import pandas as pd

    low, high = _RANGES[column]
    span = f"from {low:g} to {high:g}" if high != float("inf") else "0 or more"
    wanted = "a number" if low == -float("inf") else f"a number {span}"
    blank = values.isna() | (values.astype(str).str.strip() == "")
    numbers = pd.to_numeric(values.where(~blank), errors="coerce").astype("float64")
    finite = numbers.notna() & (numbers.abs() != float("inf"))
    may_be_blank = column == "age_years" or column in OPTIONAL_COLUMNS
    bad = ~finite & ~blank if may_be_blank else ~finite
    _refuse(bad, name, column, wanted, "something else")
    _refuse(finite & ((numbers < low) | (numbers > high)), name, column, wanted, "one outside")
    return numbers


def _check_rows(frame: "pd.DataFrame", name: str) -> None:
    key_columns = [column for column in _KEY if column in frame.columns]
    twice = frame.duplicated(key_columns, keep=False)
    if twice.any():
        key = frame.loc[twice, key_columns]
        first = key.iloc[0]
        rows = key.index[(key == first).all(axis=1)][:2]
        label = f" and label '{first['label']}'" if "label" in key_columns else ""
        raise DataError(
            f"'{name}' scores one case twice for arm '{first['arm']}' and prompt "
            f"'{first['prompt']}'{label} (rows {rows[0] + 2} and {rows[1] + 2}); keep one row."
        )
    for part, whole in _PARTS.items():
        if {part, whole} <= set(frame.columns):
            more = frame[part] > frame[whole]
            _refuse(more, name, part, f"at most what '{whole}' says", "more")
    for column in ("units", "nsd_tolerance"):
        if (frame[column] != frame[column].iloc[0]).any():
            raise DataError(
                f"'{name}' mixes values in column '{column}'; distances and NSD can only be "
                "averaged under one. Score the cases again with one, or split the table."
            )


def _refuse(bad: "pd.Series[bool]", name: str, column: str, wanted: str, came: str) -> None:
    """Raise for the first row marked bad; names row and column, never the value."""
    if bad.any():
        row = int(bad.to_numpy().argmax()) + 2
        raise DataError(
            f"'{name}', row {row}, column '{column}': wanted {wanted}, got {came}. "
            "Correct the row or leave the case out."
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, readable by its owner only; makes its folder.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ResourceError(
            f"'{path}' could not be written: {error.strerror}. Free space or name another folder."
        ) from None
