"""One DICOM study as a recipe: which volumes and which mask, and how they become a case."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.records import Patient
from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.ingest.deid import Pseudonymiser
from evenhand.ingest.dicom.files import FileRef, opened
from evenhand.ingest.dicom.frames import Plane
from evenhand.ingest.dicom.pixels import read_stack, unit_of
from evenhand.ingest.dicom.segmentations import read_rtstruct, read_seg
from evenhand.ingest.dicom.suv import PetFacts
from evenhand.ingest.recipes import Content
from evenhand.ingest.resample import onto_grid

__all__ = ["DicomCase", "MaskSource", "VolumeSource"]

_VERSION = 1
"""Raised when a study would be stored differently, so that old cases are made anew."""
_CHUNK = 2**20


@dataclass(frozen=True)
class VolumeSource:
    """A volume to be read: its slices count in the case's files."""

    name: str
    modality: str
    planes: tuple[Plane, ...]
    affine: Affine
    pet: PetFacts | None
    why: str
    notes: tuple[str, ...]
    acquisition: tuple[tuple[str, str], ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return self.planes[0].columns, self.planes[0].rows, len(self.planes)


@dataclass(frozen=True)
class MaskSource:
    """Where the mask comes from: `kind` "seg" or "rtstruct", a file, and the labels to merge."""

    kind: str
    file: int
    labels: tuple[int, ...]
    why: str


@dataclass(frozen=True, kw_only=True)
class DicomCase:
    """The recipe of one study. The first volume gives the grid."""

    label: str
    case_id: str
    patient: Patient
    volumes: tuple[VolumeSource, ...]
    mask: MaskSource | None
    files: tuple[FileRef, ...]
    study_date: str
    names: Pseudonymiser

    @property
    def has_mask(self) -> bool:
        """Whether a segmentation was found."""
        return self.mask is not None

    def fingerprint(self) -> str:
        """Hash what the case is made from, keyed: nobody else can test a guess against it.

        Raises:
            DataError: a file is gone.
        """
        plan = {
            "patient": _as_dict(self.patient),
            "volumes": [[volume.name, len(volume.planes)] for volume in self.volumes],
            "mask": asdict(self.mask) if self.mask else None,
            "date": self.study_date,
        }
        digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode())
        for ref in self.files:
            try:
                with opened(ref) as file:
                    while block := file.read(_CHUNK):
                        digest.update(block)
            except DataError as error:
                raise DataError(f"a file of the study is not as it was: {error}.") from None
        return f"DICOM, version {_VERSION}, {self.names.token('source', digest.hexdigest())}"

    def read(self) -> Content:
        """Decode the volumes and put all on the grid of the first."""
        first = self.volumes[0]
        images: dict[str, NDArray[np.float32]] = {}
        notes: dict[str, tuple[str, ...]] = {}
        for volume in self.volumes:
            voxels = read_stack(volume.planes, self.files, volume.pet)
            notes[volume.name] = volume.notes
            if volume is not first:
                voxels, copied = onto_grid(voxels, volume.affine, first.shape, first.affine)
                if not copied:
                    how = f"resampled linearly onto the grid of {first.name}"
                    notes[volume.name] = (*volume.notes, how)
            images[volume.name] = voxels
        mask, mask_notes = self._mask(first)
        evidence = self._evidence(notes, mask_notes)
        return Content(
            affine=first.affine,
            images=images,
            mask=mask,
            acquisition=self._acquisition(),
            evidence=evidence,
        )

    def _mask(self, first: VolumeSource) -> tuple[NDArray[np.uint8] | None, tuple[str, ...]]:
        if self.mask is None:
            return None, ()
        read = read_seg if self.mask.kind == "seg" else read_rtstruct
        mask, notes = read(self.files[self.mask.file], self.mask.labels, first.shape, first.affine)
        if not mask.any():
            raise DataError(
                "the mask is empty on the grid of the image: the segmentation lies elsewhere, or "
                "the label that was chosen has nothing drawn."
            )
        return mask, notes

    def _acquisition(self) -> Mapping[str, str]:
        found = dict(self.volumes[0].acquisition) | {"modality": self.volumes[0].modality}
        if self.study_date:
            found["study_date_shifted"] = self.study_date
        for volume in self.volumes:
            intercepts = [plane.intercept for plane in volume.planes]
            found[f"unit_{volume.name}"] = unit_of(volume.modality, intercepts)
        return found

    def _evidence(
        self, notes: Mapping[str, tuple[str, ...]], mask_notes: tuple[str, ...]
    ) -> Mapping[str, Any]:
        series = {
            volume.name: {
                "slices": len(volume.planes),
                "named": volume.why,
                "notes": list(notes[volume.name]),
            }
            for volume in self.volumes
        }
        mask = None
        if self.mask is not None:
            kind = {"seg": "DICOM SEG", "rtstruct": "RTSTRUCT"}[self.mask.kind]
            mask = {"from": kind, "labels": self.mask.why, "notes": list(mask_notes)}
        return {
            "source": "DICOM",
            "key": self.names.key_fingerprint,
            "header": "not stored; kept: sex, age (at most 90), ethnic group (closed list), maker "
            "of the scanner (closed list), numbers of the acquisition; date of study shifted",
            "pixels": "files marked as showing text are refused, and those of modalities known for "
            "it unless marked as free of it",
            "series": series,
            "mask": mask,
        }


def _as_dict(patient: Patient) -> dict[str, Any]:
    """Return the record as plain values, for hashing."""
    row = {name: getattr(patient, name) for name in ("patient_id", "hospital", "sex", "age_years")}
    return row | {"race": patient.race, "ethnicity": patient.ethnicity, **patient.extra}
