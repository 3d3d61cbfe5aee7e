"""Dice, HD95 and NSD of one case, by MONAI's definitions, with a rule for empty masks.

Definitions (MONAI 1.6; other tools differ, so a number travels with these names):

- **Dice** (`monai.metrics.compute_dice`): 2 |P ∩ R| / (|P| + |R|), in voxels.
- **HD95** (`compute_hausdorff_distance`, percentile 95): edge voxels are those that a
  6-neighbour erosion removes; of the distances from each edge voxel of one mask to the nearest
  edge voxel of the other the 95th percentile is taken in each direction, and of the two the
  larger.
- **NSD** (`compute_surface_dice`, no sub-voxels; Seidlitz et al., arXiv 2111.05408): the share
  of edge voxels of both masks that lie within the tolerance of the other's edge.

Empty masks, where the formulas have no value:

==========================  ====  ===  ==========================
which mask is empty         Dice  NSD  HD95
==========================  ====  ===  ==========================
both                        1     1    0
the reference only          0     0    diagonal of the volume
the prediction only         0     0    diagonal of the volume
==========================  ====  ===  ==========================

The diagonal is a finite worst case: a missed tumour must not vanish from a mean as NaN does.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError

__all__ = ["CaseScore", "EmptyMask", "score_case"]

EmptyMask = Literal["none", "reference", "prediction", "both"]
"""Which of a case's masks has no voxel."""

MARGIN_VOXELS = 1
"""Kept around both masks when cropping. Erosion looks one voxel far, so edges stay as they are."""


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """The metrics of one case; lengths in the units of `spacing`, volumes in their cube."""

    dice: float
    hd95: float
    nsd: float
    nsd_tolerance: float
    volume_reference: float
    volume_predicted: float
    empty: EmptyMask


def score_case(
    predicted: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    *,
    spacing: tuple[float, float, float],
    nsd_tolerance: float,
) -> CaseScore:
    """Score a predicted mask against its reference; definitions at the top of this module.

    Args:
        predicted: 0 and 1, (i, j, k).
        reference: 0 and 1, (i, j, k).
        spacing: distance between voxels along i, j, k, in mm; (1, 1, 1) gives voxel units.
        nsd_tolerance: distance within which an edge counts as right, in the units of `spacing`.

    Raises:
        DataError: shapes differ, a mask is not three-dimensional or holds other values than 0
            and 1, or spacing or tolerance is not positive and finite.
    """
    _check(predicted, reference, spacing, nsd_tolerance)
    voxel_volume = math.prod(spacing)
    voxels_predicted = int(np.count_nonzero(predicted))
    voxels_reference = int(np.count_nonzero(reference))
    empty = _which_is_empty(voxels_predicted, voxels_reference)
    if empty == "both":
        dice, hd95, nsd = 1.0, 0.0, 1.0
    elif empty != "none":
        dice, hd95, nsd = 0.0, _diagonal(reference.shape, spacing), 0.0
    else:
        window = _union_box(predicted, reference)
        dice, hd95, nsd = _monai_scores(
            predicted[window], reference[window], spacing, nsd_tolerance
        )
    return CaseScore(
        dice=dice,
        hd95=hd95,
        nsd=nsd,
        nsd_tolerance=float(nsd_tolerance),
        volume_reference=voxels_reference * voxel_volume,
        volume_predicted=voxels_predicted * voxel_volume,
        empty=empty,
    )


def _check(
    predicted: NDArray[Any],
    reference: NDArray[Any],
    spacing: tuple[float, float, float],
    nsd_tolerance: float,
) -> None:
    if predicted.shape != reference.shape or reference.ndim != 3:
        raise DataError(
            "A predicted mask and its reference must be volumes of one shape (i, j, k); got "
            f"{predicted.shape} and {reference.shape}. Resample the prediction to the reference."
        )
    for name, mask in (("predicted", predicted), ("reference", reference)):
        if not ((mask == 0) | (mask == 1)).all():
            raise DataError(
                f"A {name} mask must hold 0 and 1 only; it holds other values. "
                "Threshold it, or choose one label."
            )
    if len(spacing) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise DataError(
            f"Spacing must be three positive lengths along i, j, k; got {spacing}. "
            "Give (1, 1, 1) where the true spacing is not known."
        )
    if not (math.isfinite(nsd_tolerance) and nsd_tolerance > 0):
        raise DataError(
            f"The NSD tolerance must be a positive length; got {nsd_tolerance}. "
            "Set audit.nsd_tolerance."
        )


def _which_is_empty(voxels_predicted: int, voxels_reference: int) -> EmptyMask:
    if voxels_predicted and voxels_reference:
        return "none"
    if voxels_predicted:
        return "reference"
    return "prediction" if voxels_reference else "both"


def _diagonal(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> float:
    return math.hypot(*(count * step for count, step in zip(shape, spacing, strict=True)))


def _union_box(predicted: NDArray[Any], reference: NDArray[Any]) -> tuple[slice, ...]:
    """Box around all voxels of either mask plus the margin, inside the volume."""
    union = (predicted != 0) | (reference != 0)
    window = []
    for axis, size in enumerate(union.shape):
        others = tuple(other for other in range(union.ndim) if other != axis)
        filled = np.flatnonzero(union.any(axis=others))
        first, last = int(filled[0]), int(filled[-1])
        window.append(slice(max(first - MARGIN_VOXELS, 0), min(last + 1 + MARGIN_VOXELS, size)))
    return tuple(window)


def _monai_scores(
    predicted: NDArray[Any],
    reference: NDArray[Any],
    spacing: tuple[float, float, float],
    nsd_tolerance: float,
) -> tuple[float, float, float]:
    """Dice, HD95, NSD of two masks that both hold voxels."""
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    # One foreground channel: (batch 1, channel 1, i, j, k); it is "background" to MONAI only in
    # being channel 0, hence include_background.
    p = torch.from_numpy(np.ascontiguousarray(predicted, dtype=np.float32))[None, None]
    r = torch.from_numpy(np.ascontiguousarray(reference, dtype=np.float32))[None, None]
    dice = compute_dice(p, r, include_background=True)
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it passes itself; nothing here could avoid it.
        warnings.filterwarnings(
            "ignore", message=".*always_return_as_numpy", category=FutureWarning
        )
        hd95 = compute_hausdorff_distance(
            p, r, include_background=True, percentile=95, spacing=list(spacing)
        )
        nsd = compute_surface_dice(
            p, r, class_thresholds=[nsd_tolerance], include_background=True, spacing=list(spacing)
        )
    return float(dice.item()), float(hd95.item()), float(nsd.item())
