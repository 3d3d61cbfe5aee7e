"""The files of one case: its record, its volumes, its evidence; sealed if the store has a key.

CASE_ID/case.json         CASE_ID/case.json.sealed
CASE_ID/FLAIR.nii.gz      CASE_ID/FLAIR.nii.gz.sealed
...                       the same contents, encrypted (see `evenhand.cases.sealing`)
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.nifti import nifti_members, parse_nifti
from evenhand.cases.records import Case, Patient
from evenhand.cases.sealing import StoreKey
from evenhand.geometry import Affine

__all__ = ["EVIDENCE", "MASK", "RECORD", "CaseFolder"]

RECORD = "case.json"
EVIDENCE = "evidence.json"
MASK = "mask"

_SEALED = ".sealed"
_VOLUME = ".nii.gz"


@dataclass(frozen=True)
class CaseFolder:
    """A folder, whose case it is, and the key that seals what is in it (None: plain files)."""

    path: Path
    case_id: str
    key: StoreKey | None

    def place(self, name: str) -> Path:
        """Where a file of that name lies."""
        return self.path / (name + _SEALED if self.key else name)

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file whole.

        Raises:
            OSError: the disk refuses.
        """
        path = self.place(name)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with draft.open("wb") as file:
                if self.key is None:
                    file.writelines(pieces)
                else:
                    file.write(self.key.seal(b"".join(pieces), self._what(name)))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            OSError: it is missing or cannot be read.
            StoreError: it is sealed, and was changed or sealed with another key.
        """
        content = self.place(name).read_bytes()
        return content if self.key is None else self.key.unseal(content, self._what(name))

    def _what(self, name: str) -> str:
        return f"{self.case_id}/{name}"

    def write_volume(self, name: str, voxels: NDArray[Any], affine: Affine) -> None:
        """Write a volume (i, j, k) as gzipped NIfTI, float32 as int16 where that loses nothing.

        Raises:
            OSError: the disk refuses.
        """
        self.write(name + _VOLUME, nifti_members(_compact(voxels), affine))

    def volume_file(self, name: str) -> bytes:
        """The gzipped NIfTI file of a volume.

        Raises:
            OSError, StoreError: as `read`.
        """
        return self.read(name + _VOLUME)

    def read_volume(self, name: str, dtype: type) -> NDArray[Any]:
        """Voxels (i, j, k) of a volume.

        Raises:
            OSError, StoreError: as `read`.
            DataError: it is damaged.
        """
        stored, _ = parse_nifti(self.volume_file(name), name=name)
        return stored.astype(dtype, copy=False)

    def write_record(self, case: Case) -> None:
        """Write the record; a case without one is none, so it is written last.

        Raises:
            OSError: the disk refuses.
        """
        self.write(RECORD, [json.dumps(_to_json(case), indent=1).encode()])

    def read_record(self) -> Case:
        """Read the record.

        Raises:
            OSError, StoreError: as `read`.
            ValueError, KeyError, TypeError, IndexError: it is damaged.
        """
        return _from_json(self.case_id, json.loads(self.read(RECORD)))


def _compact(voxels: NDArray[Any]) -> NDArray[Any]:
    """Return voxels as int16 where that loses nothing, down to the bits of each number."""
    if voxels.dtype != np.float32 or not voxels.size:
        return voxels
    if not (voxels.min() >= -(2**15) and voxels.max() < 2**15):  # NaN is not either
        return voxels
    short = voxels.astype(np.int16)
    same = np.array_equal(short.astype(np.float32).view(np.uint32), voxels.view(np.uint32))
    return short if same else voxels


def _to_json(case: Case) -> Mapping[str, Any]:
    patient = case.patient
    return {
        "patient": {
            "patient_id": patient.patient_id,
            "hospital": patient.hospital,
            "sex": patient.sex,
            "age_years": patient.age_years,
            "race": patient.race,
            "ethnicity": patient.ethnicity,
            "extra": dict(patient.extra),
        },
        "shape": list(case.shape),
        "ras_from_voxel": case.affine.ras_from_voxel.tolist(),
        "sequences": dict(case.sequences),
        "mask_sha256": case.mask_sha256,
        "source": case.source,
        "acquisition": dict(case.acquisition),
        "evidence_sha256": case.evidence_sha256,
    } | ({"labels": list(case.labels)} if case.labels else {})


def _from_json(case_id: str, raw: Mapping[str, Any]) -> Case:
    patient = raw["patient"]
    return Case(
        case_id=case_id,
        patient=Patient(**{**patient, "extra": MappingProxyType(patient["extra"])}),
        shape=(raw["shape"][0], raw["shape"][1], raw["shape"][2]),
        affine=Affine(np.array(raw["ras_from_voxel"])),
        sequences=MappingProxyType(raw["sequences"]),
        mask_sha256=raw["mask_sha256"],
        source=raw["source"],
        acquisition=MappingProxyType(raw.get("acquisition", {})),
        evidence_sha256=raw.get("evidence_sha256"),
        labels=tuple(raw.get("labels", ())),
    )
