"""Files into series, and each series' volumes judged: usable and named, or refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from evenhand.errors import DataError
from evenhand.ingest.dicom.headers import FileHeader, SeriesFacts
from evenhand.ingest.dicom.naming import SKIP, Naming, SeriesTable, name_series
from evenhand.ingest.dicom.stacks import Stack, make_stacks
from evenhand.ingest.dicom.suv import suv_factor

__all__ = ["Segmentation", "Volume", "judge_series", "study_key"]

_LOCALISER = {"LOCALIZER", "LOCALISER", "SCOUT"}
_MODALITIES = {"CT", "MR", "PT"}


@dataclass(frozen=True)
class Volume:
    """One volume of a series, and what was judged of it; `problem` is empty if it can be used."""

    label: str
    facts: SeriesFacts
    stack: Stack | None
    naming: Naming
    problem: str = ""

    @property
    def description(self) -> str:
        """Say what it is without a word of its header."""
        size = ""
        if self.stack is not None and self.stack.affine is not None:
            shape = " x ".join(map(str, self.stack.shape))
            spacing = " x ".join(f"{mm:.3g}" for mm in self.stack.affine.spacing_mm)
            size = f", {shape} of {spacing} mm"
        known = self.facts.modality if self.facts.modality in _MODALITIES else "other modality"
        return f"{self.label} ({known}{size})"


@dataclass(frozen=True)
class Segmentation:
    """A DICOM SEG or RTSTRUCT: file number, the series it refers to, its numbered labels."""

    label: str
    header: FileHeader


def study_key(facts: SeriesFacts) -> tuple[str, str]:
    """Whose study a series is of: patient and study, as the headers name them."""
    return facts.patient_id, facts.study_uid


def judge_series(
    number: int, headers: Sequence[FileHeader], table: SeriesTable
) -> tuple[Volume, ...]:
    """Judge the images of one series; a series may hold several volumes, such as two echoes."""
    facts = headers[0].facts
    assert facts is not None  # noqa: S101 - images have facts
    label = f"series {number}"
    naming = name_series(facts.modality, facts.descriptions, contrast=facts.contrast, table=table)
    problem = _problem(facts, headers)
    if problem:
        return (Volume(label, facts, None, naming, problem),)
    stacks = make_stacks([plane for header in headers for plane in header.planes])
    if len(stacks) == 1:
        return (Volume(label, facts, stacks[0], naming, stacks[0].problem),)
    return tuple(
        Volume(f"{label}, {stack.part}", facts, stack, _part_name(naming, n), stack.problem)
        for n, stack in enumerate(stacks, start=1)
    )


def _part_name(naming: Naming, number: int) -> Naming:
    """Volumes of one series share its name and a number: FLAIR-1, FLAIR-2."""
    if naming.name in {"", SKIP}:
        return naming
    return Naming(f"{naming.name}-{number}", naming.why)


def _problem(facts: SeriesFacts, headers: Sequence[FileHeader]) -> str:
    if not (facts.patient_id and facts.study_uid and facts.series_uid):
        return "its files do not say which patient, study and series they belong to"
    if _LOCALISER & {part.upper() for part in facts.image_type}:
        return "a localiser"
    refused = [header for header in headers if header.refused]
    if refused:
        rest = f" ({len(refused)} of {len(headers)} files)" if len(headers) > 1 else ""
        return f"file {refused[0].file + 1}: {refused[0].refused}{rest}"
    if facts.modality not in _MODALITIES:
        return "its modality is not one that makes volumes (CT, MR, PT)"
    if facts.pet is not None:
        try:
            suv_factor(facts.pet, facts.pet.acquired)
        except DataError as error:
            return str(error)
    return ""
