"""A BIDS tree into case stores, one a hospital. Everything is checked before anything is written.

Images are read from `sub-X/anat/`, manual masks from
`derivatives/**/sub-X/anat/*_mask.nii.gz`, patients from `participants.tsv`.
Voxels are stored as they are: no reorientation, slices along the third axis.
A case whose files and row have not changed since is not read or written again.

Ids are kept as they are, unless the hospital's key is given: then patients get
pseudonyms, columns that Evenhand does not know stay behind, ages end at 90, and
errors name lines of the table instead of folders.
"""

import difflib
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType

from evenhand.cases.records import Patient
from evenhand.cases.store import CaseStore
from evenhand.errors import DataError, StoreError, UsageError
from evenhand.ingest.deid import OLDEST_AGE_YEARS, Pseudonymiser
from evenhand.ingest.faces.guard import FacePolicy, guarded
from evenhand.ingest.participants import Participant, read_participants
from evenhand.ingest.recipes import Content
from evenhand.ingest.tree import CaseFiles, find_case_files, read_case, strangers

__all__ = [
    "HospitalReport",
    "IngestPlan",
    "IngestReport",
    "PlannedCase",
    "ingest_bids",
    "plan_bids",
]

_FINGERPRINT_VERSION = 1
"""Raised when a case would be stored differently, so that old ones are made anew."""


@dataclass(frozen=True)
class PlannedCase:
    """A case that is to be stored, and the fingerprint of what it is made from."""

    patient: Patient
    files: CaseFiles
    source: str
    stored: bool


@dataclass(frozen=True)
class IngestPlan:
    """What an ingest would do.

    `stores` maps each hospital to its store's folder; `findings` are the
    sentences of all cases that cannot be taken in.
    """

    source: Path
    stores: dict[str, Path]
    cases: tuple[PlannedCase, ...]
    findings: tuple[str, ...]

    def of(self, hospital: str) -> tuple[PlannedCase, ...]:
        """Return the planned cases of one hospital."""
        return tuple(case for case in self.cases if case.patient.hospital == hospital)


@dataclass(frozen=True)
class HospitalReport:
    """What came into one hospital's store.

    `written` are new or changed cases, `reused` those that were there already,
    `without_mask` those of both that have no reference, `not_in_source` cases
    that the store holds from elsewhere or from before; they are kept.
    """

    hospital: str
    store: Path
    written: int
    reused: int
    without_mask: int
    not_in_source: int


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did, hospital by hospital, sorted by name."""

    hospitals: tuple[HospitalReport, ...]

    @property
    def written(self) -> int:
        """Cases that were written."""
        return sum(hospital.written for hospital in self.hospitals)

    @property
    def reused(self) -> int:
        """Cases that were there already, unchanged."""
        return sum(hospital.reused for hospital in self.hospitals)


def ingest_bids(
    source: Path,
    into: Path,
    *,
    hospitals: Sequence[str] | None = None,
    sequences: Sequence[str] | None = None,
    may_lack: Sequence[str] = (),
    site_column: str = "site",
    layout: str = "{hospital}",
    masks_required: bool = True,
    names: Pseudonymiser | None = None,
    faces: FacePolicy | None = None,
    sealed: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Store the cases of a BIDS tree; unchanged cases are reused.

    Args:
        source: the BIDS tree.
        into: under it lie the stores, one a hospital.
        hospitals: whose rows to take; None or empty: all.
        sequences: BIDS suffixes (`FLAIR`) or labels (`ce-gd_T1w`) that each case
            must have; None or empty: all that a case has, by label.
        may_lack: those of `sequences` that a case may do without.
        site_column: the column of `participants.tsv` that names the hospital.
        layout: where a hospital's store lies under `into`; `{hospital}` in it is
            the name, as in `{hospital}/store`.
        masks_required: whether a case without a manual mask is refused.
        names: gives patients pseudonyms; None: they keep their ids.
        faces: what is done where there may be a face; None: nobody looks.
        sealed: encrypt the cases with the hospital's key.
        progress: called with (steps done, steps in all); a case is checked in
            one step and written in another.

    Raises:
        UsageError: no such source, or a hospital that the table does not have.
        DataError: something in the tree is not what it should be; nothing is
            written then.
        ResourceError: the disk is full; whole cases are kept, nothing else.
    """
    step = progress or (lambda _done, _total: None)
    plan = plan_bids(
        source,
        into,
        hospitals=hospitals,
        sequences=sequences,
        may_lack=may_lack,
        site_column=site_column,
        layout=layout,
        masks_required=masks_required,
        names=names,
        faces=faces,
        progress=lambda done, total: step(done, 2 * total),
    )
    if plan.findings:
        more = len(plan.findings) - 1
        rest = f" ({more} more; `evenhand ingest --dry-run` lists all.)" if more else ""
        raise DataError(plan.findings[0] + rest)
    total = 2 * len(plan.cases)
    reports = []
    done = len(plan.cases)
    for hospital, path in plan.stores.items():
        cases = plan.of(hospital)
        is_new = not path.exists()
        store = CaseStore.create(path, hospital, sealed=sealed)
        try:
            for case in cases:
                if not case.stored:
                    _store(store, case, _Door(source, names, faces))
                done += 1
                step(done, total)
        finally:
            if is_new and not len(store):
                shutil.rmtree(path, ignore_errors=True)
        reports.append(_report(store, cases))
    return IngestReport(tuple(reports))


def plan_bids(
    source: Path,
    into: Path,
    *,
    hospitals: Sequence[str] | None = None,
    sequences: Sequence[str] | None = None,
    may_lack: Sequence[str] = (),
    site_column: str = "site",
    layout: str = "{hospital}",
    masks_required: bool = True,
    names: Pseudonymiser | None = None,
    faces: FacePolicy | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IngestPlan:
    """Check a BIDS tree as `ingest_bids` does, and write nothing.

    Arguments are those of `ingest_bids`; problems of single cases are collected
    in the plan's `findings`, problems of the tree or its table are raised.
    """
    if not source.is_dir():
        raise UsageError(f"There is no folder '{source}'; give the top of a BIDS tree.")
    people = read_participants(source, site_column=site_column)
    lost = strangers(source, {person.folder for person in people})
    if lost:
        raise DataError(
            f"'{lost[0]}' has no row in 'participants.tsv' ({len(lost)} such folder(s)); add a "
            "row, or move the folder away."
        )
    people = _of_hospitals(people, hospitals, site_column)
    stores = {
        hospital: into / layout.format(hospital=hospital)
        for hospital in sorted({person.patient.hospital for person in people})
    }
    _refuse_moved([_patient(person, names) for person in people], into, layout)
    step = progress or (lambda _done, _total: None)
    cases, findings = [], []
    files, door = find_case_files(source), _Door(source, names, faces)
    for number, person in enumerate(people):
        step(number, len(people))
        try:
            own = files(person.folder, sequences or (), masks_required, may_lack)
            patient = _patient(person, names)
            cases.append(_plan(patient, own, stores[patient.hospital], door))
        except DataError as error:
            said = str(error)
            if names is not None:
                said = said.replace(person.folder, f"(line {person.line} of the table)")
            findings.append(said)
    step(len(people), len(people))
    return IngestPlan(source, stores, tuple(cases), tuple(findings))


def _of_hospitals(
    people: list[Participant], hospitals: Sequence[str] | None, site_column: str
) -> list[Participant]:
    known = sorted({person.patient.hospital for person in people})
    for hospital in hospitals or ():
        if hospital not in known:
            near = difflib.get_close_matches(hospital, known, n=1, cutoff=0.3)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise UsageError(
                f"No data for hospital '{hospital}': column '{site_column}' of "
                f"'participants.tsv' has {', '.join(known)}{hint}"
            )
    return [p for p in people if not hospitals or p.patient.hospital in hospitals]


def _patient(person: Participant, names: Pseudonymiser | None) -> Patient:
    """Return the patient as they enter the store."""
    patient = person.patient
    if names is None:
        return patient
    age = patient.age_years
    return replace(
        patient,
        patient_id=names.pseudonym(patient.patient_id),
        age_years=None if age is None else min(age, float(OLDEST_AGE_YEARS)),
        extra=MappingProxyType({}),
    )


def _refuse_moved(patients: list[Patient], into: Path, layout: str) -> None:
    """Refuse patients who are in another hospital's store under `into` already."""
    hospital_of = {patient.patient_id: patient.hospital for patient in patients}
    for header in sorted(into.glob(layout.format(hospital="*") + "/store.json")):
        store = CaseStore(header.parent)
        for case_id in store.case_ids():
            if hospital_of.get(case_id, store.hospital) != store.hospital:
                raise DataError(
                    f"'sub-{case_id}' is a patient of hospital {hospital_of[case_id]} in "
                    f"'participants.tsv' but lies in the store of {store.hospital} "
                    f"('{store.path}'); a patient belongs to one hospital. Correct the table, "
                    "or delete that store and ingest it again."
                )


@dataclass(frozen=True)
class _Door:
    """What every case of a tree goes through."""

    source: Path
    names: Pseudonymiser | None
    faces: FacePolicy | None

    def content(self, files: CaseFiles, *, look_only: bool = False) -> Content:
        """Read a case and check it; `look_only`: without the work of defacing."""
        volumes, affine = read_case(files, self.source)
        evidence: dict[str, str] = {}
        if self.names is not None:
            evidence = {
                "source": "BIDS",
                "key": self.names.key_fingerprint,
                "header": "not stored: only voxels, affine, sex, age, race, ethnicity",
            }
        content = Content(
            affine=affine, images=volumes.images, mask=volumes.mask, evidence=evidence
        )
        if self.faces is None or (look_only and self.faces.deface):
            return content
        return guarded(content, self.faces)


def _plan(patient: Patient, files: CaseFiles, store: Path, door: _Door) -> PlannedCase:
    mark = door.faces.mark if door.faces else ""
    fingerprint = _fingerprint(patient, files, door.names) + mark
    stored = _is_stored(store, patient.patient_id, fingerprint)
    if not stored:
        door.content(files, look_only=True)
    return PlannedCase(patient, files, fingerprint, stored)


def _is_stored(store: Path, case_id: str, fingerprint: str) -> bool:
    if not (store / "store.json").exists():
        return False
    try:
        return CaseStore(store).case(case_id).source == fingerprint
    except StoreError:  # not there yet, or damaged: it is written anew
        return False


def _fingerprint(patient: Patient, files: CaseFiles, names: Pseudonymiser | None) -> str:
    row = {field.name: getattr(patient, field.name) for field in fields(patient)}
    row["extra"] = dict(patient.extra)
    digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode())
    for name, path in sorted({**files.images, **files.mask}.items()):
        digest.update(f"{name}:".encode())
        if path.is_file():  # a missing one is found, and named, when it is read
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    found = digest.hexdigest()
    token = names.token("source", found) if names else f"sha256:{found}"
    return f"BIDS, version {_FINGERPRINT_VERSION}, {token}"


def _store(store: CaseStore, case: PlannedCase, door: _Door) -> None:
    content = door.content(case.files)
    store.add(
        case_id=case.patient.patient_id,
        patient=case.patient,
        affine=content.affine,
        images=dict(content.images),
        mask=content.mask,
        source=case.source,
        evidence=content.evidence or None,
    )


def _report(store: CaseStore, cases: tuple[PlannedCase, ...]) -> HospitalReport:
    reused = sum(case.stored for case in cases)
    return HospitalReport(
        hospital=store.hospital,
        store=store.path,
        written=len(cases) - reused,
        reused=reused,
        without_mask=sum(not case.files.mask for case in cases),
        not_in_source=len(store) - len(cases),
    )
