"""Masks of any model as they come: NIfTI, PNG or DICOM SEG, one label or several.

Geometry is never guessed. NIfTI files must lie on one grid; pictures must have one size; a DICOM
SEG, which may leave out empty slices and turn its axes, is laid onto the other file's grid if its
voxels coincide with it. Nothing is resampled: that is the business of whoever made the masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.nifti import read_nifti
from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.ingest.mask_grid import on_grid, union_grid

__all__ = ["ONE_LABEL", "LabelMasks", "on_one_grid", "read_masks", "read_probability"]

ONE_LABEL = ""
"""Name of the label of a mask that has one and was not told its name."""

NIFTI = (".nii", ".nii.gz")
DICOM = (".dcm", ".dicom", "")

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LabelMasks:
    """The masks of one file, all on one grid."""

    masks: Mapping[str, Mask]
    """By label, (i, j, k), or (row, column) of a picture."""
    affine: Affine | None
    """None for a picture."""
    sparse: bool
    """Whether slices outside the masks may have been left out, as in DICOM SEG."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return next(iter(self.masks.values())).shape


def read_masks(path: Path, labels: Mapping[str, Sequence[int]], *, name: str) -> LabelMasks:
    """Read the masks of a file.

    Args:
        path: `.nii`, `.nii.gz`, `.png`, or a DICOM SEG (`.dcm` or without an ending).
        labels: values (of a SEG: segment numbers) that make up each label; empty: the file has
            one label, whatever its value.
        name: what an error calls the file.

    Raises:
        DataError: missing, damaged, of another kind, or with several labels where none is named.
    """
    if not path.is_file():
        raise DataError(f"There is no mask '{name}'. Restore it, or correct the pattern.")
    if path.name.lower().endswith(NIFTI):
        values, affine = read_nifti(path, name=name)
        return LabelMasks(_labels_of(_whole(values, name), labels, name), affine, sparse=False)
    if path.suffix.lower() == ".png":
        return LabelMasks(_labels_of(_picture(path, name), labels, name), None, sparse=False)
    if path.suffix.lower() in DICOM:
        from evenhand.ingest.mask_dicom import read_segments

        masks, affine = read_segments(path, labels, name=name)
        return LabelMasks(masks, affine, sparse=True)
    raise DataError(
        f"'{name}' is none of NIfTI (.nii, .nii.gz), PNG and DICOM SEG (.dcm). Convert it into one "
        "of these."
    )


def read_probability(path: Path, *, name: str) -> tuple[NDArray[np.float64], Affine | None]:
    """Read the probabilities of one label: a NIfTI of 0 to 1, or a PNG whose white is 1.

    Raises:
        DataError: missing, damaged, or of another kind.
    """
    if path.name.lower().endswith(NIFTI):
        values, affine = read_nifti(path, name=name)
        return values.astype(np.float64), affine
    if path.suffix.lower() == ".png":
        picture = _picture(path, name)
        return picture / np.iinfo(picture.dtype).max, None
    raise DataError(
        f"Probabilities are read from NIfTI and PNG; '{name}' is neither. Convert it into one."
    )


def on_one_grid(
    reference: LabelMasks, other: LabelMasks, *, names: tuple[str, str]
) -> tuple[LabelMasks, LabelMasks]:
    """Lay the masks of two files onto one grid: the reference's, if that is complete.

    Raises:
        DataError: the grids do not coincide.
    """
    if reference.affine is None or other.affine is None:
        if (reference.affine is None) != (other.affine is None):
            raise DataError(
                f"'{names[0]}' and '{names[1]}': one is a picture and one a volume, so they have "
                "no common grid. Give both in one form."
            )
        _same_shape(reference, other, names)
        return reference, other
    if not reference.sparse and not other.sparse:
        _same_shape(reference, other, names)
        if not reference.affine.is_close(other.affine):
            raise DataError(
                f"'{names[1]}' has another affine than '{names[0]}', so they lie in different "
                "places or have different spacing. Resample one onto the other, or correct its "
                "header."
            )
        return reference, other
    if reference.sparse and other.sparse:
        affine, shape = union_grid(
            (reference.affine, reference.shape), (other.affine, other.shape), names=names
        )
    elif reference.sparse:
        affine, shape = other.affine, other.shape
    else:
        affine, shape = reference.affine, reference.shape
    return (
        _laid(reference, affine, shape, names=(names[0], names[1])),
        _laid(other, affine, shape, names=(names[1], names[0])),
    )


def _laid(
    given: LabelMasks, affine: Affine | None, shape: tuple[int, ...], *, names: tuple[str, str]
) -> LabelMasks:
    if given.affine is None or affine is None:  # pictures were dealt with before
        return given
    masks = {
        label: on_grid(mask, given.affine, affine, shape, names=names)
        for label, mask in given.masks.items()
    }
    return LabelMasks(masks, affine, sparse=given.sparse)


def _same_shape(reference: LabelMasks, other: LabelMasks, names: tuple[str, str]) -> None:
    if reference.shape != other.shape:
        raise DataError(
            f"'{names[1]}' has shape {other.shape}, '{names[0]}' has {reference.shape}; a mask and "
            "its reference must be on one grid. Resample one onto the other."
        )


def _labels_of(
    values: NDArray[Any], labels: Mapping[str, Sequence[int]], name: str
) -> dict[str, Mask]:
    if labels:
        return {label: np.isin(values, list(wanted)) for label, wanted in labels.items()}
    mask = values != 0
    inside = values[mask]
    if inside.size and (inside != inside[0]).any():
        raise DataError(
            f"'{name}' holds several labels, and it is not said which is what. Name them, such as "
            "masks.labels = { core = [1], oedema = [2] }."
        )
    return {ONE_LABEL: mask}


def _whole(values: NDArray[Any], name: str) -> NDArray[Any]:
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.rint(values))).all():
        raise DataError(
            f"'{name}' holds values that are no whole numbers, so it is no mask. Threshold it, or "
            "name it under masks.probabilities."
        )
    return values


def _picture(path: Path, name: str) -> NDArray[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        raise DataError(
            f"'{name}' is truncated, damaged or no picture. Copy it again from where it came from."
        ) from None
    if pixels.ndim == 3 and (pixels[..., :3] == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # grey that was saved in colour
    if pixels.ndim != 2 or pixels.dtype.kind not in "ui":
        raise DataError(f"'{name}' is a picture in colour; a mask must be grey. Convert it.")
    return pixels
