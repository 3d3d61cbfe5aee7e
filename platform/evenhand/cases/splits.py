"""Which patients train and which test: whole patients, hospital by hospital, always the same.

A patient's place follows from the seed, the hospital and the patient's id alone
(by SHA-256), so it depends neither on the order of files nor on the platform or
a library's random generator, and patients that join later move few others.

Patients whose reference mask comes from a review train: the mask began as a model's
proposal, and no model is tested by what it proposed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from evenhand.cases.records import Case
from evenhand.cases.store import CaseStore
from evenhand.errors import ConfigError, DataError

__all__ = ["REFERENCE", "REVIEW", "Split", "split_patients"]

REFERENCE = "reference"
"""What of a case's `acquisition` says where its reference mask comes from."""

REVIEW = "review"
"""It comes from a review of a proposed mask."""

Patients = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Split:
    """Patient ids by hospital, for training and for testing; each patient once.

    Raises:
        DataError: a patient is in both parts, in two hospitals, or listed twice.
    """

    train: Patients
    test: Patients

    def __post_init__(self) -> None:
        """Freeze, sort and check."""
        object.__setattr__(self, "train", _frozen(self.train))
        object.__setattr__(self, "test", _frozen(self.test))
        for part in (self.train, self.test):
            for hospital, ids in part.items():
                _refuse(_repeated(ids), f"listed twice for hospital {hospital}")
        own = [{*self.train.get(h, ()), *self.test.get(h, ())} for h in self.hospitals]
        _refuse(_repeated(patient for ids in own for patient in ids), "in two hospitals")
        in_train = {patient for ids in self.train.values() for patient in ids}
        in_test = {patient for ids in self.test.values() for patient in ids}
        _refuse(in_train & in_test, "both in train and in test")

    @property
    def hospitals(self) -> tuple[str, ...]:
        """Hospitals of the split, sorted."""
        return tuple(sorted({*self.train, *self.test}))

    def to_json(self) -> str:
        """Return the split as JSON text: `{"train": {hospital: [ids]}, "test": ...}`."""
        parts = {"train": self.train, "test": self.test}
        content = {part: {h: list(ids) for h, ids in own.items()} for part, own in parts.items()}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Split":
        """Read what `to_json` wrote.

        Raises:
            DataError: the text is not a split, or not a valid one.
        """
        try:
            raw = json.loads(text)
            return cls(train=_ids(raw["train"]), test=_ids(raw["test"]))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise DataError(
                'A split must be JSON of the form {"train": {hospital: [patient ids]}, '
                '"test": {...}}; this one is not. Delete splits.json and run again.'
            ) from None


def split_patients(source: Iterable[CaseStore | Case], *, test_fraction: float, seed: int) -> Split:
    """Split patients into train and test, stratified by hospital.

    Each hospital with two patients or more gets `round(n * test_fraction)` test
    patients, at least one and at most n - 1; a single patient trains. A patient whose
    reference comes from a review trains.

    Args:
        source: stores, or cases; several cases of a patient stay together.
        test_fraction: part of the patients that tests, between 0 and 1.
        seed: another seed, another split.

    Raises:
        ConfigError: `test_fraction` is not between 0 and 1.
        DataError: no patients, a hospital without any, a patient in two hospitals, or none
            left that could test.
    """
    if not 0 < test_fraction < 1:
        raise ConfigError(f"data.test_fraction must be between 0 and 1; got {test_fraction}.")
    cases = list(_cases(source))
    patients = _patients(cases)
    reviewed = {
        case.patient.patient_id for case in cases if case.acquisition.get(REFERENCE) == REVIEW
    }
    if not patients:
        raise DataError("There are no cases to split; ingest some with `evenhand ingest`.")
    train, test = {}, {}
    for hospital, ids in patients.items():
        free = ids - reviewed
        ranked = [patient for _, patient in sorted((_rank(seed, hospital, p), p) for p in free)]
        count = len(ids)
        tests = min(max(round(count * test_fraction), 1), count - 1)
        if tests > len(ranked) == 0:
            raise DataError(
                f"All patients of hospital {hospital} have a reference mask from a review, so "
                "none is left to test with. Leave some corrections out, or add patients."
            )
        tests = min(tests, len(ranked))
        test[hospital] = tuple(ranked[:tests])
        train[hospital] = (*ranked[tests:], *sorted(ids & reviewed))
    return Split(train=train, test=test)


def _frozen(part: Patients) -> Patients:
    return MappingProxyType({name: tuple(sorted(ids)) for name, ids in sorted(part.items())})


def _cases(source: Iterable[CaseStore | Case]) -> Iterable[Case]:
    for item in source:
        if isinstance(item, CaseStore):
            if not len(item):
                raise DataError(
                    f"No data for hospital {item.hospital}: its store '{item.path}' is empty. "
                    "Ingest its cases, or leave it out with data.left_out."
                )
            yield from item
        else:
            yield item


def _patients(cases: Iterable[Case]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for case in cases:
        found.setdefault(case.patient.hospital, set()).add(case.patient.patient_id)
    return dict(sorted(found.items()))


def _rank(seed: int, hospital: str, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}/{hospital}/{patient}".encode()).digest()


def _ids(raw: Mapping[str, Sequence[Any]]) -> dict[str, tuple[str, ...]]:
    for ids in raw.values():
        if isinstance(ids, str) or not all(isinstance(patient, str) for patient in ids):
            raise TypeError
    return {hospital: tuple(ids) for hospital, ids in raw.items()}


def _repeated(ids: Iterable[str]) -> set[str]:
    return {patient for patient, count in Counter(ids).items() if count > 1}


def _refuse(patients: set[str], what: str) -> None:
    if patients:
        raise DataError(
            f"{len(patients)} patient(s) are {what}, '{min(patients)}' first; each patient "
            "must be in one part of one hospital. Correct the ids and split again."
        )
