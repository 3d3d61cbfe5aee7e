"""A case made of NIfTI files: one or more images, perhaps with channels, and a mask with labels."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.nifti import read_channels
from evenhand.cases.records import Patient
from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.ingest.deid import Pseudonymiser
from evenhand.ingest.recipes import Content

__all__ = ["ImageSource", "VolumeCase", "hash_files", "patient_row"]

_VERSION = 1
"""Raised when a case would be stored differently, so that old ones are made anew."""


@dataclass(frozen=True)
class ImageSource:
    """A sequence: its name in the store, its file, and the channel of it (from 0)."""

    name: str
    path: Path
    channel: int = 0


@dataclass(frozen=True, kw_only=True)
class VolumeCase:
    """The recipe. `known` are the values that a mask may hold, `labels` those of the tumour.

    `apart` names each of `labels` where they are kept apart; empty: they are merged.
    """

    kind: str
    label: str
    case_id: str
    patient: Patient
    images: tuple[ImageSource, ...]
    mask: Path | None
    labels: tuple[int, ...]
    known: tuple[int, ...]
    why: str
    names: Pseudonymiser | None
    apart: tuple[str, ...] = ()

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask file."""
        return self.mask is not None

    def fingerprint(self) -> str:
        """Hash what the case is made from; keyed where there is a key.

        Raises:
            DataError: a file is missing.
        """
        plan = [
            patient_row(self.patient),
            [[image.name, image.channel] for image in self.images],
            list(self.labels),
            *([list(self.apart)] if self.apart else []),
        ]
        files = [image.path for image in self.images] + ([self.mask] if self.mask else [])
        digest = hash_files(json.dumps(plan, sort_keys=True), files, self.label)
        token = self.names.token("source", digest) if self.names else f"sha256:{digest}"
        return f"{self.kind}, version {_VERSION}, {token}"

    def read(self) -> Content:
        """Read images and mask, and check that they lie on one grid."""
        images: dict[str, NDArray[np.float32]] = {}
        grid: tuple[tuple[int, ...], Affine] | None = None
        loaded: dict[Path, tuple[NDArray[np.generic], Affine]] = {}
        for number, image in enumerate(self.images, start=1):
            what = f"image {number} of {self.label}"
            if image.path not in loaded:
                loaded = {image.path: read_channels(image.path, name=what)}
            voxels, affine = loaded[image.path]
            if image.channel >= voxels.shape[3]:
                raise DataError(f"{what} has fewer channels than the data set says.")
            own = voxels[..., image.channel]
            grid = grid or (own.shape, affine)
            _check_grid(what, own.shape, affine, grid)
            images[image.name] = _finite(own, what)
        assert grid is not None  # noqa: S101 - a case has at least one image
        mask = self._read_mask(grid) if self.mask else None
        evidence = {
            "source": self.kind,
            "key": self.names.key_fingerprint if self.names else None,
            "header": "not stored: only voxels, affine and the patient's row",
            "mask": self.why,
        }
        return Content(
            affine=grid[1],
            images=images,
            mask=mask,
            evidence=evidence,
            labels=self.apart if mask is not None else (),
        )

    def _read_mask(self, grid: tuple[tuple[int, ...], Affine]) -> NDArray[np.uint8]:
        assert self.mask is not None  # noqa: S101 - asked before
        what = f"the mask of {self.label}"
        voxels, affine = read_channels(self.mask, name=what)
        if voxels.shape[3] != 1:
            raise DataError(f"{what} has several channels; one volume of labels is wanted.")
        _check_grid(what, voxels.shape[:3], affine, grid)
        strange = int((~np.isin(voxels, (0, *self.known))).sum())
        if strange:
            raise DataError(
                f"{what} has {strange} voxel(s) with values that the data set does not name as "
                "labels; correct the mask or the list of labels."
            )
        if not self.apart:
            return np.isin(voxels[..., 0], self.labels).astype(np.uint8)
        mask = np.zeros(voxels.shape[:3], np.uint8)
        for number, value in enumerate(self.labels, start=1):
            mask[voxels[..., 0] == value] = number
        return mask


def patient_row(patient: Patient) -> Mapping[str, object]:
    """Return a patient's record as plain values, for hashing."""
    keys = ("patient_id", "hospital", "sex", "age_years", "race", "ethnicity")
    return {key: getattr(patient, key) for key in keys} | dict(patient.extra)


def hash_files(start: str, files: list[Path], label: str) -> str:
    """Hash a text and the content of files.

    Raises:
        DataError: a file is missing.
    """
    digest = hashlib.sha256(start.encode())
    for number, path in enumerate(files, start=1):
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:
            raise DataError(f"file {number} of {label} is missing or cannot be read.") from None
    return digest.hexdigest()


def _check_grid(
    what: str, shape: tuple[int, ...], affine: Affine, grid: tuple[tuple[int, ...], Affine]
) -> None:
    if shape != grid[0]:
        raise DataError(
            f"{what} has shape {shape}, the first image has {grid[0]}; all must be on one grid. "
            "Resample one onto the other."
        )
    if not affine.is_close(grid[1]):
        raise DataError(
            f"{what} has another affine than the first image, so they lie in different places. "
            "Resample one onto the other, or correct its header."
        )


def _finite(voxels: NDArray[np.generic], what: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        image = np.asarray(voxels, np.float32)
    if not np.isfinite(image).all():
        raise DataError(f"{what} has voxels that are NaN or infinite; numbers are wanted.")
    return image
