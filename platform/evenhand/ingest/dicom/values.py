"""Reading elements of files that nobody has vouched for: a value of its type, or None."""

import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

__all__ = [
    "DICOM_ERRORS",
    "day",
    "first_item",
    "instant",
    "items",
    "lenient",
    "number",
    "numbers",
    "text",
    "texts",
]

DICOM_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom and its decoders raise when a file is damaged."""

_TIME = re.compile(r"(\d{2})(\d{2})?(\d{2})?(\.\d{1,6})?")


@contextmanager
def lenient() -> Iterator[None]:
    """Read what can be read: no validation of values, no warnings (they quote values)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = config.settings.reading_validation_mode
        config.settings.reading_validation_mode = config.IGNORE
        try:
            yield
        finally:
            config.settings.reading_validation_mode = before


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except DICOM_ERRORS:
        return None


def text(dataset: Dataset, keyword: str) -> str:
    """Return a text without padding; "" where there is none."""
    value = _value(dataset, keyword)
    if value is None or isinstance(value, list):
        return ""
    try:
        return str(value).strip(" \0\t\r\n")
    except DICOM_ERRORS:
        return ""


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return all values as texts."""
    value = _value(dataset, keyword)
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return tuple(str(each).strip(" \0") for each in values)


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return exactly `count` finite numbers, or None."""
    value = _value(dataset, keyword)
    try:
        values = [value] if count == 1 and not isinstance(value, (list, str)) else list(value)
        if count == 1 and not hasattr(value, "__iter__"):
            values = [value]
        found = tuple(float(each) for each in values)
    except DICOM_ERRORS:
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return one finite number, or None."""
    value = _value(dataset, keyword)
    try:
        found = float(value)
    except DICOM_ERRORS:
        return None
    return found if math.isfinite(found) else None


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; none where there is no sequence."""
    value = _value(dataset, keyword)
    try:
        return [item for item in value if isinstance(item, Dataset)] if value else []
    except DICOM_ERRORS:
        return []


def first_item(dataset: Dataset, keyword: str) -> Dataset:
    """Return the first item of a sequence, or an empty data set."""
    return next(iter(items(dataset, keyword)), Dataset())


def day(value: str) -> date | None:
    """Read a DICOM date (`YYYYMMDD`, or `YYYY.MM.DD` of old); None if it is not one."""
    digits = value.replace(".", "")[:8]
    try:
        return datetime.strptime(digits, "%Y%m%d").date() if len(digits) == 8 else None  # noqa: DTZ007
    except ValueError:
        return None


def instant(date_text: str, time_text: str) -> datetime | None:
    """Join a DICOM date and time (`HHMMSS.FFFFFF`); None if either is not one."""
    found, on = _TIME.match(time_text.replace(":", "")), day(date_text)
    if not found or on is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups()[:3])
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    fraction = float(found.group(4) or 0)
    start = datetime.combine(on, datetime.min.time())
    return start + timedelta(hours=hours, minutes=minutes, seconds=seconds + fraction)
