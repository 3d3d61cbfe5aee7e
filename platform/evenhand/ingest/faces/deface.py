"""Removing a face: what lies farther than a margin from the brain becomes background.

A method of our own, on a brain mask: kept is every voxel within `MARGIN_MM` of
the brain or of the tumour mask; all others get the smallest value of their
image. So no voxel of the brain or the tumour is changed, and of skin, eyes,
nose, ears and teeth nothing is left, which is more than defacing by a plane
removes. What is lost is the scalp and most of the skull.

The brain comes from deepbet (MIT; its weights are in the package; trained on
T1w): the optional part `deface`. An answer that has no brain's size is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evenhand.errors import DataError, ResourceError
from evenhand.geometry import Affine
from evenhand.ingest.quality.coarse import body_of, turned_to_ras

__all__ = ["MARGIN_MM", "Defaced", "deface", "face_left", "find_brain"]

MARGIN_MM = 5.0
"""How far from brain and tumour voxels are kept."""

_BRAIN_ML = (700.0, 2200.0)
_SAME_SURFACE_MM = 3.0
_FACE_SHARE = 0.6
"""The face is sought in this lower part of the front."""


@dataclass(frozen=True)
class Defaced:
    """Images without the face, and what was measured of it (no identifier)."""

    images: Mapping[str, NDArray[np.float32]]
    facts: Mapping[str, float]


def find_brain(images: Mapping[str, NDArray[np.float32]], affine: Affine) -> NDArray[np.bool_]:
    """Return where the brain is, by deepbet on the T1w if there is one, else on the first sequence.

    Raises:
        ResourceError: deepbet is not installed.
        DataError: what it found has no brain's size.
    """
    name = next((n for n in ("T1w", "T1w-ce") if n in images), next(iter(images)))
    engine = _engine()
    picture = nib.Nifti1Image(images[name], affine.ras_from_voxel)
    try:
        _, found, _ = engine.run(picture)
    except (ValueError, AssertionError, RuntimeError, IndexError):
        raise DataError(_unsure(name)) from None
    brain: NDArray[np.bool_] = np.asarray(found.dataobj) > 0
    millilitres = float(brain.sum()) * _voxel_mm3(affine) / 1000
    if not _BRAIN_ML[0] <= millilitres <= _BRAIN_ML[1]:
        raise DataError(_unsure(name))
    return brain


def _unsure(name: str) -> str:
    return (
        f"no brain was found in its {name}, so its face cannot be removed safely. Deface it with a "
        "tool of yours before, or say why faces may stay (--keep-faces REASON)."
    )


@cache
def _engine() -> Any:
    try:
        from deepbet.bet import BrainExtraction
    except ImportError:
        raise ResourceError(
            "Faces are removed with the help of deepbet, which is not installed; install it with "
            "`pip install 'evenhand[deface]'`."
        ) from None
    import torch

    torch.set_num_threads(1)  # each worker has one core
    return BrainExtraction(no_gpu=True)


def deface(
    images: Mapping[str, NDArray[np.float32]],
    tumour: NDArray[np.uint8] | None,
    brain: NDArray[np.bool_],
    affine: Affine,
) -> Defaced:
    """Remove what is farther than `MARGIN_MM` from brain and tumour; check what was done.

    Args:
        images: by sequence, on one grid with the others.
        tumour: its mask.
        brain: where the brain is.
        affine: of all.

    Raises:
        DataError: a face is still there afterwards.
    """
    sacred = brain if tumour is None else brain | (tumour > 0)
    far = ndimage.distance_transform_edt(~sacred, sampling=affine.spacing_mm) > MARGIN_MM
    defaced = {name: np.where(far, image.min(), image) for name, image in images.items()}
    first = next(iter(images))
    left = face_left(images[first], defaced[first], affine)
    if left > 0.05:
        raise DataError("its face is still there after defacing; nothing of it was stored.")
    changed = [int((defaced[name] != images[name])[sacred].sum()) for name in images]
    facts = {
        "brain_ml": round(float(brain.sum()) * _voxel_mm3(affine) / 1000, 1),
        "brain_or_tumour_voxels_changed": float(sum(changed)),
        "removed_share": round(float(far.mean()), 4),
        "face_surface_left": round(left, 4),
    }
    return Defaced(defaced, facts)


def face_left(before: NDArray[np.float32], after: NDArray[np.float32], affine: Affine) -> float:
    """Return the share of the face's surface that is still there: the re-identification check.

    Seen from the front, each line of sight meets the head at a depth. The face is
    the lower part of what is met. Where the depth after is within 3 mm of that
    before, the surface is still there.
    """
    old, new = (_depth_mm(volume, affine) for volume in (before, after))
    seen = np.isfinite(old)
    rows = np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return 0.0
    highest = rows[0] + int(len(rows) * _FACE_SHARE)
    face = seen.copy()
    face[:, highest:] = False
    same = np.isfinite(new) & (
        np.abs(np.where(np.isfinite(new), new, 0) - np.where(seen, old, 0)) < _SAME_SURFACE_MM
    )
    return float((same & face).sum() / max(face.sum(), 1))


def _depth_mm(volume: NDArray[np.float32], affine: Affine) -> NDArray[np.float64]:
    """Depth of the surface from the front, (right, superior); infinite where nothing is met."""
    body = turned_to_ras(body_of(volume).astype(np.float32), affine)[:, ::-1] > 0
    step = float(np.abs(affine.ras_from_voxel[1, :3]).max())
    depth = body.argmax(axis=1) * step
    return np.where(body.any(axis=1), depth, np.inf)


def _voxel_mm3(affine: Affine) -> float:
    return abs(float(np.linalg.det(affine.ras_from_voxel[:3, :3])))
