"""Read tables of any maker: CSV, TSV or Parquet, every cell as it stands."""

import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from evenhand.errors import DataError

__all__ = ["blank_as_missing", "numbers", "read_any_table"]


def read_any_table(path: Path) -> pd.DataFrame:
    """Read a table by its ending: `.csv`, `.tsv`, `.parquet`; cells as text, blanks as "".

    Raises:
        DataError: missing, not readable as what its ending says, a column twice, or no rows.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no table '{path}'. Correct the path.") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}. Name a file.") from None
    try:
        frame = _parsed(content, path.suffix.lower())
    except (ValueError, UnicodeDecodeError, OSError):
        raise DataError(
            f"'{path.name}' is not what its ending says. Save it as comma-separated text in UTF-8 "
            "(.csv), tab-separated (.tsv) or Parquet (.parquet)."
        ) from None
    frame.columns = [str(column).strip() for column in frame.columns]
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise DataError(f"'{path.name}' has the column '{repeated[0]}' twice; keep one.")
    if frame.empty:
        raise DataError(f"'{path.name}' has no rows.")
    return frame


def _parsed(content: bytes, ending: str) -> pd.DataFrame:
    stream = io.BytesIO(content)
    if ending == ".parquet":
        frame = pd.read_parquet(stream)
        return frame.astype(object).where(frame.notna(), "")
    if ending not in {".csv", ".tsv", ".txt"}:
        raise ValueError(ending)
    separator = "," if ending == ".csv" else "\t"
    # pandas renames a column that comes twice, which would hide it: the header is read as a row.
    frame = pd.read_csv(
        stream, sep=separator, dtype=str, keep_default_na=False, header=None, encoding="utf-8-sig"
    )
    header, rows = frame.iloc[0], frame.iloc[1:].reset_index(drop=True)
    rows.columns = pd.Index(list(header))
    return rows


def numbers(values: "pd.Series[Any]", name: str, column: str) -> "pd.Series[float]":
    """Numbers of a column; blanks are NaN.

    Raises:
        DataError: a cell is neither a number nor blank; names row and column, never the value.
    """
    text = values.astype(str).str.strip()
    blank = text.str.lower().isin({"", "nan", "n/a", "na", "none"})
    found = pd.to_numeric(text.where(~blank), errors="coerce").astype("float64")
    bad = found.isna() & ~blank
    if bad.any():
        row = int(bad.to_numpy().argmax()) + 2
        raise DataError(
            f"'{name}', row {row}, column '{column}': wanted a number, got something else. Correct "
            "the row or leave the case out."
        )
    return found


def blank_as_missing(values: "pd.Series[Any]", missing: Collection[str]) -> "pd.Series[Any]":
    """Text, with every spelling of a missing value as "unknown"."""
    text = values.where(values.notna(), "").astype(str).str.strip()
    return text.where(~text.str.lower().isin(missing), "unknown")
