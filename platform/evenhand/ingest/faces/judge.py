"""May a volume show a face? Asked of every case at the door.

What the user says comes first, then the header's body part, then the voxels: a
body that is wider than any head is none; a stack that is too thin or too narrow
shows no face; and a volume in which exactly nothing is left around an object of
a brain's size is skull-stripped. In doubt there may be a face.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evenhand.geometry import Affine
from evenhand.ingest.quality.coarse import body_of

__all__ = ["BodyPart", "Judgement", "judge"]

BodyPart = Literal["head", "brain", "other", ""]
"""What is shown: "brain" is a head that was skull-stripped; "" where nobody said."""

_WIDEST_HEAD_MM = 230.0
"""Bodies that are wider between their sides are no heads."""
_THINNEST_MM = 60.0
"""Stacks with less between their first and last slice show no face."""
_NARROWEST_MM = 100.0
"""Fields of view that are narrower show no face."""
_EMPTY_SHARE = 0.25
"""Share of a stripped volume that has the one value of its background, at least."""
_LARGEST_BRAIN_ML = 2500.0
"""A brain with a rim is smaller; a head with its face has 3500 and more."""


@dataclass(frozen=True)
class Judgement:
    """Whether there may be a face, and why, without identifiers."""

    face: bool
    why: str


def judge(
    images: Mapping[str, NDArray[np.float32]], affine: Affine, *, said: BodyPart, header: BodyPart
) -> Judgement:
    """Judge a case by its volumes, all on one grid.

    Args:
        images: by sequence.
        affine: of all.
        said: what the user says that is shown.
        header: what the header says.
    """
    for part, who in ((said, "the user"), (header, "the header")):
        if part == "other":
            return Judgement(face=False, why=f"no head, says {who}")
        if part == "brain":
            return Judgement(face=False, why=f"skull-stripped, says {who}")
        if part == "head":
            break
    first = next(iter(images.values()))
    if _too_small(first, affine):
        return Judgement(face=False, why="too thin or too narrow to show a face")
    known = "head" in (said, header)
    if not known:
        width = _width_mm(first, affine)
        if width > _WIDEST_HEAD_MM:
            return Judgement(face=False, why=f"no head: the body is {width:.0f} mm wide")
    unstripped = [name for name, image in images.items() if not _stripped(image, affine)]
    if not unstripped:
        return Judgement(
            face=False, why="skull-stripped: nothing around an object of a brain's size"
        )
    what = "a head" if known else "perhaps a head"
    return Judgement(face=True, why=f"{what}, not skull-stripped ({', '.join(unstripped)})")


def _extents_mm(shape: tuple[int, ...], affine: Affine) -> tuple[float, float, float]:
    """Return how far a volume reaches along right, anterior, superior (nearest axes)."""
    spans = np.abs(affine.ras_from_voxel[:3, :3]) * np.array(shape)
    right, anterior, superior = spans.max(axis=1)
    return float(right), float(anterior), float(superior)


def _too_small(image: NDArray[np.float32], affine: Affine) -> bool:
    extents = _extents_mm(image.shape, affine)
    thinnest = image.shape[2] * affine.spacing_mm[2]
    return min(extents[:2]) < _NARROWEST_MM or min(thinnest, extents[2]) < _THINNEST_MM


def _width_mm(image: NDArray[np.float32], affine: Affine) -> float:
    body = body_of(image)
    found = ndimage.find_objects(body.astype(np.uint8))
    if not found:
        return 0.0
    shape = tuple(part.stop - part.start for part in found[0])
    return _extents_mm(shape, affine)[0]


def _stripped(image: NDArray[np.float32], affine: Affine) -> bool:
    full = image != image[0, 0, 0]
    if float((~full).mean()) < _EMPTY_SHARE:
        return False
    voxel_ml = abs(float(np.linalg.det(affine.ras_from_voxel[:3, :3]))) / 1000
    return float(full.sum()) * voxel_ml <= _LARGEST_BRAIN_ML
