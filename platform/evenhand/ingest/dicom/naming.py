"""Which sequence a series is: by rules that are data, or by the user's own table. No guesses.

The rules are in `sequences.toml` beside this file. A series that no rule fits,
or more than one, has no name and is not taken; a user's table decides then.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from evenhand.errors import UsageError

__all__ = ["SKIP", "Naming", "SeriesTable", "name_series", "read_series_table"]

SKIP = "skip"
"""The name that a user gives to series that are not to be taken."""

_RULES = Path(__file__).with_name("sequences.toml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True)
class Naming:
    """A series' `name` in the store ("" where it has none), and why. Quotes rules, not headers."""

    name: str
    why: str


@dataclass(frozen=True)
class SeriesTable:
    """A user's table: patterns of descriptions, and the name that each gets."""

    entries: tuple[tuple[str, str, str], ...] = ()

    def find(self, modality: str, descriptions: Sequence[str]) -> Naming | None:
        """Return the name that the first fitting entry gives."""
        for number, (pattern, only, name) in enumerate(self.entries, start=1):
            if only in {"", modality} and any(
                fnmatchcase(text.lower(), pattern) for text in descriptions[:2] if text
            ):
                return Naming(name, f"entry {number} of your table")
        return None


def read_series_table(path: Path) -> SeriesTable:
    """Read a user's table: `[[series]]` with `description`, `name` and perhaps `modality`.

    Raises:
        UsageError: it cannot be read, or an entry is not of that form.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise UsageError(f"'{path}' cannot be read as TOML; see the hospital guide.") from None
    if set(content) != {"series"} or not isinstance(content["series"], list):
        raise UsageError(f"'{path}' must hold entries [[series]] and nothing else.")
    return SeriesTable(tuple(_entry(path, n, e) for n, e in enumerate(content["series"], 1)))


def _entry(path: Path, number: int, entry: dict[str, Any]) -> tuple[str, str, str]:
    keys = {"description", "modality", "name"}
    if (
        not set(entry) <= keys
        or not all(isinstance(value, str) for value in entry.values())
        or not {"description", "name"} <= set(entry)
        or not _NAME.fullmatch(entry["name"])
    ):
        raise UsageError(
            f"'{path}', entry {number}: texts for description, name and perhaps modality wanted; a "
            f"name is letters, digits, '-' and '_' ('{SKIP}': do not take such series)."
        )
    return entry["description"].lower(), entry.get("modality", ""), entry["name"]


@cache
def _rules() -> dict[str, Any]:
    return tomllib.loads(_RULES.read_text(encoding="utf-8"))


def name_series(
    modality: str, descriptions: Sequence[str], *, contrast: bool, table: SeriesTable
) -> Naming:
    """Name a series from its descriptions (series, protocol, sequence name, scan options).

    Args:
        modality: as DICOM abbreviates it: CT, MR, PT.
        descriptions: as the header gives them; they are never quoted.
        contrast: whether the header names a contrast agent.
        table: the user's; it comes first.
    """
    own = table.find(modality, descriptions)
    if own is not None:
        return own
    words = _words(descriptions)
    fitting = []
    for rule in _rules()["rule"]:
        found = _fits(rule, modality, words, contrast)
        if found is not None:
            fitting.append((rule["name"], found))
    if len(fitting) == 1:
        return Naming(*fitting[0])
    if fitting:
        names = ", ".join(name for name, _ in fitting)
        why = (
            f"its description fits several sequences ({names}); choose in a table (--series-names)"
        )
        return Naming("", why)
    return Naming("", "no rule knows its description; name it in a table (--series-names)")


def _words(descriptions: Sequence[str]) -> str:
    """All words of the descriptions in one line, with a space before and after each."""
    joined = " ".join(descriptions).lower().replace("t2*", "t2star")
    return f" {' '.join(re.sub(r'[^a-z0-9+]', ' ', joined).split())} "


def _has(words: str, pattern: str) -> bool:
    """Whether all words of a pattern stand in the line; `*` at an end stands for the rest."""
    return all(
        f" {part[:-1]}" in words if part.endswith("*") else f" {part} " in words
        for part in pattern.split()
    )


def _fits(rule: dict[str, Any], modality: str, words: str, contrast: bool) -> str | None:
    if rule["modality"] != modality:
        return None
    patterns = rule.get("words")
    found = next((each for each in patterns or () if _has(words, each)), None)
    if patterns and found is None:
        return None
    if any(_has(words, each) for each in rule.get("not", ())):
        return None
    why = f"modality {modality}" if not patterns else f"its description has '{found}'"
    if "contrast" not in rule:
        return why
    if rule["contrast"] != _with_contrast(words, contrast):
        return None
    return f"{why}, {'with' if rule['contrast'] else 'without'} contrast agent"


def _with_contrast(words: str, contrast: bool) -> bool:
    rules = _rules()
    if any(_has(words, each) for each in rules["no_contrast_words"]):
        return False
    return contrast or any(_has(words, each) for each in rules["contrast_words"])
