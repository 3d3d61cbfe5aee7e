"""Synthetic DICOM series, for tests, benchmarks and a first try: nobody's picture.

    study = Study(patient_id="A1")
    write_series(folder, voxels, affine, study)
    write_rtstruct(folder / "rs.dcm", {"GTV": contours}, study)

What is written is valid enough for any reader; pixels may be compressed
losslessly by pydicom's own encoders (RLE) and pylibjpeg's (JPEG 2000).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from evenhand.geometry import Affine

__all__ = ["Study", "write_enhanced", "write_rtstruct", "write_series"]

_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
_ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Study:
    """What all series of a study share. UIDs follow from `patient_id` and `name`."""

    patient_id: str = "PHANTOM-1"
    name: str = "study"
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def uid(self, what: str) -> str:
        """Return the UID of a part of the study, always the same."""
        return str(generate_uid(entropy_srcs=[self.patient_id, self.name, what]))

    def fill(self, dataset: Dataset) -> None:
        """Write what is common into a data set."""
        dataset.PatientID = self.patient_id
        dataset.PatientName = "Phantom^Nobody"
        dataset.StudyInstanceUID = self.uid("study")
        dataset.FrameOfReferenceUID = self.uid("frame")
        dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = "20200229"
        dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = "120000"
        dataset.Manufacturer = "Evenhand phantom"
        for keyword, value in self.attributes.items():
            setattr(dataset, keyword, value)


def _new(path: Path, sop_class: str, uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    return dataset


def _pixel_description(dataset: Dataset, voxels: NDArray[np.int16]) -> None:
    dataset.Columns, dataset.Rows = voxels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1


def _place(affine: Affine, slice_number: int) -> tuple[list[float], list[float], list[float]]:
    """Return position, orientation and pixel spacing of a slice, as DICOM wants them."""
    lps = _LPS_FROM_RAS @ affine.ras_from_voxel
    i, j, _ = affine.spacing_mm
    orientation = [*(lps[:3, 0] / i), *(lps[:3, 1] / j)]
    position = lps @ [0, 0, slice_number, 1]
    return list(position[:3]), orientation, [j, i]


def _decimal(values: Sequence[float]) -> list[str]:
    """Return decimal strings of at most 16 characters, with all digits that fit."""
    return [np.format_float_positional(v, precision=10, trim="-")[:16] for v in values]


def write_series(
    folder: Path,
    voxels: NDArray[np.int16],
    affine: Affine,
    study: Study,
    *,
    modality: str = "CT",
    series: str = "series",
    syntax: str | None = None,
    leave_out: Sequence[int] = (),
    **attributes: Any,
) -> list[Path]:
    """Write a volume (columns, rows, slices) as one file a slice, names in no order of space.

    Args:
        folder: made if need be.
        voxels: stored values.
        affine: of the volume; its columns need not be perpendicular (gantry tilt).
        study: whose it is.
        modality: CT, MR or PT.
        series: names the series within the study.
        syntax: UID of a compressed transfer syntax; None: not compressed.
        leave_out: slices that are not written.
        attributes: further attributes of each file, by keyword.

    Returns:
        The paths, slice by slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(voxels.shape[2]):
        if index in leave_out:
            continue
        path = folder / f"{(index * 7919) % 10007:05d}"  # no ending, and out of order
        dataset = _new(path, _CLASSES[modality], study.uid(f"{series} {index}"))
        study.fill(dataset)
        dataset.Modality, dataset.SeriesInstanceUID = modality, study.uid(series)
        dataset.ImageType, dataset.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], index + 1
        position, orientation, spacing = _place(affine, index)
        dataset.ImagePositionPatient = _decimal(position)
        dataset.ImageOrientationPatient = _decimal(orientation)
        dataset.PixelSpacing = _decimal(spacing)
        dataset.SliceThickness = _decimal([affine.spacing_mm[2]])[0]
        _pixel_description(dataset, voxels)
        if modality == "CT":
            dataset.RescaleIntercept, dataset.RescaleSlope = "-1024", "1"
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.PixelData = np.ascontiguousarray(voxels[:, :, index].T).tobytes()
        if syntax is not None:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_enhanced(
    path: Path, voxels: NDArray[np.int16], affine: Affine, study: Study, *, series: str = "series"
) -> None:
    """Write a volume as one enhanced multi-frame MR file, its frames in reverse order."""
    dataset = _new(path, _ENHANCED_MR, study.uid(series))
    study.fill(dataset)
    dataset.Modality, dataset.SeriesInstanceUID = "MR", study.uid(series)
    dataset.SeriesDescription = "t2_flair"
    _pixel_description(dataset, voxels)
    count = voxels.shape[2]
    dataset.NumberOfFrames = count
    _, orientation, spacing = _place(affine, 0)
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = _decimal(orientation)
    measures.PixelSpacing = _decimal(spacing)
    measures.SliceThickness = _decimal([affine.spacing_mm[2]])[0]
    shared.PlaneOrientationSequence = DicomSequence([plane])
    shared.PixelMeasuresSequence = DicomSequence([measures])
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    frames = []
    for index in reversed(range(count)):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = _decimal(_place(affine, index)[0])
        frame.PlanePositionSequence = DicomSequence([place])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    dataset.PixelData = np.ascontiguousarray(voxels.T[::-1]).tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_rtstruct(
    path: Path,
    regions: Mapping[str, Sequence[NDArray[np.float64]]],
    study: Study,
    *,
    series: str = "series",
) -> None:
    """Write closed contours, each (n, 3) in RAS millimetres, by the region's name."""
    dataset = _new(path, _RTSTRUCT, study.uid(f"{series} rtstruct"))
    study.fill(dataset)
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", study.uid(f"{series} rtstruct")
    referenced, whole, frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = study.uid(series)
    whole.RTReferencedSeriesSequence = DicomSequence([referenced])
    frame.FrameOfReferenceUID = study.uid("frame")
    frame.RTReferencedStudySequence = DicomSequence([whole])
    dataset.ReferencedFrameOfReferenceSequence = DicomSequence([frame])
    names, drawn = [], []
    for number, (name, contours) in enumerate(regions.items(), start=1):
        region, contour_set = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        contour_set.ReferencedROINumber = number
        contour_set.ContourSequence = DicomSequence([_contour(points) for points in contours])
        names.append(region)
        drawn.append(contour_set)
    dataset.StructureSetROISequence = DicomSequence(names)
    dataset.ROIContourSequence = DicomSequence(drawn)
    dataset.save_as(path, enforce_file_format=True)


def _contour(points: NDArray[np.float64]) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = _decimal((points * [-1, -1, 1]).ravel().tolist())
    return contour
