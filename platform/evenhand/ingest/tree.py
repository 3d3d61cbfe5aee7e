"""Where the files of a case lie in a BIDS tree, and whether they belong together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.nifti import read_nifti
from evenhand.cases.records import CaseVolumes
from evenhand.errors import DataError
from evenhand.geometry import Affine

__all__ = ["CaseFiles", "find_case_files", "read_case", "strangers"]

_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one patient: images by sequence name; `mask` has one entry or none."""

    images: dict[str, Path]
    mask: dict[str, Path]


def strangers(source: Path, known: set[str]) -> list[str]:
    """Return names of patient folders that are not `known`, sorted."""
    found = {entry.name for entry in source.glob("sub-*") if entry.is_dir()}
    return sorted(found - known)


def find_case_files(
    source: Path,
) -> Callable[[str, Sequence[str], bool, Sequence[str]], CaseFiles]:
    """Return a finder of one patient's files: `find(folder, sequences, masks_required, may_lack)`.

    Derivatives are listed once, here. The finder raises DataError where a
    folder, a required mask or a sequence outside `may_lack` is missing, or where
    two files could be meant.
    """
    masks: dict[str, list[Path]] = {}
    for ending in _ENDINGS:
        for path in sorted((source / "derivatives").glob(f"**/sub-*/anat/*_mask{ending}")):
            masks.setdefault(path.parent.parent.name, []).append(path)

    def find(
        folder: str, sequences: Sequence[str], masks_required: bool, may_lack: Sequence[str]
    ) -> CaseFiles:
        if not (source / folder).is_dir():
            raise DataError(
                f"'{folder}' has a row in 'participants.tsv' but no folder; restore the folder, "
                "or remove the row."
            )
        return CaseFiles(
            images=_images(source, folder, sequences, may_lack),
            mask=_mask(source, folder, masks.get(folder, []), masks_required),
        )

    return find


def read_case(files: CaseFiles, source: Path) -> tuple[CaseVolumes, Affine]:
    """Read and check the voxels of a case.

    Returns:
        Images as float32 and the mask as uint8 (or None), all (i, j, k) on one
        grid, and the affine of that grid.

    Raises:
        DataError: a file is missing or damaged, not 3-D, not finite, a mask is
            not 0 and 1, or the files' shapes or affines differ.
    """
    images: dict[str, NDArray[np.float32]] = {}
    first: tuple[str, tuple[int, ...], Affine] | None = None
    for sequence, path in files.images.items():
        name = _name(path, source)
        voxels, affine = read_nifti(path, name=name)
        first = first or (name, voxels.shape, affine)
        _check_grid(name, voxels.shape, affine, first)
        images[sequence] = _finite(voxels, name)
    if first is None:
        raise DataError("A case must have at least one image.")
    mask = None
    for path in files.mask.values():
        name = _name(path, source)
        voxels, affine = read_nifti(path, name=name)
        _check_grid(name, voxels.shape, affine, first)
        mask = _binary(voxels, name)
    return CaseVolumes(images=MappingProxyType(images), mask=mask), first[2]


def _images(
    source: Path, folder: str, sequences: Sequence[str], may_lack: Sequence[str]
) -> dict[str, Path]:
    anat = source / folder / "anat"
    found: dict[str, list[Path]] = {}
    for path in sorted(anat.glob(f"{folder}_*")):
        for ending in _ENDINGS:
            if path.name.endswith(ending):
                label = path.name.removeprefix(f"{folder}_").removesuffix(ending)
                if not label.endswith("mask"):
                    found.setdefault(label, []).append(path)
                break
    if not sequences:
        if not found:
            raise DataError(_nothing(source, folder, f"'{folder}/anat' holds no NIfTI image"))
        return {label: _only(label, paths, source) for label, paths in found.items()}
    images = {}
    for sequence in sequences:
        paths = found.get(sequence) or [
            path for label in found if label.endswith(f"_{sequence}") for path in found[label]
        ]
        if not paths and sequence in may_lack:
            continue
        if not paths:
            what = f"'{folder}/anat/{folder}_{sequence}.nii.gz' is missing"
            raise DataError(_nothing(source, folder, what))
        images[sequence] = _only(sequence, paths, source)
    return images


def _nothing(source: Path, folder: str, what: str) -> str:
    if any((source / folder).glob("ses-*")):
        return (
            f"{what}, and '{folder}' has session folders, which are not read; move the images "
            f"of one session to '{folder}/anat'."
        )
    return (
        f"{what}; restore the file, ask for other sequences (data.sequences, --sequence), or "
        "remove the patient's row and folder."
    )


def _only(what: str, paths: list[Path], source: Path) -> Path:
    if len(paths) > 1:
        names = " and ".join(f"'{_name(path, source)}'" for path in paths[:2])
        raise DataError(f"{names} could both be meant by '{what}'; keep one of them.")
    return paths[0]


def _mask(source: Path, folder: str, paths: list[Path], required: bool) -> dict[str, Path]:
    if not paths and required:
        raise DataError(
            f"'{folder}' has no mask 'derivatives/*/{folder}/anat/*_mask.nii.gz'; restore it, or "
            "take cases in without masks (`--no-masks-required`)."
        )
    return {"mask": _only("mask", paths, source)} if paths else {}


def _name(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix()


def _check_grid(
    name: str, shape: tuple[int, ...], affine: Affine, first: tuple[str, tuple[int, ...], Affine]
) -> None:
    first_name, first_shape, first_affine = first
    if shape != first_shape:
        raise DataError(
            f"'{name}' has shape {shape}, '{first_name}' has {first_shape}; both must be on one "
            "grid. Resample one onto the other."
        )
    if not affine.is_close(first_affine):
        raise DataError(
            f"'{name}' has another affine than '{first_name}', so they lie in different places; "
            "both must be on one grid. Resample one onto the other, or correct its header."
        )


def _finite(voxels: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        image = voxels.astype(np.float32)
    bad = int(image.size - np.isfinite(image).sum())
    if bad:
        raise DataError(
            f"'{name}' has {bad} voxel(s) that are NaN or infinite; numbers are wanted. Set them "
            "to the background's value, or convert the image again."
        )
    return image


def _binary(voxels: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    bad = int(((voxels != 0) & (voxels != 1)).sum())
    if bad:
        raise DataError(
            f"'{name}' has {bad} voxel(s) that are neither 0 nor 1; a mask must be 0 outside and "
            "1 inside. Merge its labels into one mask, without smoothing."
        )
    return voxels.astype(np.uint8)
