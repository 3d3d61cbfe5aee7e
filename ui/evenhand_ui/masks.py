"""Masks on their way in and out: read the proposed one, check an uploaded one, keep it.

An upload is untrusted: its size is capped before and while it is unpacked, so
that a small file cannot unpack into a full memory.
"""

import gzip
import io
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from evenhand.cases.hashing import array_sha256
from evenhand.cases.nifti import read_nifti, write_nifti
from evenhand.cases.records import Case
from evenhand.errors import DataError, ResourceError
from evenhand.geometry import Affine
from evenhand.review import Entry
from evenhand_ui.options import UPLOAD_LIMIT_MIB

__all__ = [
    "MaskSummary",
    "check_uploaded_mask",
    "keep_correction",
    "name_correction",
    "read_mask",
    "read_uncertainty",
    "recorded_mask",
    "refuse_changed",
    "summarise_mask",
]

_SURE_BITS = 0.1
_HEADER_ALLOWANCE_BYTES = 1 << 20
_BYTES_PER_VOXEL_LIMIT = 8


@dataclass(frozen=True, kw_only=True)
class MaskSummary:
    """What the worklist shows of a mask: its hash, its slices with tumour, its volume.

    `tumour_slices` counts slices along k; `volume_mm3` rests on the file's affine.
    """

    sha256: str
    tumour_slices: int
    voxels: int
    volume_mm3: float


def read_mask(path: Path, case: Case) -> NDArray[np.uint8]:
    """Read a proposed or corrected mask of a case: uint8 (i, j, k) of 0 and 1.

    Raises:
        DataError: it is missing, damaged, or does not fit the case.
    """
    values, affine = read_nifti(path, name=path.name)
    fault = _misfit(values, affine, case)
    if fault:
        raise DataError(f"The mask '{path.name}' {fault}; restore it, or make it again.")
    return values.astype(np.uint8)


def read_uncertainty(path: Path, case: Case) -> NDArray[np.uint8]:
    """Return how unsure the model was of each voxel: uint8 (i, j, k), 255 where it was even.

    It is the binary entropy of the probability, in 255ths of a bit. Nothing is calibrated.

    Raises:
        DataError: the probabilities are missing, damaged, or of another case.
    """
    values, affine = read_nifti(path, name=path.name)
    fits = values.dtype == np.uint8 and values.shape == case.shape
    if not fits or not affine.is_close(case.affine):
        raise DataError(f"The probabilities '{path.name}' do not fit their case; run again.")
    unsure: NDArray[np.uint8] = _entropy()[values]
    return unsure


@lru_cache(maxsize=1)
def _entropy() -> NDArray[np.uint8]:
    """By probability in 255ths; under a tenth of a bit nobody would look."""
    p = np.linspace(0, 1, 256)[1:-1]
    bits = np.zeros(256)
    bits[1:-1] = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return np.where(bits < _SURE_BITS, 0, np.rint(bits * 255)).astype(np.uint8)


def recorded_mask(folder: Path, entry: Entry, case: Case) -> NDArray[np.uint8]:
    """Read the corrected mask (i, j, k) that a decision names, as it was recorded.

    Args:
        folder: of the review database.
        entry: a decision that names a corrected mask.
        case: whose mask it is.

    Raises:
        DataError: it is missing, damaged, or was changed since.
    """
    path = folder / str(entry.decision.corrected_path)
    mask = read_mask(path, case)
    refuse_changed(mask, path, entry)
    return mask


def refuse_changed(mask: NDArray[Any], path: Path, entry: Entry) -> None:
    """Compare a corrected mask that was read from a file with the hash in the decision's record.

    Raises:
        DataError: they differ.
    """
    if array_sha256(mask) != entry.decision.corrected_sha256:
        raise DataError(
            f"The corrected mask '{path.name}' of decision {entry.position} was changed after it "
            "was recorded; restore it from a backup."
        )


def summarise_mask(path: Path) -> MaskSummary:
    """Return hash and size of a mask file; an unchanged file is read once.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        stat = path.stat()
    except OSError:
        raise DataError(f"The mask '{path.name}' is missing; run `evenhand run` again.") from None
    return _summarise(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _summarise(path: Path, _mtime_ns: int, _size: int) -> MaskSummary:
    values, affine = read_nifti(path, name=path.name)
    mask = values.astype(np.uint8)
    voxels = int(np.count_nonzero(mask))
    return MaskSummary(
        sha256=array_sha256(mask),
        tumour_slices=int(mask.any(axis=(0, 1)).sum()),
        voxels=voxels,
        volume_mm3=voxels * affine.voxel_volume_mm3,
    )


def check_uploaded_mask(
    content: bytes, case: Case, proposed: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return an uploaded NIfTI mask as uint8 (i, j, k) of 0 and 1, or say what is wrong with it.

    Args:
        content: the uploaded file, .nii or .nii.gz.
        case: whose mask it should be; shape and affine must be the same.
        proposed: the mask that is corrected, uint8 (i, j, k).

    Raises:
        DataError: too large, not NIfTI, another shape or affine, other values
            than 0 and 1, nothing changed. One sentence for the reader.
    """
    if len(content) > UPLOAD_LIMIT_MIB << 20:
        raise DataError(
            f"The uploaded file has {len(content) / (1 << 20):.0f} MiB; a mask may have "
            f"{UPLOAD_LIMIT_MIB}. Save it as 8-bit .nii.gz and upload again."
        )
    allowed = int(np.prod(case.shape)) * _BYTES_PER_VOXEL_LIMIT + _HEADER_ALLOWANCE_BYTES
    plain = _unpack(content, allowed)
    try:
        image = nib.Nifti1Image.from_bytes(plain)
        affine = Affine(image.affine)
        # The header is judged before the voxels are touched.
        fault = "" if image.shape == case.shape else _wrong_shape(image.shape, case.shape)
        values = np.asarray(image.dataobj) if not fault else np.zeros(case.shape)
    except DataError:
        raise DataError(
            "The uploaded mask's header has no usable affine; save it again with the case's image "
            "open, so that its geometry is copied."
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever nibabel makes of a foreign file
        raise DataError(
            "The uploaded file is not a readable NIfTI image "
            f"({type(error).__name__}); upload a .nii or .nii.gz file."
        ) from None
    fault = fault or _misfit(values, affine, case)
    if fault:
        raise DataError(
            f"The uploaded mask {fault}; start from the proposed mask that can be downloaded here."
        )
    if np.array_equal(values, proposed):
        raise DataError("The uploaded mask equals the proposed one; accept that instead.")
    return values.astype(np.uint8)


def name_correction(case: Case, mask: NDArray[np.uint8]) -> tuple[str, str]:
    """Return where a corrected mask will be kept and the sha256 of its voxels.

    The place is relative to the review database's folder. It is named by
    content, so a later correction never overwrites an earlier one.
    """
    sha256 = array_sha256(mask)
    return f"corrected/{case.case_id}/{sha256[:16]}.nii.gz", sha256


def keep_correction(path: Path, case: Case, mask: NDArray[np.uint8]) -> None:
    """Write a corrected mask (i, j, k) with its case's affine, whole or not at all.

    Raises:
        ResourceError: it cannot be written; nothing is left behind.
    """
    draft = path.with_name(f".draft-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_nifti(draft, mask, case.affine)
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise ResourceError(
            f"The corrected mask could not be written: {error.strerror}. Nothing was "
            "recorded; free some disk space and decide again."
        ) from None


def _unpack(content: bytes, allowed: int) -> bytes:
    plain = content
    if content[:2] == b"\x1f\x8b":
        # Of one member or several: volumes of ours are written in blocks.
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
                plain = stream.read(allowed + 1)
        except (OSError, EOFError, zlib.error):
            raise DataError(
                "The uploaded .gz file is damaged or cut short; save and upload again."
            ) from None
    if len(plain) > allowed:
        raise DataError(
            "The uploaded mask unpacks to more than this case's volume can hold; "
            "upload a mask of this case."
        )
    return plain


def _misfit(values: NDArray[np.generic], affine: Affine, case: Case) -> str:
    if values.shape != case.shape:
        return _wrong_shape(values.shape, case.shape)
    if not affine.is_close(case.affine):
        return "lies elsewhere in the patient than the case (its affine differs)"
    if values.dtype.kind not in "buif" or not _is_binary(values):
        return "has values other than 0 (no tumour) and 1 (tumour)"
    return ""


def _is_binary(values: NDArray[np.generic]) -> bool:
    if values.dtype.kind in "bu":  # one pass instead of three
        return bool(values.max(initial=0) <= 1)
    return bool(((values == 0) | (values == 1)).all())


def _wrong_shape(got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    def text(shape: tuple[int, ...]) -> str:
        return " x ".join(map(str, shape))

    return f"has {text(got)} voxels where the case has {text(wanted)}"
