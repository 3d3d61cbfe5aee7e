"""Names of files and folders without identity.

A name is taken apart the BIDS way (`sub-X_acq-Y_T1w.nii.gz`). The subject
becomes a pseudonym, a session a keyed token. A word stays only if it is on the
list in `tables/allowed.toml`, or is a number of at most three digits; every other word becomes a
keyed token, so that different files keep different names.
"""

import re
from pathlib import PurePath

from evenhand.ingest.deid.allowed import allowed
from evenhand.ingest.deid.pseudonyms import Pseudonymiser

__all__ = ["clean_path", "patient_of", "rename_subject"]

_ENDINGS = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".json", ".tsv", ".dcm")
_NUMBER = re.compile(r"\d{1,3}")


def patient_of(path: PurePath) -> str | None:
    """The subject that a path names (`sub-X`), or None."""
    for part in path.parts:
        found = re.match(r"sub-([^_.]+)", part)
        if found:
            return found.group(1)
    return None


def rename_subject(label: str, names: Pseudonymiser) -> str:
    """`sub-X` (or `X`) as `sub-PSEUDONYM`."""
    return f"sub-{names.pseudonym(label.removeprefix('sub-'))}"


def clean_path(path: PurePath, names: Pseudonymiser) -> PurePath:
    """A relative path without identity; equal paths stay equal, different ones different."""
    folders = [_folder(part, names) for part in path.parts[:-1]]
    return PurePath(*folders, _file(path.name, names))


def _folder(part: str, names: Pseudonymiser) -> str:
    if part in allowed("names", "folders"):
        return part
    return _word(part, names) if "-" in part else f"d{names.token('folder', f'<{part}>')}"


def _file(name: str, names: Pseudonymiser) -> str:
    if name in ("participants.tsv", "dataset_description.json"):
        return name
    ending = next((each for each in _ENDINGS if name.lower().endswith(each)), "")
    stem = name[: len(name) - len(ending)] if ending else name
    return "_".join(_word(word, names) if word else "" for word in stem.split("_")) + ending


def _word(word: str, names: Pseudonymiser) -> str:
    key, dash, value = word.partition("-")
    if dash and value:
        if key == "sub":
            return rename_subject(value, names)
        if key == "ses":
            return f"ses-{names.token('session', value)}"
        if key in allowed("names", "keys"):
            return f"{key}-{_plain(value, names)}"
    return _plain(word, names)


def _plain(word: str, names: Pseudonymiser) -> str:
    if word in allowed("names", "words") or _NUMBER.fullmatch(word):
        return word
    return f"x{names.token('word', f'<{word}>')}"
