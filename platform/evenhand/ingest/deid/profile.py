"""DICOM PS3.15 Annex E as data: which attribute meets which fate under which options.

The table lies in `tables/profile_2026c.csv`: the actions of the Basic Profile
are those of edition 2026c (Table E.1-1), the columns of the options those of
edition 2024d, except (0010,2162) Ethnic Groups, which is treated as (0010,2160).
An attribute that came after 2024d has no option, so no option retains it.
`tables/safe_private.csv` is the part of Table E.3.10-1 that concerns how CT, MR
and PET images were acquired.

Where the table leaves a choice that depends on the type of the attribute in its
object (X/Z, Z/D, X/Z/D ...), the action is taken that keeps the object valid
whatever the type: D before Z before X. Privacy is the same in all three.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from evenhand.errors import UsageError

__all__ = [
    "EDITION",
    "Action",
    "Option",
    "Row",
    "action_of",
    "parse_options",
    "profile_rows",
    "row_of",
    "safe_private",
]

EDITION = "DICOM PS3.15 2026c, Table E.1-1"
"""Where the actions of the Basic Profile come from."""


class Option(StrEnum):
    """Options of Annex E that are offered. The value is what the command line calls it."""

    CLEAN_PIXELS = "clean-pixels"
    """113101: burned-in text is looked for and blanked."""
    CLEAN_FEATURES = "clean-features"
    """113102: faces were removed. Claimed only with evidence, never by this module alone."""
    MODIFIED_DATES = "modified-dates"
    """113107: dates are shifted, each patient's by one number of days; times stay."""
    PATIENT_CHARACTERISTICS = "patient-characteristics"
    """113108: sex, age (90 and above: 90), size, weight, ethnic group ... stay, for the audit."""
    DEVICE_IDENTITY = "device-identity"
    """113109: serial numbers and station names stay."""
    SAFE_PRIVATE = "safe-private"
    """113111: private attributes that the standard lists as safe stay."""

    @property
    def code(self) -> str:
        """Code value of the option in the coding scheme DCM (PS3.16 CID 7050)."""
        return _CODES[self][0]

    @property
    def meaning(self) -> str:
        """Code meaning of the option in the coding scheme DCM."""
        return _CODES[self][1]


_CODES = {
    Option.CLEAN_PIXELS: ("113101", "Clean Pixel Data Option"),
    Option.CLEAN_FEATURES: ("113102", "Clean Recognizable Visual Features Option"),
    Option.MODIFIED_DATES: (
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    ),
    Option.PATIENT_CHARACTERISTICS: ("113108", "Retain Patient Characteristics Option"),
    Option.DEVICE_IDENTITY: ("113109", "Retain Device Identity Option"),
    Option.SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
}


class Action(StrEnum):
    """What happens to an attribute."""

    REMOVE = "removed"
    EMPTY = "emptied"
    DUMMY = "replaced by a dummy"
    UID = "replaced by a keyed UID"
    SHIFT = "date shifted"
    RECURSE = "items cleaned"
    KEEP = "kept"


@dataclass(frozen=True)
class Row:
    """One attribute of the table. `options` maps a column to K (keep) or C (clean).

    `tag` is eight hexadecimal digits; x, g and e stand for any digit.
    """

    tag: str
    name: str
    vr: str
    basic: str
    options: dict[str, str]


_BASIC = {
    "X": Action.REMOVE,
    "Z": Action.EMPTY,
    "D": Action.DUMMY,
    "U": Action.UID,
    "X/Z": Action.EMPTY,
    "X/D": Action.DUMMY,
    "Z/D": Action.DUMMY,
    "X/Z/D": Action.DUMMY,
    "X/Z/U*": Action.RECURSE,
}
_KEEPING = {
    Option.PATIENT_CHARACTERISTICS: "retain_patient",
    Option.DEVICE_IDENTITY: "retain_device",
}
_DATED = frozenset({"DA", "DT"})


@cache
def profile_rows() -> dict[str, Row]:
    """All rows of the table, by tag."""
    rows = {}
    for cells in _read("profile_2026c.csv"):
        tag, name, vr, basic = (cells.pop(key) for key in ("tag", "name", "vr", "basic"))
        rows[tag] = Row(tag, name, vr, basic, {key: mark for key, mark in cells.items() if mark})
    return rows


@cache
def safe_private() -> dict[tuple[str, int, int], str]:
    """Private attributes that are safe: (creator, group, element's low byte) to VR."""
    return {
        (cells["creator"], int(cells["group"], 16), int(cells["element"], 16)): cells["vr"]
        for cells in _read("safe_private.csv")
    }


def row_of(tag: int) -> Row | None:
    """The row that speaks of a tag, or None where the table is silent."""
    rows = profile_rows()
    text = f"{tag:08x}"
    if text in rows:
        return rows[text]
    if int(text[:4], 16) % 2:
        return rows["ggggeeee"]
    if text[:2] == "50":
        return rows["50xxxxxx"]
    if text[:2] == "60":  # an overlay goes as a whole: its label means nothing without its data
        return rows["60xx3000"]
    return None


def action_of(row: Row, vr: str, options: frozenset[Option]) -> Action:
    """What happens to an attribute of the table under the options that were chosen.

    C (clean) is met by the action of the Basic Profile, except for dates: text
    cannot be cleaned reliably by a program, so it goes.

    Args:
        row: the attribute.
        vr: its value representation in the object at hand.
        options: that apply.
    """
    if Option.MODIFIED_DATES in options and row.options.get("retain_modified_dates") == "C":
        if vr in _DATED:
            return Action.SHIFT
        if vr == "TM":
            return Action.KEEP
    for option, column in _KEEPING.items():
        if option in options and row.options.get(column) == "K":
            return _kept(vr)
    return _BASIC[row.basic]


def parse_options(names: Iterable[str]) -> frozenset[Option]:
    """Options by their names on the command line.

    Raises:
        UsageError: there is no such option.
    """
    known = {option.value: option for option in Option}
    chosen = set()
    for name in names:
        if name not in known:
            raise UsageError(f"There is no option '{name}'; known are {', '.join(known)}.")
        chosen.add(known[name])
    return frozenset(chosen)


def _kept(vr: str) -> Action:
    return {"UI": Action.UID, "SQ": Action.RECURSE}.get(vr, Action.KEEP)


def _read(name: str) -> list[dict[str, str]]:
    text = (files("evenhand.ingest.deid") / "tables" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
