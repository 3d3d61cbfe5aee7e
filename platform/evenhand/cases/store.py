"""The case store of one hospital on disk.

    STORE/
      store.json                     schema version, hospital
      cases/CASE_ID/case.json        the record: patient attributes, geometry, checksums
      cases/CASE_ID/FLAIR.nii.gz     one file a sequence
      cases/CASE_ID/mask.nii.gz      0 and 1, uint8; absent where there is no reference
      cases/CASE_ID/evidence.json    what was done to the source; absent for BIDS

A case appears whole or not at all: it is written into a hidden folder beside
its place and renamed. Folders are readable by their owner only (0700). Equal
cases are equal files: nothing in a store tells the time at which it was made.

Schema 2 added `acquisition` and the evidence. A store of schema 1 is read as it
is; the first command that writes into it raises its number.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.nifti import read_nifti, write_nifti
from evenhand.cases.records import Case, CaseVolumes, Patient
from evenhand.errors import DataError, ResourceError, StoreError
from evenhand.geometry import Affine

__all__ = ["SCHEMA_VERSION", "CaseDraft", "CaseStore", "array_sha256"]

SCHEMA_VERSION = 2
"""Raised when the layout on disk changes."""

_READABLE = (1, SCHEMA_VERSION)
_HASHED_AT_ONCE = 16
_DRAFT = ".draft-"
_OLD = ".old-"


def array_sha256(array: NDArray[Any]) -> str:
    """Hash of an array's dtype, shape and values, independent of its memory layout."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    for at in range(0, len(array), _HASHED_AT_ONCE):  # a copy of a part stays in the cache
        digest.update(np.ascontiguousarray(array[at : at + _HASHED_AT_ONCE]).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class CaseDraft:
    """A case that is written whole beside its place, in `folder`, and not yet in the store."""

    folder: Path
    case: Case


class CaseStore:
    """The cases of one hospital. `create` makes one, the constructor opens one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            header = json.loads((path / "store.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(
                f"'{path}' is not a case store (no store.json). "
                "Make one with `evenhand ingest SOURCE --into DIR`."
            ) from None
        except (OSError, ValueError):
            raise StoreError(
                f"'{path}/store.json' is damaged; delete '{path}' and ingest the source again."
            ) from None
        version = header.get("schema_version") if isinstance(header, dict) else None
        if version not in _READABLE or not isinstance(header.get("hospital"), str):
            raise StoreError(
                f"'{path}' has store schema {version}; this version of Evenhand reads "
                f"{SCHEMA_VERSION} and older. Delete it and ingest the source again."
            )
        self.hospital: str = header["hospital"]
        self.schema_version: int = version

    @classmethod
    def create(cls, path: Path, hospital: str) -> "CaseStore":
        """Open the store at `path`, making it if need be.

        Raises:
            StoreError: the folder holds another hospital's store.
            ResourceError: the disk is full or not writable.
        """
        if not (path / "store.json").exists():
            _write_header(path, hospital)
        store = cls(path)
        if store.hospital != hospital:
            raise StoreError(
                f"'{path}' is the store of hospital {store.hospital}, not of {hospital}; "
                "give each hospital a folder of its own."
            )
        if store.schema_version < SCHEMA_VERSION:  # what is older is read as it is
            _write_header(path, hospital)
            store.schema_version = SCHEMA_VERSION
        return store

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out, and sweep away what a killed one left behind.

        Raises:
            StoreError: another command is writing into the store.
        """
        # The store's own header is what is locked: a lock file would be one more file.
        with (self.path / "store.json").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError(
                    f"Another command is writing into the store '{self.path}'; wait for it."
                ) from None
            self._sweep()
            try:
                yield
            finally:
                self._sweep()

    def _sweep(self) -> None:
        for leftover in self.path.glob(".store.json.*"):
            leftover.unlink(missing_ok=True)
        for leftover in sorted((self.path / "cases").glob(".*")):
            name = leftover.name.removeprefix(_OLD)
            if name != leftover.name and name not in self:
                leftover.rename(leftover.with_name(name))  # killed before the new one came
            else:
                shutil.rmtree(leftover, ignore_errors=True)

    def __len__(self) -> int:
        """How many cases the store holds."""
        return len(self.case_ids())

    def __iter__(self) -> Iterator[Case]:
        """Yield all cases, ordered by id."""
        return (self.case(case_id) for case_id in self.case_ids())

    def __contains__(self, case_id: str) -> bool:
        """Whether a case of that id is here, whole."""
        return (self.path / "cases" / case_id / "case.json").is_file()

    def case_ids(self) -> list[str]:
        """Ids of all cases, sorted."""
        folder = self.path / "cases"
        try:
            return sorted(entry.name for entry in folder.iterdir() if entry.name[0] != ".")
        except FileNotFoundError:
            raise StoreError(
                f"'{folder}' is missing, so the store is damaged; ingest the source again."
            ) from None

    def case(self, case_id: str) -> Case:
        """Return the record of one case.

        Raises:
            StoreError: there is none of that id, or its record is damaged.
        """
        path = self.path / "cases" / case_id / "case.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
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
            )
        except FileNotFoundError:
            raise StoreError(
                f"Hospital {self.hospital}'s store has no such case. "
                "List what it holds with `evenhand cases STORE`."
            ) from None
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            raise StoreError(
                f"A case record in '{self.path}' is damaged; ingest the source again."
            ) from None

    def volumes(self, case: Case, sequences: tuple[str, ...] | None = None) -> CaseVolumes:
        """Read the voxels of a case (all sequences unless some are named).

        Raises:
            StoreError: a sequence is missing, or voxels do not match their checksum.
        """
        folder = self.path / "cases" / case.case_id
        images: dict[str, NDArray[np.float32]] = {}
        for name in sequences if sequences is not None else tuple(case.sequences):
            if name not in case.sequences:
                raise StoreError(
                    f"A case of hospital {self.hospital} has no sequence '{name}' "
                    f"(it has {', '.join(case.sequences)}); change data.sequences."
                )
            images[name] = self._read(folder / f"{name}.nii.gz", np.float32, case.sequences[name])
        mask = None
        if case.mask_sha256 is not None:
            mask = self._read(folder / "mask.nii.gz", np.uint8, case.mask_sha256)
        return CaseVolumes(images=MappingProxyType(images), mask=mask)

    def add(
        self,
        *,
        case_id: str,
        patient: Patient,
        affine: Affine,
        images: Mapping[str, NDArray[np.float32]],
        mask: NDArray[np.uint8] | None,
        source: str,
        acquisition: Mapping[str, str] | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Case:
        """Write one case, replacing an older one of the same id. All or nothing.

        Takes what `draft` takes, and commits it.
        """
        return self.commit(
            self.draft(
                case_id=case_id,
                patient=patient,
                affine=affine,
                images=images,
                mask=mask,
                source=source,
                acquisition=acquisition,
                evidence=evidence,
            )
        )

    def draft(
        self,
        *,
        case_id: str,
        patient: Patient,
        affine: Affine,
        images: Mapping[str, NDArray[np.float32]],
        mask: NDArray[np.uint8] | None,
        source: str,
        acquisition: Mapping[str, str] | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> CaseDraft:
        """Write one case beside its place; `commit` puts it there.

        Args:
            case_id: unique within the store.
            patient: must be of this store's hospital.
            affine: of all volumes.
            images: float32 (i, j, k) by sequence name, all of one shape.
            mask: 0 and 1, of the same shape; None where there is no reference.
            source: what the case was made from, without identifiers.
            acquisition: how it was made, as short text without identifiers.
            evidence: what was done to the source, for JSON, without identifiers.

        Raises:
            StoreError: the patient belongs to another hospital.
            ResourceError: the disk is full.
        """
        if patient.hospital != self.hospital:
            raise StoreError(
                f"A patient of hospital {patient.hospital} cannot enter the store of "
                f"{self.hospital}."
            )
        record = None if evidence is None else _evidence_json(evidence)
        case = Case(
            case_id=case_id,
            patient=patient,
            shape=_one_shape(images, mask),
            affine=affine,
            sequences=MappingProxyType({name: array_sha256(v) for name, v in images.items()}),
            mask_sha256=None if mask is None else array_sha256(mask),
            source=source,
            acquisition=MappingProxyType(dict(sorted((acquisition or {}).items()))),
            evidence_sha256=None if record is None else hashlib.sha256(record.encode()).hexdigest(),
        )
        folder = self.path / "cases" / f"{_DRAFT}{secrets.token_hex(8)}"
        try:
            folder.mkdir(mode=0o700)
            for name, voxels in images.items():
                write_nifti(folder / f"{name}.nii.gz", _compact(voxels), affine)
            if mask is not None:
                write_nifti(folder / "mask.nii.gz", mask, affine)
            if record is not None:
                _write_atomically(folder / "evidence.json", record)
            _write_atomically(folder / "case.json", json.dumps(_to_json(case), indent=1))
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise self._full(error) from None
            raise
        return CaseDraft(folder, case)

    def commit(self, draft: CaseDraft) -> Case:
        """Put a draft into its place; an older case of its id is there until then.

        Raises:
            ResourceError: the disk refuses.
        """
        final = self.path / "cases" / draft.case.case_id
        old = final.with_name(f"{_OLD}{final.name}")
        try:
            if final.exists():
                final.rename(old)
            draft.folder.rename(final)
        except OSError as error:
            raise self._full(error) from None
        finally:
            shutil.rmtree(draft.folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        return draft.case

    def remove(self, case_id: str) -> None:
        """Take a case out of the store and its quarantine; there need not be one."""
        for place in (self.path / "cases" / case_id, self.path / "quarantine" / case_id):
            if place.parent.parent != self.path or not place.is_dir():
                continue
            hidden = self.path / "cases" / f"{_DRAFT}{secrets.token_hex(8)}"
            place.rename(hidden)  # gone at once, whatever comes while its files are deleted
            shutil.rmtree(hidden, ignore_errors=True)

    def evidence(self, case: Case) -> dict[str, Any] | None:
        """Return the record of what was done to the source of a case; None if it has none.

        Raises:
            StoreError: the record is missing, or was changed since.
        """
        if case.evidence_sha256 is None:
            return None
        try:
            text = (self.path / "cases" / case.case_id / "evidence.json").read_bytes()
        except OSError:
            text = b""
        if hashlib.sha256(text).hexdigest() != case.evidence_sha256:
            raise StoreError(
                f"The evidence of a case in '{self.path}' is missing or was changed since it was "
                "ingested; ingest the source again."
            )
        record: dict[str, Any] = json.loads(text)
        return record

    def _full(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"Could not write a case into '{self.path}': {error.strerror}. "
            "Free some disk space and run again; finished cases are kept."
        )

    def _read(self, path: Path, dtype: type, sha256: str) -> NDArray[Any]:
        try:
            stored, _ = read_nifti(path, name=path.name)
        except DataError:
            raise StoreError(
                f"A volume in '{self.path}' is missing or damaged; ingest the source again."
            ) from None
        voxels: NDArray[Any] = stored.astype(dtype, copy=False)
        if array_sha256(voxels) != sha256:
            raise StoreError(
                f"A volume in '{self.path}' was changed since it was ingested (its checksum "
                "differs); ingest the source again."
            )
        return voxels


def _one_shape(
    images: Mapping[str, NDArray[np.float32]], mask: NDArray[np.uint8] | None
) -> tuple[int, int, int]:
    shapes = {v.shape for v in images.values()} | ({mask.shape} if mask is not None else set())
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise StoreError(f"All volumes of a case must share one 3-D shape; got {sorted(shapes)}.")
    i, j, k = shapes.pop()
    return int(i), int(j), int(k)


def _compact(voxels: NDArray[np.float32]) -> NDArray[Any]:
    """Return voxels as int16 where that loses nothing, down to the bits of each number."""
    if voxels.dtype != np.float32 or not voxels.size:
        return voxels
    if not (voxels.min() >= -(2**15) and voxels.max() < 2**15):  # NaN is not either
        return voxels
    short = voxels.astype(np.int16)
    same = np.array_equal(short.astype(np.float32).view(np.uint32), voxels.view(np.uint32))
    return short if same else voxels


def _write_header(path: Path, hospital: str) -> None:
    header = {"schema_version": SCHEMA_VERSION, "hospital": hospital}
    try:
        (path / "cases").mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
        _write_atomically(path / "store.json", json.dumps(header))
    except OSError as error:
        raise ResourceError(
            f"Could not make a case store at '{path}': {error.strerror}. Free some disk "
            "space or choose another folder."
        ) from None


def _to_json(case: Case) -> dict[str, Any]:
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
    }


def _evidence_json(evidence: Mapping[str, Any]) -> str:
    # `default=dict`: a read-only mapping is none that json knows.
    return json.dumps(evidence, indent=1, sort_keys=True, default=dict)


def _write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
