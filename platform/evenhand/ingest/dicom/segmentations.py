"""Segmentations onto the grid of the image: DICOM SEG (through highdicom) and RTSTRUCT."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.ingest.dicom.files import FileRef, opened
from evenhand.ingest.dicom.polygons import fill_polygons
from evenhand.ingest.dicom.values import DICOM_ERRORS, items, lenient, number, text
from evenhand.ingest.resample import onto_grid

__all__ = ["read_rtstruct", "read_seg"]

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_OFF_PLANE = 0.1
"""How far a contour may lean out of its slice, in slice distances."""
_MOST_POINTS = 1_000_000
_HALF = 0.5


def read_seg(
    ref: FileRef, segments: Sequence[int], shape: tuple[int, int, int], affine: Affine
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Read segments of a DICOM SEG, merged, on the grid of an image.

    Frames are placed by their positions in the patient. Where the grids are the
    same but for order, direction and extent, voxels are copied as they are; else
    each voxel takes the nearest one of the segmentation. Probabilities of 0.5
    and above count as inside.

    Returns:
        The mask (columns, rows, slices), and notes.

    Raises:
        DataError: the file is damaged, or has no place in the patient.
    """
    from highdicom.seg import segread

    with lenient():
        try:
            with opened(ref) as file:
                seg = segread(file)
            volume = seg.get_volume(segment_numbers=list(segments), combine_segments=False)
            found = np.asarray(volume.array)
            lps = np.asarray(volume.affine, np.float64)
        except (*DICOM_ERRORS, MemoryError):
            raise DataError(
                "a segmentation (DICOM SEG) is damaged, or its frames do not lie on one even "
                "grid; write it again."
            ) from None
    inside: NDArray[np.bool_] = found >= _HALF
    merged = np.asarray(inside.any(axis=-1) if inside.ndim == 4 else inside, np.uint8)
    own = Affine(_LPS_FROM_RAS @ lps)  # from (slice, row, column) to RAS
    mask, exact = onto_grid(merged, own, shape, affine)
    notes = () if exact else ("the segmentation has a grid of its own: nearest voxels taken",)
    return mask, notes


def read_rtstruct(
    ref: FileRef, regions: Sequence[int], shape: tuple[int, int, int], affine: Affine
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Fill the contours of regions of an RTSTRUCT on the grid of an image, merged.

    A contour belongs to the slice that its middle is nearest to. The contours of
    one region in one slice are filled together (see `polygons`); regions are
    joined afterwards. Nothing is drawn into slices without contours.

    Returns:
        The mask (columns, rows, slices), and notes.

    Raises:
        DataError: the file is damaged, or contours do not lie in the image's slices.
    """
    with lenient():
        try:
            with opened(ref) as file:
                dataset = dcmread(file, force=True)
        except (*DICOM_ERRORS, MemoryError):
            raise DataError("a structure set (RTSTRUCT) is damaged.") from None
        mask = np.zeros(shape, np.uint8)
        notes: set[str] = set()
        wanted = frozenset(regions)
        for region in items(dataset, "ROIContourSequence"):
            if int(number(region, "ReferencedROINumber") or 0) in wanted:
                notes |= _draw(region, mask, np.linalg.inv(affine.ras_from_voxel))
    return mask, tuple(sorted(notes))


def _draw(region: Dataset, mask: NDArray[np.uint8], voxel_from_ras: NDArray[Any]) -> set[str]:
    by_slice: dict[int, list[NDArray[np.float64]]] = {}
    notes = set()
    for contour in items(region, "ContourSequence"):
        kind = text(contour, "ContourGeometricType")
        if kind == "POINT":
            continue
        if kind not in {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}:
            notes.add("open contours were left out")
            continue
        points = _points(contour)
        voxels = (voxel_from_ras @ _LPS_FROM_RAS @ points)[:3]
        middle = float(voxels[2].mean())
        if float(np.abs(voxels[2] - middle).max()) > _OFF_PLANE:
            raise DataError("contours of a structure set do not lie in the slices of the image.")
        place = round(middle)
        if abs(middle - place) > _OFF_PLANE:
            notes.add("contours between slices were moved to the nearest slice")
        if 0 <= place < mask.shape[2]:
            by_slice.setdefault(place, []).append(voxels[:2].T)
        else:
            notes.add("contours outside the image were left out")
    for place, polygons in by_slice.items():
        mask[:, :, place] |= fill_polygons(polygons, mask.shape[0], mask.shape[1])
    return notes


def _points(contour: Dataset) -> NDArray[np.float64]:
    """Points of a contour as columns (x, y, z, 1), in DICOM's frame."""
    try:
        values = np.array([float(value) for value in contour.ContourData], np.float64)
    except DICOM_ERRORS:
        values = np.empty(0)
    if not 9 <= len(values) <= _MOST_POINTS or len(values) % 3 or not np.isfinite(values).all():
        raise DataError("a contour of a structure set is damaged.")
    return np.vstack([values.reshape(-1, 3).T, np.ones(len(values) // 3)])
