"""The records that cross stage borders: a patient and a case. Frozen, valid by construction."""

import copyreg
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError
from evenhand.geometry import Affine

__all__ = ["UNKNOWN", "Case", "CaseVolumes", "Patient", "Sex", "is_name"]

UNKNOWN = "unknown"
"""What stands where an attribute is missing. Never dropped, always counted."""

Sex = Literal["F", "M", "O", "unknown"]


# Records go to worker processes whole; a read-only mapping does not know how to by itself.
def _frozen(content: dict[str, str]) -> MappingProxyType[str, str]:
    return MappingProxyType(content)


copyreg.pickle(MappingProxyType, lambda mapping: (_frozen, (dict(mapping),)))

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def is_name(name: str) -> bool:
    """Whether a text can name a hospital, a patient or a case: it can be a folder anywhere."""
    return _NAME.fullmatch(name) is not None


def _check_name(kind: str, name: str) -> None:
    if not is_name(name):
        raise DataError(
            f"A {kind} must be 1 to 64 letters, digits, '-' or '_' and start with a letter or "
            "digit; one that came in is not."
        )


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One person: the unit of privacy and of every split.

    `patient_id` is a pseudonym. Attributes that were not given are "unknown";
    `age_years` is None then. `extra` holds further attributes as text.
    """

    patient_id: str
    hospital: str
    sex: Sex = "unknown"
    age_years: float | None = None
    race: str = UNKNOWN
    ethnicity: str = UNKNOWN
    extra: MappingProxyType[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Refuse names that could not be a folder, and impossible ages."""
        _check_name("patient id", self.patient_id)
        _check_name("hospital name", self.hospital)
        if self.age_years is not None and not 0 <= self.age_years <= 130:
            raise DataError(
                f"Hospital {self.hospital}: an age is outside 0 to 130 years; "
                "correct it in the participants table or write n/a."
            )


@dataclass(frozen=True, kw_only=True)
class Case:
    """One study of one patient as it lies in a store; voxels are read on demand.

    `sequences` maps a sequence name (such as "FLAIR") to the sha256 of its
    voxels; `shape` is (i, j, k), slices along k. `mask_sha256` is None where no
    reference mask exists. `acquisition` says how it was made, as short text
    without identifiers (modality, manufacturer, unit ...); empty where unknown.
    `evidence_sha256` is that of the record of what was done to the source.
    `labels` names what the values 1, 2, ... of the mask mean; empty: it holds 0 and 1, the tumour.
    """

    case_id: str
    patient: Patient
    shape: tuple[int, int, int]
    affine: Affine
    sequences: MappingProxyType[str, str]
    mask_sha256: str | None
    source: str
    acquisition: MappingProxyType[str, str] = field(default_factory=lambda: MappingProxyType({}))
    evidence_sha256: str | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse case names that could not be a folder, and labels that are one or alike."""
        _check_name("case id", self.case_id)
        for label in self.labels:
            _check_name("label", label)
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise DataError("Several labels of a mask need several names; a single one needs none.")


@dataclass(frozen=True, kw_only=True)
class CaseVolumes:
    """The voxels of a case: float32 images (i, j, k) by sequence, uint8 mask.

    The mask holds 0 and 1, or the number of a label (`Case.labels`).
    """

    images: MappingProxyType[str, NDArray[np.float32]]
    mask: NDArray[np.uint8] | None
