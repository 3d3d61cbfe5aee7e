"""Decoded voxels of a stack in their modality's unit: HU, SUV, or the scanner's own numbers."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from evenhand.errors import DataError
from evenhand.ingest.dicom.files import FileRef, opened
from evenhand.ingest.dicom.frames import Plane
from evenhand.ingest.dicom.suv import PetFacts, pet_facts, suv_factor
from evenhand.ingest.dicom.values import DICOM_ERRORS, lenient

__all__ = ["read_stack", "unit_of"]

_LARGEST_BYTES = 2**33
_EXACT = 2**23
"""Whole numbers below it float32 adds to those of 16 bits without rounding."""


def unit_of(modality: str, intercepts: Sequence[float]) -> str:
    """Return the unit of what `read_stack` gives: "HU", "SUVbw" or "arbitrary"."""
    if modality == "CT" and any(intercepts):
        return "HU"
    if modality == "CT":
        return "HU (no intercept in the header)"
    return "SUVbw" if modality == "PT" else "arbitrary"


def read_stack(
    planes: Sequence[Plane], files: Sequence[FileRef], pet: PetFacts | None = None
) -> NDArray[np.float32]:
    """Decode slices into one volume (columns, rows, slices), rescaled.

    Args:
        planes: of one size, in their order; `planes[n].file` counts in `files`.
        files: of the source.
        pet: facts of a PET series, whose values become SUV by body weight.

    Raises:
        DataError: a file cannot be decoded, or is another than its header said.
    """
    rows, columns = planes[0].rows, planes[0].columns
    if rows * columns * len(planes) * 4 > _LARGEST_BYTES:
        raise DataError("a series is larger than any scanner makes; it is damaged.")
    # Slices are written one after the other, and the store writes columns fastest: this layout
    # makes both sequential.
    volume = np.empty((len(planes), rows, columns), np.float32)
    acquired: list[datetime] = []
    by_file = sorted(enumerate(planes), key=lambda pair: pair[1].file)
    with lenient():
        for file, group in groupby(by_file, key=lambda pair: pair[1].file):
            dataset = _read(files[file])
            if pet is not None and (when := pet_facts(dataset).acquired):
                acquired.append(when)
            for index, plane, frame in _frames(dataset, list(group), (rows, columns)):
                _rescale(frame, plane, out=volume[index])
    if pet is not None:
        volume *= np.float32(suv_factor(pet, min(acquired, default=None)))
    if not np.isfinite(volume).all():
        raise DataError("a series has values that are not finite after rescaling; it is damaged.")
    return volume.T


def _rescale(frame: NDArray[np.generic], plane: Plane, *, out: NDArray[np.float32]) -> None:
    """Write stored values as modality values, each the float32 that is nearest to the exact one."""
    short = frame.dtype.itemsize <= 2 and frame.dtype.kind in "iu"
    whole = plane.intercept.is_integer() and abs(plane.intercept) < _EXACT
    if short and whole and plane.slope == 1:
        np.add(frame, np.float32(plane.intercept), out=out, dtype=np.float32, casting="unsafe")
    else:
        out[...] = frame.astype(np.float64) * plane.slope + plane.intercept


def _read(ref: FileRef) -> Dataset:
    try:
        with opened(ref) as file:
            return dcmread(file, force=True)
    except DICOM_ERRORS:
        raise DataError("a file of a series is damaged; it cannot be read to its end.") from None


def _frames(
    dataset: Dataset, wanted: list[tuple[int, Plane]], size: tuple[int, int]
) -> Iterator[tuple[int, Plane, NDArray[np.generic]]]:
    for index, plane in wanted:
        try:
            single = int(dataset.get("NumberOfFrames") or 1) == 1
            frame = pixel_array(dataset, index=None if single else plane.frame, raw=True)
            frame = _stored_bits(dataset, frame)
        except (*DICOM_ERRORS, MemoryError):
            syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
            name = getattr(syntax, "name", "unknown") if syntax else "none"
            known = name if syntax is not None and not syntax.is_private else "unknown"
            raise DataError(
                f"the pixels of a file cannot be decoded (transfer syntax: {known}); it is "
                "damaged or written in a way that no decoder here knows."
            ) from None
        if frame.shape != size:
            raise DataError("the pixels of a file have another size than its header says.")
        yield index, plane, frame


def _stored_bits(dataset: Dataset, frame: NDArray[np.generic]) -> NDArray[np.generic]:
    """Keep the bits that are stored; old scanners put overlays into those above."""
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    if frame.dtype.kind not in "iu" or not 0 < stored < allocated <= 32:
        return frame
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        return frame  # the decoder has done it
    lowest = int(dataset.HighBit) + 1 - stored
    if not 0 <= lowest <= allocated - stored:
        raise DataError("the bits of its pixels lie outside their words")
    bits = frame.view(f"u{frame.dtype.itemsize}").astype(np.uint32) >> np.uint32(lowest)
    bits &= np.uint32((1 << stored) - 1)
    if int(dataset.PixelRepresentation) == 0:
        return bits
    sign = np.int64(1 << (stored - 1))
    signed: NDArray[np.generic] = (bits.astype(np.int64) ^ sign) - sign
    return signed
