"""One file's header into a small record: what it is, whose, and where its slices lie.

Files are read up to their pixels. Records are kept for every file of a source,
so they are small, and what a series' files have in common is shared.
"""

from dataclasses import dataclass, field

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from evenhand.errors import DataError
from evenhand.ingest.dicom.files import FileRef, looks_like_dicom, opened
from evenhand.ingest.dicom.frames import Plane, planes_of
from evenhand.ingest.dicom.patients import manufacturer
from evenhand.ingest.dicom.suv import PetFacts, pet_facts
from evenhand.ingest.dicom.values import (
    DICOM_ERRORS,
    first_item,
    items,
    lenient,
    number,
    text,
    texts,
)

__all__ = ["FileHeader", "SeriesFacts", "read_headers"]

_SEG = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_DICOMDIR = "1.2.840.10008.1.3.10"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_NUMBERS = {
    "field_strength_t": "MagneticFieldStrength",
    "slice_thickness_mm": "SliceThickness",
    "kvp": "KVP",
    "echo_time_ms": "EchoTime",
    "repetition_time_ms": "RepetitionTime",
    "inversion_time_ms": "InversionTime",
}
_HEADS = {
    *("HEAD", "BRAIN", "SKULL", "HEADNECK", "FACE", "ORBIT", "EYE", "NOSE", "SINUS", "IAC", "JAW"),
    *("MAXILLA", "MANDIBLE", "NECK", "WHOLEBODY", "TMJ", "EAR", "SELLA", "PITUITARY"),
}
"""Values of Body Part Examined that may come with a face."""
_SHOW_TEXT = {"US", "IVUS", "XC", "ES", "GM", "OT", "SC", "DOC"}
"""Modalities whose devices write names into the picture, or may have it from paper or a screen."""
_GREY = {"MONOCHROME1", "MONOCHROME2"}

_TAGS: list[str | int | tuple[int, int] | BaseTag] = [
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate"),
    *("SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "Modality"),
    *("Manufacturer", "StudyDescription", "SeriesDescription", "ManufacturerModelName"),
    *("ReferencedSeriesSequence", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *(
        "DeidentificationMethod",
        "BodyPartExamined",
        "PatientWeight",
        "EthnicGroup",
        "ContrastBolusAgent",
        "ContrastBolusAgentSequence",
    ),
    *("ScanOptions", "SequenceName", "SliceThickness", "KVP", "SpacingBetweenSlices"),
    *("MagneticFieldStrength", "EchoTime", "EchoNumbers", "RepetitionTime", "InversionTime"),
    *("ProtocolName", "ConvolutionKernel", "DiffusionBValue", "StudyInstanceUID"),
    *("SeriesInstanceUID", "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient"),
    *("ImageOrientationPatient", "FrameOfReferenceUID", "TemporalPositionIdentifier"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("PixelSpacing", "BitsAllocated", "BurnedInAnnotation", "RescaleIntercept"),
    *("RescaleSlope", "ModalityLUTSequence", "CorrectedImage", "Units", "DecayCorrection"),
    *("RadiopharmaceuticalInformationSequence", "SUVType", "DecayFactor", "TriggerTime"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("SegmentSequence", "ReferencedFrameOfReferenceSequence", "StructureSetROISequence"),
]


@dataclass(frozen=True)
class SeriesFacts:
    """What the files of a series have in common. Holds identifiers: never stored, never shown."""

    patient_id: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    modality: str
    sex: str
    age: str
    birth_date: str
    study_date: str
    ethnic_group: str
    descriptions: tuple[str, ...]
    image_type: tuple[str, ...]
    contrast: bool
    acquisition: tuple[tuple[str, str], ...]
    deidentified: tuple[str, ...] = ()
    pet: PetFacts | None = None


@dataclass(frozen=True)
class FileHeader:
    """One file: `kind` is "image", "seg", "rtstruct", "other" (readable, of no use here) or "".

    `refused` says why an image cannot be used; `refers_to` holds the series that
    a segmentation was drawn on.
    """

    file: int
    kind: str
    facts: SeriesFacts | None = None
    planes: tuple[Plane, ...] = ()
    refused: str = ""
    refers_to: tuple[str, ...] = ()
    parts: tuple[tuple[int, str], ...] = field(default=())


def read_headers(task: tuple[int, tuple[FileRef, ...]]) -> list[FileHeader]:
    """Read a run of files, numbered from the task's first entry on. None is fatal."""
    start, refs = task
    shared: dict[SeriesFacts, SeriesFacts] = {}
    headers = []
    with lenient():
        for offset, ref in enumerate(refs):
            header = _read(start + offset, ref)
            if header.facts is not None:
                facts = shared.setdefault(header.facts, header.facts)
                header = _with_facts(header, facts)
            headers.append(header)
    return headers


def _with_facts(header: FileHeader, facts: SeriesFacts) -> FileHeader:
    object.__setattr__(header, "facts", facts)  # equal, and shared from now on
    return header


def _read(number_of_file: int, ref: FileRef) -> FileHeader:
    try:
        with opened(ref) as file:
            if not looks_like_dicom(file):
                return FileHeader(number_of_file, "")
            dataset = dcmread(file, force=True, stop_before_pixels=True, specific_tags=_TAGS)
            return _judged(number_of_file, dataset)
    except DataError as error:
        return FileHeader(number_of_file, "other", refused=str(error))
    except (*DICOM_ERRORS, MemoryError):
        return FileHeader(number_of_file, "other", refused="its header is damaged")


def _judged(number_of_file: int, dataset: Dataset) -> FileHeader:
    sop_class = text(dataset, "SOPClassUID")
    if sop_class == _DICOMDIR or "SOPClassUID" not in dataset:
        return FileHeader(number_of_file, "other", refused="it is an index or no image")
    facts = _facts(dataset)
    if sop_class in _SEG:
        parts = tuple(
            (int(number(each, "SegmentNumber") or 0), _segment_words(each))
            for each in items(dataset, "SegmentSequence")
        )
        return FileHeader(number_of_file, "seg", facts, refers_to=_seg_refers(dataset), parts=parts)
    if sop_class == _RTSTRUCT:
        parts = tuple(
            (int(number(each, "ROINumber") or 0), text(each, "ROIName"))
            for each in items(dataset, "StructureSetROISequence")
        )
        refers = _rtstruct_refers(dataset)
        return FileHeader(number_of_file, "rtstruct", facts, refers_to=refers, parts=parts)
    if "Rows" not in dataset:
        return FileHeader(number_of_file, "other", facts, refused="it holds no picture")
    refused = _why_not(dataset, sop_class)
    try:
        planes = () if refused else planes_of(dataset, number_of_file)
    except DataError as error:
        planes, refused = (), str(error)
    return FileHeader(number_of_file, "image", facts, planes, refused)


def _why_not(dataset: Dataset, sop_class: str) -> str:
    """Say why an image cannot be a part of a volume; "" if nothing speaks against it."""
    burned_in = text(dataset, "BurnedInAnnotation").upper()
    if burned_in == "YES":
        return "its pixels are marked as showing text (burned-in annotation)"
    if text(dataset, "Modality") in _SHOW_TEXT and burned_in != "NO":
        return (
            "its kind of picture often shows names, and its header does not say that it is free "
            "of text. Clean it with `evenhand deidentify --option clean-pixels` before"
        )
    if sop_class.startswith(_SECONDARY_CAPTURE):
        return "it is a secondary capture (a picture of a screen), not what the scanner measured"
    if int(number(dataset, "SamplesPerPixel") or 1) != 1 or (
        text(dataset, "PhotometricInterpretation") not in _GREY
    ):
        return "it is in colour; one grey value a voxel is wanted"
    if items(dataset, "ModalityLUTSequence"):
        return "its values go through a lookup table, which is not read"
    return ""


def _facts(dataset: Dataset) -> SeriesFacts:
    pet = pet_facts(dataset) if text(dataset, "Modality") == "PT" else None
    contrast = bool(text(dataset, "ContrastBolusAgent")) or bool(
        items(dataset, "ContrastBolusAgentSequence")
    )
    words = ("SeriesDescription", "ProtocolName", "SequenceName")
    options = " ".join(texts(dataset, "ScanOptions"))
    return SeriesFacts(
        patient_id=text(dataset, "PatientID"),
        study_uid=text(dataset, "StudyInstanceUID"),
        series_uid=text(dataset, "SeriesInstanceUID"),
        frame_of_reference_uid=text(dataset, "FrameOfReferenceUID"),
        modality=text(dataset, "Modality"),
        sex=text(dataset, "PatientSex"),
        age=text(dataset, "PatientAge"),
        birth_date=text(dataset, "PatientBirthDate"),
        study_date=text(dataset, "StudyDate"),
        ethnic_group=text(dataset, "EthnicGroup"),
        descriptions=(*(text(dataset, word) for word in words), options),
        image_type=texts(dataset, "ImageType"),
        contrast=contrast,
        acquisition=_acquisition(dataset),
        deidentified=texts(dataset, "DeidentificationMethod"),
        pet=pet,
    )


def _acquisition(dataset: Dataset) -> tuple[tuple[str, str], ...]:
    """How the series was made: numbers, and names from closed lists."""
    found = {"manufacturer": manufacturer(text(dataset, "Manufacturer"))}
    part = "".join(text(dataset, "BodyPartExamined").upper().split())
    if part:
        found["body_part"] = "head" if part in _HEADS else "other"
    for key, keyword in _NUMBERS.items():
        value = number(dataset, keyword)
        if value is not None:
            found[key] = f"{value:g}"
    return tuple(sorted(found.items()))


def _segment_words(segment: Dataset) -> str:
    """All that a segment says of itself: its label, and its coded type and category."""
    codes = ("SegmentedPropertyTypeCodeSequence", "SegmentedPropertyCategoryCodeSequence")
    meanings = [text(first_item(segment, code), "CodeMeaning") for code in codes]
    own = ("SegmentLabel", "SegmentDescription", "SegmentAlgorithmType")
    return " ".join([*(text(segment, word) for word in own), *meanings]).strip()


def _seg_refers(dataset: Dataset) -> tuple[str, ...]:
    found = [text(each, "SeriesInstanceUID") for each in items(dataset, "ReferencedSeriesSequence")]
    return tuple(uid for uid in found if uid)


def _rtstruct_refers(dataset: Dataset) -> tuple[str, ...]:
    return tuple(
        text(series, "SeriesInstanceUID")
        for frame in items(dataset, "ReferencedFrameOfReferenceSequence")
        for study in items(frame, "RTReferencedStudySequence")
        for series in items(study, "RTReferencedSeriesSequence")
    )
