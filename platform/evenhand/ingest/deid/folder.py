"""A folder of DICOM, NIfTI, pictures and sidecars into a folder without identities.

    INTO/PSEUDONYM/SERIES/OBJECT.dcm       DICOM, named by its new UIDs
    INTO/...                               other files, at their cleaned path
    INTO/evidence/CASE.json                what was done, a record a case
    INTO/evidence/review.csv               burned-in text that a person must look at

Equal input under an equal key gives equal bytes, so the same command goes on
after a stop. A file that cannot be cleaned is not written, and is named by its
number in the sorted list of files: its name may hold a patient's.
"""

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from evenhand.errors import DataError, ResourceError, UsageError
from evenhand.ingest.deid.burned_in import PixelFinding, clean_pixels
from evenhand.ingest.deid.dicom import DEFAULT_OPTIONS, Deidentifier, quiet_pydicom
from evenhand.ingest.deid.evidence import CaseEvidence, write_evidence
from evenhand.ingest.deid.naming import clean_path, patient_of, rename_subject
from evenhand.ingest.deid.nifti import clean_nifti
from evenhand.ingest.deid.pictures import clean_jpeg, clean_png
from evenhand.ingest.deid.profile import Option
from evenhand.ingest.deid.pseudonyms import Pseudonymiser
from evenhand.ingest.deid.sidecars import clean_participants, clean_sidecar

__all__ = ["FolderReport", "Refusal", "deidentify_folder", "files_of"]

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_NIFTI_STARTS = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")
_TEXTS = {".json": "JSON", ".tsv": "table"}


@dataclass(frozen=True)
class Refusal:
    """A file that was left out: its number in the sorted list (from 1), its kind, and why."""

    number: int
    kind: str
    reason: str


@dataclass
class FolderReport:
    """What became of a folder. Holds no name of a file that came in.

    `written` counts files by kind; `other` counts files of kinds that are never
    taken, by kind.
    """

    cases: dict[str, CaseEvidence] = field(default_factory=lambda: defaultdict(CaseEvidence))
    written: Counter[str] = field(default_factory=Counter)
    refusals: list[Refusal] = field(default_factory=list)
    review: list[tuple[str, PixelFinding]] = field(default_factory=list)


def files_of(source: Path) -> list[Path]:
    """All files under a folder, sorted by path; links are not followed."""
    return sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())


def deidentify_folder(
    source: Path,
    into: Path,
    names: Pseudonymiser,
    *,
    options: frozenset[Option] = DEFAULT_OPTIONS,
    progress: Callable[[int, int], None] | None = None,
) -> FolderReport:
    """De-identify every file under a folder; see the module for what is written where.

    Args:
        source: is read only.
        into: made if need be, mode 0700.
        names: answers for the hospital's key.
        options: of the profile.
        progress: called with (files done, files in all).

    Raises:
        UsageError: no such source, or one folder lies in the other, or an option
            that this command cannot fulfil.
        ResourceError: the disk is full; whole files are kept.
    """
    _check_places(source, into, options)
    work = _Work(source, into, names, options)
    paths = files_of(source)
    step = progress or (lambda _done, _total: None)
    try:
        into.mkdir(parents=True, exist_ok=True, mode=0o700)
        (into / "evidence").mkdir(exist_ok=True, mode=0o700)
        for number, path in enumerate(paths, start=1):
            work.take(number, path)
            step(number, len(paths))
        work.finish()
    except OSError as error:
        raise ResourceError(
            f"Could not write into '{into}': {error.strerror}. Free some disk space and give the "
            "same command again."
        ) from None
    return work.report


def _check_places(source: Path, into: Path, options: frozenset[Option]) -> None:
    if not source.is_dir():
        raise UsageError("There is no such source folder; give a folder of images.")
    here, there = source.resolve(), into.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UsageError(
            "Source and --into lie within each other, so clean and unclean files would mix; "
            "give two separate folders."
        )
    if Option.CLEAN_FEATURES in options:
        raise UsageError(
            f"'{Option.CLEAN_FEATURES}' (faces) is no work of this command, and it claims nothing "
            "that it did not do; leave the option out."
        )


class _Work:
    """The files of one folder, one after another."""

    def __init__(
        self, source: Path, into: Path, names: Pseudonymiser, options: frozenset[Option]
    ) -> None:
        self.source, self.into, self.names, self.options = source, into, names, options
        self.report = FolderReport()
        self.taken: set[PurePath] = set()

    def take(self, number: int, path: Path) -> None:
        """Clean one file, or note why not."""
        kind = "file"
        try:
            kind = _kind(path, _read(path, 132))
            if kind == "DICOM":
                self._dicom(path)
            else:
                self._beside(kind, path)
        except DataError as error:
            self.report.refusals.append(Refusal(number, kind, str(error)))
        except (MemoryError, RecursionError):
            reason = "It wants more memory than there is, or is nested beyond reason."
            self.report.refusals.append(Refusal(number, kind, reason))

    def finish(self) -> None:
        """Write the records of evidence and the review list."""
        for name, case in sorted(self.report.cases.items()):
            write_evidence(
                self.into / "evidence" / f"{name}.json",
                case,
                case_name=name,
                options=self.options,
                key_fingerprint=self.names.key_fingerprint,
            )
        review = self.into / "evidence" / "review.csv"
        if not self.report.review:
            review.unlink(missing_ok=True)
            return
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("file", "left", "top", "right", "bottom", "why"))
        for name, found in sorted(self.report.review, key=lambda pair: (pair[0], pair[1].box)):
            writer.writerow((name, *found.box, found.why))
        review.write_text(out.getvalue(), encoding="utf-8")

    def _dicom(self, path: Path) -> None:
        with quiet_pydicom():
            dataset = _read_dicom(path)
            options, blanked = self.options, 0
            findings: tuple[PixelFinding, ...] = ()
            if Option.CLEAN_PIXELS in options and "PixelData" in dataset:
                result = clean_pixels(dataset)
                findings, blanked = result.uncertain, result.blanked
                if findings:  # an object that a person has yet to look at claims nothing
                    options = options - {Option.CLEAN_PIXELS}
            cleaned = Deidentifier(self.names, options).clean(dataset)
            buffer = io.BytesIO()
            try:
                cleaned.dataset.save_as(buffer, enforce_file_format=True)
            except Exception:  # noqa: BLE001 - pydicom raises what a damaged value makes it raise
                raise DataError("It holds a value that cannot be written again.") from None
        new = cleaned.dataset
        relative = PurePath(cleaned.pseudonym, str(new.SeriesInstanceUID or "series"))
        relative = relative / f"{new.SOPInstanceUID}.dcm"
        self._write(relative, buffer.getvalue())
        case = self.report.cases[f"{cleaned.pseudonym}_{new.StudyInstanceUID or 'study'}"]
        case.files["DICOM"] += 1
        case.actions += cleaned.actions
        case.caught += cleaned.caught
        case.text_blanked += blanked
        case.text_uncertain += len(findings)
        self.report.written["DICOM"] += 1
        self.report.review += [(relative.as_posix(), found) for found in findings]

    def _beside(self, kind: str, path: Path) -> None:
        place = path.relative_to(self.source)
        content, gone = _read(path), 0
        if kind == "NIfTI":
            content = clean_nifti(content)
        elif kind == "PNG":
            content = clean_png(content)
        elif kind == "JPEG":
            content = clean_jpeg(content)
        elif kind == "JSON":
            content, gone = clean_sidecar(content)
        elif kind == "table" and path.name == "participants.tsv":
            content, gone = clean_participants(
                content, lambda label: rename_subject(label, self.names)
            )
        else:
            raise DataError(
                "Files of this kind are not taken: nobody can say what they hold. "
                "DICOM, NIfTI, PNG, JPEG, JSON sidecars and participants.tsv are."
            )
        self._write(clean_path(place, self.names), content)
        subject = patient_of(place)
        case = self.report.cases[rename_subject(subject, self.names) if subject else "shared"]
        case.files[kind] += 1
        case.removed_beside += gone
        self.report.written[kind] += 1

    def _write(self, relative: PurePath, content: bytes) -> None:
        if relative in self.taken:
            raise DataError("Another file of the source has the same name or UID; it was kept.")
        self.taken.add(relative)
        path = self.into / relative
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{os.getpid()}.draft")
        try:
            draft.write_bytes(content)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _kind(path: Path, start: bytes) -> str:
    if start[128:132] == b"DICM":
        return "DICOM"
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if start[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if start[:4] in _NIFTI_STARTS or path.name.lower().endswith((".nii", ".nii.gz")):
        return "NIfTI"
    if path.suffix.lower() in _TEXTS:
        return _TEXTS[path.suffix.lower()]
    return "DICOM" if start[:2] in (b"\x08\0", b"\0\x08") else "other file"


def _read(path: Path, size: int = -1) -> bytes:
    """Read a source file, or its first bytes; what cannot be read is a refusal of that file."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise DataError(f"It cannot be read ({error.strerror}); see to its rights.") from None


def _read_dicom(path: Path) -> Dataset:
    try:
        dataset = dcmread(path, force=True)
    except (InvalidDicomError, OSError, EOFError):
        raise DataError("It cannot be read as DICOM to its end.") from None
    except Exception:  # noqa: BLE001 - damaged files make pydicom raise almost anything
        raise DataError("It cannot be read as DICOM to its end.") from None
    with suppress(AttributeError):
        if str(dataset.file_meta.MediaStorageSOPClassUID) == _DICOMDIR_CLASS:
            raise DataError("A DICOMDIR lists patients and is not needed; it is left out.")
    return dataset
