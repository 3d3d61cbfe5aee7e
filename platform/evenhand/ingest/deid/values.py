"""Dummy values by value representation, shifted dates, and identifiers to look for again."""

import re
from collections.abc import Iterable
from datetime import date
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary

from evenhand.ingest.deid.pseudonyms import OLDEST_AGE_YEARS, Pseudonymiser

__all__ = ["Identifiers", "capped_age", "dummy", "mapped_uid", "shifted"]

_DUMMIES: dict[str, Any] = {
    "AE": "REMOVED",
    "AS": "000Y",
    "CS": "REMOVED",
    "DA": "19000101",
    "DS": "0",
    "DT": "19000101000000",
    "FD": 0.0,
    "FL": 0.0,
    "IS": "0",
    "LO": "REMOVED",
    "LT": "REMOVED",
    "OB": b"\0\0",
    "OW": b"\0\0",
    "PN": "REMOVED",
    "SH": "REMOVED",
    "SL": 0,
    "SS": 0,
    "ST": "REMOVED",
    "TM": "000000",
    "UC": "REMOVED",
    "UL": 0,
    "UN": b"\0\0",
    "UR": "urn:removed",
    "US": 0,
    "UT": "REMOVED",
}
_DAY = re.compile(r"\d{8}")
_DATE_DIGITS = 8
_NAME_LETTERS = 3
_ID_CHARACTERS = 4
_WHOLE = frozenset(
    {
        0x00080050,  # Accession Number
        0x00080080,  # Institution Name
        0x00081010,  # Station Name
        0x00100020,  # Patient ID
        0x00101000,  # Other Patient IDs
        0x00101040,  # Patient's Address
        0x00102154,  # Patient's Telephone Numbers
        0x00102180,  # Occupation
        0x00380010,  # Admission ID
    }
)
_WORD = re.compile(r"[^\W\d_]+")


def dummy(vr: str) -> Any:
    """A value of a VR that says nothing; a sequence gets one empty item."""
    return [Dataset()] if vr == "SQ" else _DUMMIES.get(vr, "")


def mapped_uid(uid: str, names: Pseudonymiser) -> str:
    """The UID that stands for another; those that DICOM itself defines stay.

    Empty text stays empty.
    """
    text = str(uid).strip(" \0")
    return text if not text or text in UID_dictionary else names.uid(text)


def shifted(vr: str, text: str, patient_id: str, names: Pseudonymiser) -> str | None:
    """A DA or DT value with its date moved and its time kept; None where it is no full date.

    A DT's offset from UTC is dropped: it says where the patient was.
    """
    text = text.strip(" \0").replace(".", "", 2) if vr == "DA" else text.strip(" \0")
    found = _DAY.match(text)
    if not found:
        return None
    try:
        day = date.fromisoformat(found.group())
    except ValueError:
        return None
    rest = "" if vr == "DA" else re.split(r"[+-]", text[_DATE_DIGITS:])[0]
    if not re.fullmatch(r"[\d.]*", rest):
        return None
    return names.shift(patient_id, day).strftime("%Y%m%d").zfill(_DATE_DIGITS) + rest


def capped_age(text: str) -> str:
    """An AS value in which everybody of 90 years and more is 90; "" where it is no age."""
    found = re.fullmatch(r"(\d{3})([DWMY])", text.strip(" \0"))
    if not found:
        return ""
    years = int(found.group(1)) if found.group(2) == "Y" else 0
    return f"{OLDEST_AGE_YEARS:03d}Y" if years > OLDEST_AGE_YEARS else found.group()


class Identifiers:
    """What identified the patient in one object, to find it again where no rule expected it.

    Names count by their words of at least three letters, numbers and places as
    a whole from four characters on, so that a patient called "Li" does not cost
    each "Li..." in the header; the table's own rules remove such names anyway.
    """

    def __init__(self, elements: Iterable[DataElement]) -> None:
        words: set[str] = set()
        wholes: set[str] = set()
        for element in elements:
            for text in _texts(element):
                if element.VR == "PN":
                    found = _WORD.findall(text.casefold())
                    words.update(word for word in found if len(word) >= _NAME_LETTERS)
                elif element.tag in _WHOLE and len(text) >= _ID_CHARACTERS:
                    wholes.add(text.casefold())
        self._wholes = frozenset(wholes)
        self._words = frozenset(words)

    def __contains__(self, text: str) -> bool:
        """Whether a value holds one of the identifiers."""
        folded = text.casefold()
        if any(whole in folded for whole in self._wholes):
            return True
        return not self._words.isdisjoint(_WORD.findall(folded))


def _texts(element: DataElement) -> list[str]:
    value = element.value
    values = value if isinstance(value, (list, tuple)) or element.VM > 1 else [value]
    return [text for each in values if each is not None and (text := str(each).strip(" \0"))]
