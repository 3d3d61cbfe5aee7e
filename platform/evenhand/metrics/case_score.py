"""All metrics of one case, with a rule for empty masks; `DEFINITIONS` says what each one is.

Empty masks, where the formulas have no value:

==========================  =========  ===  ==========================
which mask is empty         Dice, IoU  NSD  HD95
==========================  =========  ===  ==========================
both                        1          1    0
the reference only          0          0    diagonal of the volume
the prediction only         0          0    diagonal of the volume
==========================  =========  ===  ==========================

The diagonal is a finite worst case: a missed tumour must not vanish from a mean as NaN does.
Volumes, their difference and lesion counts need no rule; calibration has none.
"""

import itertools
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.metrics.calibration import (
    CALIBRATION_BINS,
    WINDOW_MARGIN,
    calibration_window,
    expected_calibration_error,
)
from evenhand.metrics.lesions import LesionCounts, count_lesions
from evenhand.metrics.surfaces import crop_to_masks, surface_distances

__all__ = ["DEFINITIONS", "CaseScore", "EmptyMask", "dice_of", "score_case"]

EmptyMask = Literal["none", "reference", "prediction", "both"]
"""Which of a case's masks has no voxel."""

DEFINITIONS = MappingProxyType(
    {
        "dice": "2 |P and R| / (|P| + |R|) in voxels (MONAI compute_dice)",
        "iou": "|P and R| / |P or R| in voxels (MONAI compute_iou)",
        "hd95": "95th percentile of the distances between edge voxels, the larger of the two "
        "directions; edges by face neighbours (MONAI 1.6 compute_hausdorff_distance)",
        "nsd": "share of the edge voxels of both masks within the tolerance of the other's edge, "
        "no sub-voxels (MONAI 1.6 compute_surface_dice)",
        "volume_difference": "volume predicted minus volume of the reference",
        "lesions": "components by 26 neighbours (8 in a plane); one is found, or true, if the "
        "other mask covers at least one of its voxels",
        "calibration_error": f"expected calibration error of voxels, {CALIBRATION_BINS} bins of "
        f"equal width, within {WINDOW_MARGIN} voxels of the box around both masks",
        "empty": "both masks empty: Dice, IoU, NSD 1 and HD95 0; one empty: 0, 0, 0 and the "
        "diagonal of the volume",
    }
)
"""What each figure is, in words that travel with a table; only tables of equal words compare."""


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """The metrics of one case; lengths in the units of `spacing`, volumes in their power."""

    dice: float
    iou: float
    hd95: float
    nsd: float
    nsd_tolerance: float
    volume_reference: float
    volume_predicted: float
    lesions: LesionCounts
    calibration_error: float | None
    """None where no probabilities were given, or both masks are empty."""
    empty: EmptyMask

    @property
    def volume_difference(self) -> float:
        """Predicted minus reference."""
        return self.volume_predicted - self.volume_reference

    def as_row(self) -> dict[str, object]:
        """The columns of a prediction table that these metrics fill."""
        return {
            "dice": self.dice,
            "hd95": self.hd95,
            "nsd": self.nsd,
            "nsd_tolerance": self.nsd_tolerance,
            "volume_reference": self.volume_reference,
            "volume_predicted": self.volume_predicted,
            "empty": self.empty,
            "iou": self.iou,
            "volume_difference": self.volume_difference,
            "lesions_reference": self.lesions.reference,
            "lesions_found": self.lesions.found,
            "lesions_predicted": self.lesions.predicted,
            "lesions_predicted_true": self.lesions.predicted_true,
            "calibration_error": self.calibration_error,
        }


def dice_of(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Dice of two masks of one shape, as in `DEFINITIONS`; 1 where both are empty.

    For who needs nothing else of `score_case`: it takes no surface.

    Raises:
        DataError: the shapes differ.
    """
    if one.shape != other.shape:
        raise DataError(f"Masks must share one shape; got {one.shape} and {other.shape}.")
    both = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero((one != 0) & (other != 0))) / both if both else 1.0


def score_case(
    predicted: NDArray[Any],
    reference: NDArray[Any],
    *,
    spacing: tuple[float, ...] | Affine,
    nsd_tolerance: float,
    probability: NDArray[np.floating] | None = None,
) -> CaseScore:
    """Score a predicted mask against its reference; definitions in `DEFINITIONS`.

    Args:
        predicted: 0 and 1 (or False and True), (i, j, k), or (i, j) for a picture.
        reference: likewise.
        spacing: distance between voxels along each axis, in mm; 1 along each gives voxel units.
            Of a volume the affine can be given instead: then distances and volumes are right
            also where axes do not stand at right angles (a tilted gantry).
        nsd_tolerance: distance within which an edge counts as right, in the units of `spacing`.
        probability: of tumour at each voxel, 0 to 1, same shape; for the calibration error.

    Raises:
        DataError: shapes differ or are neither 2-D nor 3-D, a mask holds other values than 0 and
            1, a probability is not one, or spacing or tolerance is not positive and finite.
    """
    sheared = None
    if isinstance(spacing, Affine):
        sheared = None if spacing.is_rectangular else spacing.ras_from_voxel[:3, :3]
        spacing = spacing.spacing_mm
    _check(predicted, reference, spacing, nsd_tolerance)
    if probability is not None:
        _check_probability(probability, reference.shape)
    axes = np.diag(spacing) if sheared is None else sheared
    voxel_volume = math.prod(spacing) if sheared is None else abs(float(np.linalg.det(sheared)))
    voxels_predicted = int(np.count_nonzero(predicted))
    voxels_reference = int(np.count_nonzero(reference))
    empty = _which_is_empty(voxels_predicted, voxels_reference)
    calibration = None
    lesions = LesionCounts(0, 0, 0, 0)
    if empty == "both":
        dice, iou, hd95, nsd = 1.0, 1.0, 0.0, 1.0
    else:
        dice, iou, hd95, nsd = 0.0, 0.0, _diagonal(reference.shape, axes), 0.0
        window = crop_to_masks(predicted, reference)
        p, r = predicted[window].astype(bool), reference[window].astype(bool)
        lesions = count_lesions(p, r)
        if probability is not None:
            calibration = _calibration(probability, reference, window)
        if empty == "none":
            shared = int(np.count_nonzero(p & r))
            dice = 2 * shared / (voxels_predicted + voxels_reference)
            iou = shared / (voxels_predicted + voxels_reference - shared)
            distances = surface_distances(p, r, spacing if sheared is None else axes)
            hd95, nsd = distances.hd95, distances.nsd(nsd_tolerance)
    return CaseScore(
        dice=dice,
        iou=iou,
        hd95=hd95,
        nsd=nsd,
        nsd_tolerance=float(nsd_tolerance),
        volume_reference=voxels_reference * voxel_volume,
        volume_predicted=voxels_predicted * voxel_volume,
        lesions=lesions,
        calibration_error=calibration,
        empty=empty,
    )


def _check(
    predicted: NDArray[Any],
    reference: NDArray[Any],
    spacing: tuple[float, ...],
    nsd_tolerance: float,
) -> None:
    if predicted.shape != reference.shape or reference.ndim not in {2, 3}:
        raise DataError(
            "A predicted mask and its reference must be volumes of one shape (i, j, k), or "
            f"pictures of one (i, j); got {predicted.shape} and {reference.shape}. Resample the "
            "prediction to the reference."
        )
    for name, mask in (("predicted", predicted), ("reference", reference)):
        if not _is_binary(mask):
            raise DataError(
                f"A {name} mask must hold 0 and 1 only; it holds other values. "
                "Threshold it, or choose one label."
            )
    if len(spacing) != reference.ndim or not all(
        math.isfinite(step) and step > 0 for step in spacing
    ):
        raise DataError(
            f"Spacing must be {reference.ndim} positive lengths, one an axis; got {spacing}. "
            "Give 1 for each where the true spacing is not known."
        )
    if not (math.isfinite(nsd_tolerance) and nsd_tolerance > 0):
        raise DataError(
            f"The NSD tolerance must be a positive length; got {nsd_tolerance}. "
            "Set audit.nsd_tolerance."
        )


def _is_binary(mask: NDArray[Any]) -> bool:
    if mask.dtype == np.bool_ or mask.size == 0:
        return True
    if mask.dtype.kind == "u":  # one pass instead of three
        return bool(mask.max() <= 1)
    return bool(((mask == 0) | (mask == 1)).all())


def _check_probability(probability: NDArray[np.floating], shape: tuple[int, ...]) -> None:
    if probability.shape != shape:
        raise DataError(
            f"Probabilities must lie on the masks' grid {shape}; got {probability.shape}. "
            "Resample them to the reference."
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        raise DataError(
            "Probabilities must lie from 0 to 1; some do not, or are not numbers. Give the output "
            "after the sigmoid or softmax, not logits."
        )


def _which_is_empty(voxels_predicted: int, voxels_reference: int) -> EmptyMask:
    if voxels_predicted and voxels_reference:
        return "none"
    if voxels_predicted:
        return "reference"
    return "prediction" if voxels_reference else "both"


def _diagonal(shape: tuple[int, ...], axes: NDArray[np.float64]) -> float:
    """Length of the longest diagonal of a volume whose axes' steps are the columns of `axes`."""
    corners = itertools.product(*((-count, count) for count in shape))
    return max(math.hypot(*(axes @ corner)) for corner in corners)


def _calibration(
    probability: NDArray[np.floating], reference: NDArray[Any], window: tuple[slice, ...]
) -> float:
    wide = calibration_window(window)
    return expected_calibration_error(probability[wide], reference[wide].astype(bool))
