"""Patterns of paths: `refs/{case}.nii.gz` finds files and says which case each one is."""

import glob
import re
from pathlib import Path

from evenhand.errors import DataError

__all__ = ["find_cases", "matches_of"]

PLACE = re.compile(r"\{(case|patient)\}|(\*)")


def find_cases(pattern: str) -> dict[tuple[str, str], Path]:
    """Files that a pattern names, by (patient, case), sorted.

    A pattern with only one of {case} and {patient} takes the one for the other.

    Raises:
        DataError: nothing is found, or two files are of one case.
    """
    expression = _expression(pattern)
    wild = PLACE.sub("*", glob.escape(pattern).replace("[*]", "*"))
    found: dict[tuple[str, str], Path] = {}
    for name in sorted(glob.glob(wild)):  # noqa: PTH207 - patterns may be absolute
        match = expression.fullmatch(name)
        if match is None:  # two places of one name that differ
            continue
        parts = match.groupdict()
        case = parts.get("case") or parts["patient"]
        patient = parts.get("patient") or case
        first = found.setdefault((patient, case), Path(name))
        if first != Path(name):
            raise DataError(
                f"'{first.name}' and '{Path(name).name}' are both masks of case '{case}'. Make the "
                f"pattern '{pattern}' narrower, or keep one."
            )
    if not found:
        raise DataError(f"No file matches '{pattern}'. Correct the pattern, or the folder.")
    return found


def matches_of(pattern: str, *, case: str, patient: str) -> Path | None:
    """The one path that a pattern names for a case, or None.

    Raises:
        DataError: several do.
    """
    ids = {"case": glob.escape(case), "patient": glob.escape(patient)}
    plain = glob.escape(pattern).replace("[*]", "*")
    name = re.sub(r"\{(case|patient)\}", lambda place: ids[place[1]], plain)
    found = sorted(glob.glob(name))  # noqa: PTH207 - patterns may be absolute
    if len(found) > 1:
        raise DataError(
            f"'{pattern}' names {len(found)} files for case '{case}'; one is wanted. Make the "
            "pattern narrower."
        )
    return Path(found[0]) if found else None


def _expression(pattern: str) -> re.Pattern[str]:
    """A regular expression whose groups are the places; a place that comes again must agree."""
    pieces, end, seen = [], 0, set[str]()
    for place in PLACE.finditer(pattern):
        pieces.append(re.escape(pattern[end : place.start()]))
        end = place.end()
        name = place[1]
        if name is None:
            pieces.append(r"[^/]*")
        elif name in seen:
            pieces.append(f"(?P={name})")
        else:
            pieces.append(rf"(?P<{name}>[^/]+?)")
            seen.add(name)
    return re.compile("".join(pieces) + re.escape(pattern[end:]))
