"""What a source is, and its plan: DICOM, BIDS, nnU-Net, MSD or MONAI datalist, PNG with a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Literal, cast

from evenhand.errors import DataError, UsageError
from evenhand.ingest.datalist import find_datalist, plan_datalist
from evenhand.ingest.deid import HospitalKey, Pseudonymiser
from evenhand.ingest.nnunet import plan_nnunet
from evenhand.ingest.people import People, read_people
from evenhand.ingest.png_table import plan_png_table
from evenhand.ingest.recipes import SourcePlan
from evenhand.ingest.workers import Workers

__all__ = ["Choices", "SourceKind", "guess_kind", "plan_source", "pseudonymiser"]

_LOOKED_AT = 200
_ONE_EACH = (
    "Each case counts as a patient of its own, because the source does not say whose it is. If one "
    "person may have several, give a table with --patients: privacy and splits go by the patient."
)


class SourceKind(StrEnum):
    """The kinds of source that are read."""

    BIDS = "bids"
    DICOM = "dicom"
    NNUNET = "nnunet"
    DATALIST = "datalist"
    PNG = "png"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user said on the command line, for all kinds but BIDS."""

    hospital: str
    key: Path | None = None
    keep_names: bool = False
    sequences: tuple[str, ...] = ()
    tumour: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    masks_from: str = "any"
    masks_required: bool = True
    series_names: Path | None = None
    patients: Path | None = None
    patient_column: str | None = None
    attributes: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    pixel_mm: float | None = None
    jobs: int | None = None
    workers: Workers | None = None


def guess_kind(source: Path) -> SourceKind:
    """Look at a source and say what it is.

    Raises:
        UsageError: there is none, or it is none of the kinds.
    """
    if not source.exists():
        raise UsageError(f"There is no file or folder '{source}'.")
    if (source / "store.json").is_file():
        raise UsageError(f"'{source}' is a case store already; look at it with `evenhand cases`.")
    if (source / "participants.tsv").is_file():
        return SourceKind.BIDS
    if (source / "dataset.json").is_file() and any((source / "imagesTr").glob("*_0000.nii*")):
        return SourceKind.NNUNET
    if find_datalist(source) is not None:
        return SourceKind.DATALIST
    if _holds_dicom(source):
        return SourceKind.DICOM
    tables = [*source.glob("*.csv"), *source.glob("*.tsv")] if source.is_dir() else []
    if tables and next(source.rglob("*.png"), None) is not None:
        return SourceKind.PNG
    if source.is_dir() and next(source.glob("sub-*"), None) is not None:
        return SourceKind.BIDS  # and its checks say what is missing
    raise UsageError(
        f"'{source}' is of no kind that is read: a BIDS tree (participants.tsv), DICOM files in "
        "folders or a zip, nnU-Net (dataset.json, imagesTr), a datalist (JSON with 'training'), or "
        "PNG pictures with a CSV. Name the kind with --kind to see what is missing."
    )


def _holds_dicom(source: Path) -> bool:
    from evenhand.ingest.dicom.files import find_files, looks_like_dicom, opened

    for ref in islice(find_files(source), _LOOKED_AT):
        try:
            with opened(ref) as file:
                if looks_like_dicom(file):
                    return True
        except DataError:
            continue
    return False


def plan_source(
    source: Path,
    kind: SourceKind,
    choices: Choices,
    progress: Callable[[int, int], None] | None = None,
) -> SourcePlan:
    """Plan what a source becomes; nothing is written.

    Raises:
        UsageError: a choice is missing or does not fit, or the source is of another kind.
        DataError: the source as a whole cannot be taken in.
    """
    names = pseudonymiser(kind, choices)
    if choices.apart and kind not in (SourceKind.NNUNET, SourceKind.DATALIST):
        raise UsageError("--label is for nnU-Net and datalists; other kinds give one label.")
    if kind is SourceKind.DICOM:
        return _plan_dicom(source, choices, names, progress)
    rows = read_people(choices.patients) if choices.patients else None
    people = People(hospital=choices.hospital, names=names, rows=rows)
    if kind is SourceKind.PNG:
        return plan_png_table(
            source,
            people,
            patient_column=choices.patient_column,
            attributes=choices.attributes,
            only=_only(choices.only),
            pixel_mm=choices.pixel_mm,
            masks_required=choices.masks_required,
        )
    planner = plan_nnunet if kind is SourceKind.NNUNET else plan_datalist
    plan = planner(
        source,
        people,
        sequences=choices.sequences,
        tumour=choices.tumour,
        apart=choices.apart,
        masks_required=choices.masks_required,
    )
    if rows is not None:
        return plan
    return SourcePlan(
        kind=plan.kind,
        recipes=plan.recipes,
        findings=plan.findings,
        notes=(*plan.notes, _ONE_EACH),
        names=plan.names,
    )


def _only(said: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in said]
    if not all(column and equals for column, equals, _ in pairs):
        raise UsageError("--only takes COLUMN=VALUE, such as --only 'Device=Logiq 7'.")
    return {column.strip(): value.strip() for column, _, value in pairs}


def pseudonymiser(kind: SourceKind, choices: Choices) -> Pseudonymiser | None:
    """Return what names patients; None where names are kept.

    Raises:
        UsageError: no key is given where one is needed, or its file is no key.
    """
    if choices.key is not None:
        return Pseudonymiser(HospitalKey.read(choices.key))
    if choices.keep_names and kind is not SourceKind.DICOM:
        return None
    also = (
        ""
        if kind is SourceKind.DICOM
        else (", or --keep-names if the names in the source name nobody (published data)")
    )
    raise UsageError(
        f"Patients get pseudonyms by the hospital's key: give its file with --key{also}. Make one, "
        "once for the hospital, with `evenhand deidentify --new-key FILE`."
    )


def _plan_dicom(
    source: Path,
    choices: Choices,
    names: Pseudonymiser | None,
    progress: Callable[[int, int], None] | None,
) -> SourcePlan:
    from evenhand.ingest.dicom.naming import SeriesTable, read_series_table
    from evenhand.ingest.dicom.plan import DicomOptions, plan_dicom

    if choices.masks_from not in {"any", "seg", "rtstruct"}:
        raise UsageError("--masks-from takes any, seg or rtstruct.")
    assert names is not None  # noqa: S101 - DICOM has no --keep-names
    table = read_series_table(choices.series_names) if choices.series_names else SeriesTable()
    options = DicomOptions(
        hospital=choices.hospital,
        names=names,
        table=table,
        sequences=choices.sequences,
        tumour=choices.tumour,
        masks_from=cast("Literal['any', 'seg', 'rtstruct']", choices.masks_from),
        masks_required=choices.masks_required,
        jobs=choices.jobs,
        workers=choices.workers,
    )
    return plan_dicom(source, options, progress)
