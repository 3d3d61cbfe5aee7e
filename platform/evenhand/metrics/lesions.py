"""Lesion-wise counts: which tumours were found, and which findings are tumours.

A **lesion** is a connected component, voxels that touch at a face, an edge or a corner (26
neighbours in a volume). Overlap rule: a lesion of the reference is **found** if at least one of
its voxels is predicted (more, where `overlap` says so); a predicted component is **true** if the
same share of it lies in the reference. Nothing is matched one to one: a component that covers two
lesions finds both, and two components within one lesion are both true. Hence sensitivity and
precision have denominators of their own:

- lesion sensitivity = found / lesions of the reference
- lesion precision = true components / predicted components
- lesion F1 = their harmonic mean

The counts are what is stored, for they add up over cases and patients; a ratio over a case with
no lesion would have no value.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["LesionCounts", "count_lesions"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of one case; ratios are None where their denominator is 0."""

    reference: int
    found: int
    predicted: int
    predicted_true: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference's lesions that were found."""
        return self.found / self.reference if self.reference else None

    @property
    def precision(self) -> float | None:
        """Share of the predicted components that are tumour."""
        return self.predicted_true / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of sensitivity and precision; 0 where either is 0."""
        if self.sensitivity is None or self.precision is None:
            return None
        both = self.sensitivity + self.precision
        return 2 * self.sensitivity * self.precision / both if both else 0.0


def count_lesions(predicted: Mask, reference: Mask, *, overlap: float = 0.0) -> LesionCounts:
    """Count lesions found and missed, and components true and false.

    Args:
        predicted: (i, j, k).
        reference: (i, j, k).
        overlap: least share of a component's voxels that the other mask must cover; 0: one voxel.
    """
    lesions, found = _hits(reference, predicted, overlap)
    components, true = _hits(predicted, reference, overlap)
    return LesionCounts(lesions, found, components, true)


def _hits(mask: Mask, other: Mask, overlap: float) -> tuple[int, int]:
    """Components of `mask`, and how many of them `other` covers enough of."""
    labelled, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, dtype=bool))
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    covered = np.bincount(labelled[other], minlength=count + 1)[1:]
    hit = (covered > 0) & (covered >= overlap * sizes)
    return int(count), int(hit.sum())
