"""A reviewed mask as a DICOM SEG on the series that it was drawn on.

BINARY, with empty frames kept: the form that every reader understands (a file
without them was misread, highdicom issue 214). The object says what made the
mask: an algorithm alone, or an algorithm and then a person (DICOM PS3.3
C.8.20.2, Segment Algorithm Type; PS3.16 CID 7162).
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenhand import __version__
from evenhand.errors import DataError
from evenhand.export.files import save_whole
from evenhand.geometry import Affine

__all__ = ["MaskOrigin", "read_source_series", "write_dicom_seg"]

MATCH_TOLERANCE = 1e-2
"""How far directions may differ when the axes are matched; the affines are compared after that."""

_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""What each object of a study must have, if only empty; de-identification takes some away."""

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class MaskOrigin(StrEnum):
    """How a mask came about; each value is what a PACS shows as the description."""

    PROPOSED = "Proposed by a model, not reviewed"
    ACCEPTED = "Proposed by a model, accepted by a reader"
    CORRECTED = "Proposed by a model, corrected by a reader"


def read_source_series(folder: Path) -> list[Any]:
    """Read the headers of the one image series in a folder, as pydicom datasets.

    Raises:
        DataError: there is none, there are several, or a file has no place in the patient.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    found: dict[str, list[Any]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError, EOFError):
            continue
        if "ImagePositionPatient" in dataset:
            for keyword in _MAY_BE_EMPTY:
                if keyword not in dataset:
                    setattr(dataset, keyword, "")
            found.setdefault(str(dataset.get("SeriesInstanceUID", "")), []).append(dataset)
    if len(found) != 1:
        what = f"{len(found)} series" if found else "no series of placed slices"
        raise DataError(
            f"'{folder}' holds {what}; name the folder of the one DICOM series (one file a slice) "
            "that the mask was drawn on."
        )
    (series,) = found.values()
    return series


def write_dicom_seg(
    path: Path,
    mask: NDArray[np.uint8],
    affine: Affine,
    series: Sequence[Any],
    *,
    origin: MaskOrigin,
    model: str,
    version: str,
) -> None:
    """Write a mask as a DICOM SEG; the file appears whole or not at all.

    Args:
        path: the file.
        mask: (i, j, k) of 0 and 1.
        affine: of the mask.
        series: headers of the slices that it lies on.
        origin: how it came about.
        model: name of the algorithm.
        version: of the algorithm, such as a hash of its adapter.

    Raises:
        DataError: mask and series are not on one grid.
        ResourceError: the file cannot be written.
    """
    import highdicom as hd

    volume = _on_series(mask, affine, series)
    seg = hd.seg.Segmentation(
        source_images=series,
        pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(origin, model, version)],
        series_instance_uid=hd.UID(),
        series_number=900,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Evenhand",
        manufacturer_model_name="Evenhand review",
        software_versions=__version__,
        device_serial_number="none",
        content_label="TUMOUR",
        content_description=str(origin),
        omit_empty_frames=False,
    )
    seg.SeriesDescription = f"Tumour mask, {origin.name.lower()}"
    save_whole(seg, path)


def _description(origin: MaskOrigin, model: str, version: str) -> Any:
    """Say what is drawn, and who drew it."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    by_hand_too = origin is MaskOrigin.CORRECTED
    kinds = hd.seg.SegmentAlgorithmTypeValues
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Tumour",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=kinds.SEMIAUTOMATIC if by_hand_too else kinds.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=f"{model or 'unnamed model'}{', edited by hand' if by_hand_too else ''}"[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=(version or "unknown")[:64],
        ),
        tracking_uid=hd.UID(),
        tracking_id="tumour-1",
    )


def _on_series(mask: NDArray[np.uint8], affine: Affine, series: Sequence[Any]) -> Any:
    """Turn a mask to the order of a series' rows, columns and slices; nothing is resampled."""
    import highdicom as hd

    wrong = DataError(
        "The mask does not lie on the grid of this DICOM series; name the series that the case "
        "was made from."
    )
    first = series[0]
    if not affine.is_rectangular:
        raise DataError(
            "The mask's rows, columns and slices do not stand at right angles (a tilted gantry), "
            "and a DICOM SEG cannot say that; export it as NIfTI."
        )
    if not first.get("FrameOfReferenceUID"):
        raise DataError(
            "The DICOM series has no FrameOfReferenceUID, so nothing can be placed on it; name the "
            "series as the scanner sent it."
        )
    try:
        own = hd.Volume(
            array=(mask != 0).astype(np.uint8),
            affine=_LPS_FROM_RAS @ affine.ras_from_voxel,
            coordinate_system="PATIENT",
            frame_of_reference_uid=first.FrameOfReferenceUID,
        )
        grid = _grid_of(series)
        turned = own.match_geometry(grid, tol=MATCH_TOLERANCE)
    except (RuntimeError, ValueError, AttributeError):
        raise wrong from None
    same = Affine(turned.affine).is_close(Affine(grid.affine))
    if not same or np.count_nonzero(turned.array) != np.count_nonzero(mask):
        raise wrong
    # The very numbers of the series, so that every frame names its slice.
    return hd.Volume(
        array=turned.array,
        affine=grid.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=first.FrameOfReferenceUID,
    )


def _grid_of(series: Sequence[Any]) -> Any:
    """Geometry of a series of single slices, without their pixels."""
    import highdicom as hd

    first = series[0]
    positions = [dataset.ImagePositionPatient for dataset in series]
    spacing, places = hd.spatial.get_volume_positions(positions, first.ImageOrientationPatient)
    if spacing is None or places is None:
        raise ValueError("slices are not evenly spaced")
    return hd.VolumeGeometry.from_attributes(
        image_position=positions[places.index(0)],
        image_orientation=first.ImageOrientationPatient,
        pixel_spacing=first.PixelSpacing,
        spacing_between_slices=spacing,
        number_of_frames=len(series),
        rows=first.Rows,
        columns=first.Columns,
        coordinate_system="PATIENT",
        frame_of_reference_uid=first.FrameOfReferenceUID,
    )
