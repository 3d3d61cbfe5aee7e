"""The case store of one hospital on disk.

    STORE/
      store.json                     schema version, hospital, fingerprint of the key if sealed
      cases/CASE_ID/case.json        the record: patient attributes, geometry, checksums
      cases/CASE_ID/FLAIR.nii.gz     one file a sequence
      cases/CASE_ID/mask.nii.gz      0 and 1, or numbers of labels, uint8; absent: no reference
      cases/CASE_ID/evidence.json    what was done to the source; absent for BIDS
      quarantine/CASE_ID/            cases that are set aside (see `evenhand.cases.quarantine`)

A case appears whole or not at all: it is written into a hidden folder beside
its place and renamed. Folders are readable by their owner only (0700). Equal
cases are equal files: nothing in a store tells the time at which it was made.

A sealed store is encrypted (see `evenhand.cases.sealing`): each file of a case ends in `.sealed`,
and reading and writing are the same to everybody who has the hospital's key.

A store of an older schema is read as it is; the first command that writes into it raises its
number.
"""

import contextlib
import fcntl
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.case_folder import EVIDENCE, MASK, RECORD, CaseFolder
from evenhand.cases.hashing import array_sha256
from evenhand.cases.records import Case, CaseVolumes, Patient
from evenhand.cases.sealing import StoreKey
from evenhand.cases.store_header import HEADER, SCHEMA_VERSION, read_header, write_header
from evenhand.errors import DataError, ResourceError, StoreError
from evenhand.geometry import Affine

__all__ = ["OLD", "CaseDraft", "CaseParts", "CaseStore"]

_DRAFT = ".draft-"
OLD = ".old-"
"""Before the id of a case that a new one takes the place of, until that one is there."""


class CaseParts(TypedDict):
    """What a new case is made of.

    Attributes:
        case_id: unique within the store.
        patient: must be of the store's hospital.
        affine: of all volumes.
        images: float32 (i, j, k) by sequence name, all of one shape.
        mask: 0 and 1, or numbers of `labels`, of the same shape; None where there is no reference.
        source: what the case was made from, without identifiers.
        acquisition: how it was made, as short text without identifiers.
        evidence: what was done to the source, for JSON, without identifiers.
        labels: names of the values 1, 2, ... of the mask; none: it holds 0 and 1.
    """

    case_id: str
    patient: Patient
    affine: Affine
    images: Mapping[str, NDArray[np.float32]]
    mask: NDArray[np.uint8] | None
    source: str
    acquisition: NotRequired[Mapping[str, str] | None]
    evidence: NotRequired[Mapping[str, Any] | None]
    labels: NotRequired[tuple[str, ...]]


@dataclass(frozen=True)
class CaseDraft:
    """A case that is written whole beside its place, in `folder`, and not yet in the store."""

    folder: Path
    case: Case


class CaseStore:
    """The cases of one hospital. `create` makes one, the constructor opens one.

    Attributes:
        path: its folder.
        hospital: whose it is.
        schema_version: of its layout.
        key: that seals its cases; None: they are plain files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.hospital = header.hospital
        self.schema_version = header.schema_version
        self.key = header.key()

    @classmethod
    def create(cls, path: Path, hospital: str, *, sealed: bool = False) -> "CaseStore":
        """Open the store at `path`, making it if need be.

        Args:
            path: its folder.
            hospital: whose it is.
            sealed: encrypt its cases with the hospital's key, which is made if need be.

        Raises:
            StoreError: the folder holds another hospital's store, or a plain one where a sealed
                one is wanted.
            ResourceError: the disk is full or not writable.
        """
        if not (path / HEADER).exists():
            write_header(path, hospital, StoreKey.make(hospital) if sealed else None)
        store = cls(path)
        if store.hospital != hospital:
            raise StoreError(
                f"'{path}' is the store of hospital {store.hospital}, not of {hospital}; "
                "give each hospital a folder of its own."
            )
        if sealed and store.key is None:
            raise StoreError(
                f"'{path}' is a store that is not encrypted. Ingest into another folder with "
                "--encrypt, and delete this one."
            )
        if store.schema_version < SCHEMA_VERSION:  # what is older is read as it is
            write_header(path, hospital, store.key)
            store.schema_version = SCHEMA_VERSION
        return store

    @contextlib.contextmanager
    def locked(self, *, as_found: bool = False) -> Iterator[None]:
        """Keep other writers out, and sweep away what a killed one left behind.

        Args:
            as_found: sweep only at the end, so that what was left behind can be looked at.

        Raises:
            StoreError: another command is writing into the store.
        """
        # The store's own header is what is locked: a lock file would be one more file.
        with (self.path / HEADER).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError(
                    f"Another command is writing into the store '{self.path}'; wait for it."
                ) from None
            if not as_found:
                self._sweep()
            try:
                yield
            finally:
                self._sweep()

    def _sweep(self) -> None:
        for leftover in self.path.glob(f".{HEADER}.*"):
            leftover.unlink(missing_ok=True)
        for leftover in sorted((self.path / "cases").glob(".*")):
            name = leftover.name.removeprefix(OLD)
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
        return self._folder(case_id).place(RECORD).is_file()

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
        try:
            return self._folder(case_id).read_record()
        except FileNotFoundError:
            raise StoreError(
                f"Hospital {self.hospital}'s store has no such case. "
                "List what it holds with `evenhand cases STORE`."
            ) from None
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            raise StoreError(
                f"A case record in '{self.path}' is damaged; ingest the source again."
            ) from None

    def volumes(
        self, case: Case, sequences: tuple[str, ...] | None = None, *, mask: bool = True
    ) -> CaseVolumes:
        """Read the voxels of a case (all sequences unless some are named).

        Without `mask` the reference is not read, also where there is one.

        Raises:
            StoreError: a sequence is missing, or voxels do not match their checksum.
        """
        images: dict[str, NDArray[np.float32]] = {}
        for name in sequences if sequences is not None else tuple(case.sequences):
            self._require(case, name)
            images[name] = self._read(case, name, np.float32, case.sequences[name])
        reference = None
        if mask and case.mask_sha256 is not None:
            reference = self._read(case, MASK, np.uint8, case.mask_sha256)
        return CaseVolumes(images=MappingProxyType(images), mask=reference)

    def image_file(self, case: Case, sequence: str) -> bytes:
        """Return the gzipped NIfTI file of a sequence, its checksum not looked at.

        Raises:
            StoreError: the sequence is missing, or its file cannot be read.
        """
        self._require(case, sequence)
        try:
            return self._folder(case.case_id).volume_file(sequence)
        except OSError:
            raise self._damaged() from None

    def add(self, **parts: Unpack[CaseParts]) -> Case:
        """Write one case, replacing an older one of the same id. All or nothing.

        Raises:
            StoreError, ResourceError: as `draft`.
        """
        return self.commit(self.draft(**parts))

    def draft(self, **parts: Unpack[CaseParts]) -> CaseDraft:
        """Write one case beside its place; `commit` puts it there.

        Raises:
            StoreError: the patient belongs to another hospital, or the shapes differ.
            ResourceError: the disk is full.
        """
        images, mask, given = parts["images"], parts["mask"], parts.get("evidence")
        if parts["patient"].hospital != self.hospital:
            raise StoreError(
                f"A patient of hospital {parts['patient'].hospital} cannot enter the store of "
                f"{self.hospital}."
            )
        evidence = None if given is None else _evidence_json(given)
        case = Case(
            case_id=parts["case_id"],
            patient=parts["patient"],
            shape=_one_shape(images, mask),
            affine=parts["affine"],
            sequences=MappingProxyType({name: array_sha256(v) for name, v in images.items()}),
            mask_sha256=None if mask is None else array_sha256(mask),
            source=parts["source"],
            acquisition=MappingProxyType(dict(sorted((parts.get("acquisition") or {}).items()))),
            evidence_sha256=None if evidence is None else hashlib.sha256(evidence).hexdigest(),
            labels=parts.get("labels", ()),
        )
        place = self.path / "cases" / f"{_DRAFT}{secrets.token_hex(8)}"
        try:
            place.mkdir(mode=0o700)
            folder = CaseFolder(place, case.case_id, self.key)
            for name, voxels in images.items():
                folder.write_volume(name, voxels, case.affine)
            if mask is not None:
                folder.write_volume(MASK, mask, case.affine)
            if evidence is not None:
                folder.write(EVIDENCE, [evidence])
            folder.write_record(case)
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            if isinstance(error, OSError):
                raise self._full(error) from None
            raise
        return CaseDraft(place, case)

    def commit(self, draft: CaseDraft) -> Case:
        """Put a draft into its place; an older case of its id is there until then.

        Raises:
            ResourceError: the disk refuses.
        """
        final = self.path / "cases" / draft.case.case_id
        old = final.with_name(f"{OLD}{final.name}")
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

    def evidence(self, case: Case) -> dict[str, Any] | None:
        """Return the record of what was done to the source of a case; None if it has none.

        Raises:
            StoreError: the record is missing, or was changed since.
        """
        if case.evidence_sha256 is None:
            return None
        try:
            text = self._folder(case.case_id).read(EVIDENCE)
        except OSError:
            text = b""
        if hashlib.sha256(text).hexdigest() != case.evidence_sha256:
            raise StoreError(
                f"The evidence of a case in '{self.path}' is missing or was changed since it was "
                "ingested; ingest the source again."
            )
        record: dict[str, Any] = json.loads(text)
        return record

    def _folder(self, case_id: str) -> CaseFolder:
        return CaseFolder(self.path / "cases" / case_id, case_id, self.key)

    def _require(self, case: Case, sequence: str) -> None:
        if sequence not in case.sequences:
            raise StoreError(
                f"A case of hospital {self.hospital} has no sequence '{sequence}' "
                f"(it has {', '.join(case.sequences)}); change data.sequences."
            )

    def _full(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"Could not write a case into '{self.path}': {error.strerror}. "
            "Free some disk space and run again; finished cases are kept."
        )

    def _damaged(self) -> StoreError:
        return StoreError(
            f"A volume in '{self.path}' is missing or damaged; ingest the source again."
        )

    def _read(self, case: Case, name: str, dtype: type, sha256: str) -> NDArray[Any]:
        try:
            voxels = self._folder(case.case_id).read_volume(name, dtype)
        except StoreError:
            raise
        except (OSError, DataError):
            raise self._damaged() from None
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


def _evidence_json(evidence: Mapping[str, Any]) -> bytes:
    # `default=dict`: a read-only mapping is none that json knows.
    return json.dumps(evidence, indent=1, sort_keys=True, default=dict).encode()
