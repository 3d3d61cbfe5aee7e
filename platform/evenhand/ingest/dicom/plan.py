"""A folder or zip of DICOM into recipes: one case a study, everything else with its reason."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from evenhand.errors import DataError
from evenhand.ingest.deid import Pseudonymiser
from evenhand.ingest.dicom.case import DicomCase, MaskSource, VolumeSource
from evenhand.ingest.dicom.files import FileRef, find_files
from evenhand.ingest.dicom.headers import FileHeader, read_headers
from evenhand.ingest.dicom.naming import SKIP, SeriesTable
from evenhand.ingest.dicom.patients import patient_of
from evenhand.ingest.dicom.series import Segmentation, Volume, judge_series, study_key
from evenhand.ingest.dicom.values import day
from evenhand.ingest.labels import choose_labels
from evenhand.ingest.recipes import Finding, SourcePlan
from evenhand.ingest.workers import Workers, cores

__all__ = ["DicomOptions", "plan_dicom"]

_CHUNK = 32
_HEADER_SECONDS = 120.0

StudyKey = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class DicomOptions:
    """What the user decides. `sequences`: names that each case must have, the grid's first.

    `workers` read the headers; None: `jobs` processes are started for that.
    """

    hospital: str
    names: Pseudonymiser
    table: SeriesTable = field(default_factory=SeriesTable)
    sequences: tuple[str, ...] = ()
    tumour: tuple[str, ...] = ()
    masks_from: Literal["any", "seg", "rtstruct"] = "any"
    masks_required: bool = True
    jobs: int | None = None
    workers: Workers | None = None


@dataclass(frozen=True)
class _Study:
    volumes: tuple[Volume, ...]
    segmentations: tuple[Segmentation, ...]


def plan_dicom(
    source: Path, options: DicomOptions, progress: Callable[[int, int], None] | None = None
) -> SourcePlan:
    """Read all headers, judge all series, and plan a case for each study that has what it needs.

    Raises:
        UsageError: there is no such source.
    """
    files = find_files(source)
    if options.workers is None:
        with Workers(options.jobs or cores()) as workers:
            headers = _headers(files, workers, progress)
    else:
        headers = _headers(files, options.workers, progress)
    findings = [
        _file_finding(header)
        for header in headers
        if header.refused and not header.planes and header.kind not in {"image", "seg", "rtstruct"}
    ]
    studies = _studies(headers, options.table)
    names = {f"file {n}": str(ref) for n, ref in enumerate(files, start=1)} | {
        f"file {header.file + 1}, label {number}": text
        for header in headers
        for number, text in header.parts
    }
    recipes = []
    patients: dict[str, int] = {}
    for number, (key, study) in enumerate(studies.items(), start=1):
        person = patients.setdefault(key[0], len(patients) + 1)
        label = f"case {number} (patient {person})"
        names[f"case {number}"] = f"{key[0]} {key[1]}"
        findings += [_volume_finding(volume) for volume in study.volumes]
        try:
            recipe = _case(label, key, study, files, options)
        except DataError as error:
            findings.append(Finding(label, taken=False, why=str(error)))
        else:
            recipes.append(recipe)
            findings += [Finding(label, taken=True, why=_says(recipe))]
    other = sum(header.kind == "" for header in headers)
    notes = (f"{other} file(s) are not DICOM and were passed over.",) if other else ()
    return SourcePlan(
        kind="DICOM",
        recipes=tuple(recipes),
        findings=tuple(findings),
        notes=notes,
        names=MappingProxyType(names),
    )


def _headers(
    files: Sequence[FileRef], workers: Workers, progress: Callable[[int, int], None] | None
) -> list[FileHeader]:
    """Read all headers in worker processes; a file on which one dies is refused alone."""
    step = progress or (lambda _done, _total: None)
    done: list[FileHeader] = []
    waiting: list[tuple[int, tuple[FileRef, ...]]] = [
        (start, tuple(files[start : start + _CHUNK])) for start in range(0, len(files), _CHUNK)
    ]
    while waiting:
        again: list[tuple[int, tuple[FileRef, ...]]] = []
        for answer in workers.run(read_headers, waiting, seconds=_HEADER_SECONDS):
            start, refs = waiting[answer.index]
            if answer.value is not None:
                done += answer.value
            elif len(refs) == 1:
                fate = answer.fate or str(answer.error)
                done.append(FileHeader(start, "other", refused=fate))
            else:  # one of them is to blame: each by itself
                again += [(start + n, (ref,)) for n, ref in enumerate(refs)]
            step(len(done), len(files))
        waiting = again
    return sorted(done, key=lambda header: header.file)


def _studies(headers: Sequence[FileHeader], table: SeriesTable) -> dict[StudyKey, _Study]:
    images: defaultdict[tuple[str, str, str], list[FileHeader]] = defaultdict(list)
    drawn: defaultdict[StudyKey, list[Segmentation]] = defaultdict(list)
    for header in headers:
        if header.facts is None:
            continue
        if header.kind == "image":
            images[(*study_key(header.facts), header.facts.series_uid)].append(header)
        elif header.kind in {"seg", "rtstruct"}:
            drawn[study_key(header.facts)].append(Segmentation(f"file {header.file + 1}", header))
    volumes: defaultdict[StudyKey, list[Volume]] = defaultdict(list)
    for number, (key, own) in enumerate(images.items(), start=1):
        volumes[key[:2]] += judge_series(number, own, table)
    return {key: _Study(tuple(own), tuple(drawn.get(key, ()))) for key, own in volumes.items()}


def _file_finding(header: FileHeader) -> Finding:
    return Finding(f"file {header.file + 1}", taken=False, why=header.refused)


def _volume_finding(volume: Volume) -> Finding:
    notes = "; ".join(volume.stack.notes) if volume.stack else ""
    tail = f" ({notes})" if notes else ""
    if volume.problem:
        return Finding(volume.description, taken=False, why=volume.problem + tail)
    if volume.naming.name in {"", SKIP}:
        why = "skipped by your table" if volume.naming.name else volume.naming.why
        return Finding(volume.description, taken=False, why=why + tail)
    why = f"{volume.naming.name}, because: {volume.naming.why}{tail}"
    return Finding(volume.description, taken=True, why=why)


def _case(
    label: str, key: StudyKey, study: _Study, files: Sequence[FileRef], options: DicomOptions
) -> DicomCase:
    usable = [v for v in study.volumes if not v.problem and v.naming.name not in {"", SKIP}]
    if not usable:
        raise DataError("none of its series can be used; see them above.")
    mask, on = _mask(study, options)
    chosen = _chosen(usable, on, options.sequences)
    volumes = _on_one_grid(chosen, options.sequences)
    if on is not None and not any(volume.facts.series_uid == on for volume in volumes):
        raise DataError("its segmentation was drawn on a series that is not taken.")
    first = volumes[0].facts
    pseudonym, studied = key[0], day(first.study_date)
    if options.names.mark(key[0]) not in first.deidentified:  # else they are ours already
        pseudonym = options.names.pseudonym(key[0])
        studied = options.names.shift(key[0], studied) if studied else None
    used, sources, mask = _reindexed(volumes, mask, files)
    return DicomCase(
        label=label,
        case_id=f"{pseudonym}-{options.names.token('study', key[1])[:8]}",
        patient=patient_of(
            pseudonym=pseudonym,
            hospital=options.hospital,
            sex=first.sex,
            age=first.age,
            birth_date=first.birth_date,
            study_date=first.study_date,
            ethnic_group=first.ethnic_group,
        ),
        volumes=sources,
        mask=mask,
        files=used,
        study_date=studied.isoformat() if studied else "",
        names=options.names,
    )


def _mask(study: _Study, options: DicomOptions) -> tuple[MaskSource | None, str | None]:
    """Choose the segmentation; return it and the UID of the series that it was drawn on."""
    own = {volume.facts.series_uid for volume in study.volumes}
    fitting: list[tuple[MaskSource, str]] = []
    reasons = []
    for drawn in study.segmentations:
        header = drawn.header
        on = next((uid for uid in header.refers_to if uid in own), None)
        if on is None or options.masks_from not in {"any", header.kind}:
            continue
        try:
            labels, why = choose_labels(header.parts, options.tumour, shown=False)
        except DataError as error:
            reasons.append(f"{drawn.label}: {error}")
        else:
            fitting.append((MaskSource(header.kind, header.file, labels, why), on))
    if len(fitting) > 1:
        kinds = ", ".join(f"file {mask.file + 1} ({mask.kind.upper()})" for mask, _ in fitting)
        raise DataError(
            f"several segmentations could be the mask: {kinds}; choose with --masks-from or "
            "--tumour."
        )
    if fitting:
        return fitting[0]
    if options.masks_required:
        raise DataError(
            " ".join(reasons)
            or "it has no segmentation of any of its series; add one (DICOM SEG or RTSTRUCT), or "
            "take cases in without masks (`--no-masks-required`)."
        )
    return None, None


def _chosen(usable: list[Volume], on: str | None, sequences: tuple[str, ...]) -> list[Volume]:
    """One volume for each name; the one that the segmentation was drawn on comes first."""
    by_name: defaultdict[str, list[Volume]] = defaultdict(list)
    for volume in usable:
        by_name[volume.naming.name].append(volume)
    missing = [name for name in sequences if name not in by_name]
    if missing:
        raise DataError(f"it has no series that is {', '.join(missing)}.")
    chosen = []
    for name in sequences or tuple(by_name):
        same = by_name[name]
        segmented = [volume for volume in same if volume.facts.series_uid == on]
        if len(same) > 1 and len(segmented) != 1:
            labels = " and ".join(volume.label for volume in same)
            raise DataError(
                f"{labels} would all be {name}; name them apart, or skip some, in a table "
                "(--series-names)."
            )
        chosen.append(segmented[0] if len(same) > 1 else same[0])
    return sorted(chosen, key=lambda volume: volume.facts.series_uid != on)


def _on_one_grid(chosen: list[Volume], sequences: tuple[str, ...]) -> list[Volume]:
    """Keep what lies on the grid of the first, and what was asked for and can be resampled."""
    first, kept = chosen[0], [chosen[0]]
    for volume in chosen[1:]:
        if _same_grid(first, volume):
            kept.append(volume)
        elif not sequences:
            raise DataError(
                f"{first.label} and {volume.label} lie on different grids; say with --sequence "
                "which to take, that of the grid first: the others are resampled onto it."
            )
        elif not first.facts.frame_of_reference_uid or (
            first.facts.frame_of_reference_uid != volume.facts.frame_of_reference_uid
        ):
            raise DataError(
                f"{first.label} and {volume.label} have no common frame of reference, so one "
                "cannot be put onto the other; register them before, or take one of them."
            )
        else:
            kept.append(volume)
    return kept


def _same_grid(one: Volume, other: Volume) -> bool:
    if one.stack is None or other.stack is None or one.stack.affine is None:
        return False
    return one.stack.shape == other.stack.shape and (
        other.stack.affine is not None and one.stack.affine.is_close(other.stack.affine)
    )


def _reindexed(
    volumes: list[Volume], mask: MaskSource | None, files: Sequence[FileRef]
) -> tuple[tuple[FileRef, ...], tuple[VolumeSource, ...], MaskSource | None]:
    """Take along only the files of the case, and count in them."""
    places: dict[int, int] = {}
    sources = []
    for volume in volumes:
        stack, facts = volume.stack, volume.facts
        assert stack is not None and stack.affine is not None  # noqa: S101, PT018 - was judged
        planes = tuple(
            replace(plane, file=places.setdefault(plane.file, len(places)))
            for plane in stack.planes
        )
        sources.append(
            VolumeSource(
                name=volume.naming.name,
                modality=facts.modality,
                planes=planes,
                affine=stack.affine,
                pet=facts.pet,
                why=volume.naming.why,
                notes=stack.notes,
                acquisition=facts.acquisition,
            )
        )
    if mask is not None:
        mask = replace(mask, file=places.setdefault(mask.file, len(places)))
    return tuple(files[index] for index in places), tuple(sources), mask


def _says(recipe: DicomCase) -> str:
    volumes = ", ".join(volume.name for volume in recipe.volumes)
    if recipe.mask is None:
        return f"{volumes}; no mask"
    kind = {"seg": "DICOM SEG", "rtstruct": "RTSTRUCT"}[recipe.mask.kind]
    return f"{volumes}; mask from {kind} ({recipe.mask.why})"
