"""Checks of one case by itself: geometry, intensities, mask. A finding says what and why."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evenhand.cases.records import Case, CaseVolumes

__all__ = ["Finding", "Severity", "check_case"]

Severity = Literal["error", "warning"]
"""An error is a reason for quarantine, a warning one for a look."""

_SPACING_MM = (0.02, 20.0)
_THICKEST_RATIO = 15.0
_EXTENT_MM = (20.0, 2500.0)
_SHEAR_DEGREES = 1.0
_SATURATED = 0.05
_OUTSIDE = (0.1, 0.5)
"""Shares of the mask outside of the body: from here a warning, from here an error."""
_MOST_OF_BODY = 0.6
_MANY_PARTS = 50
_LOWEST_HU = -1100.0
_AIR_HU = -500.0


@dataclass(frozen=True)
class Finding:
    """What a check found: its name, how bad it is, and a sentence with numbers."""

    check: str
    severity: Severity
    why: str


def check_case(
    case: Case, volumes: CaseVolumes, body: NDArray[np.bool_] | None
) -> tuple[Finding, ...]:
    """Judge a case.

    Args:
        case: its record.
        volumes: all sequences and the mask.
        body: where the patient is (`coarse.body_of` of the first sequence); None: not known.
    """
    found = [*_geometry(case), *_intensities(case, volumes), *_mask(case, volumes, body)]
    return tuple(found)


def _geometry(case: Case) -> Iterator[Finding]:
    if case.acquisition.get("scale", "").startswith("unknown"):
        return  # a picture without a scale has no geometry to judge
    spacing = case.affine.spacing_mm
    if min(spacing) < _SPACING_MM[0] or max(spacing) > _SPACING_MM[1]:
        yield Finding(
            "spacing",
            "error",
            f"voxels of {spacing[0]:.3g} x {spacing[1]:.3g} x {spacing[2]:.3g} mm: no scanner "
            "makes them; the header is in other units, or wrong",
        )
        return
    if max(spacing) / min(spacing) > _THICKEST_RATIO:
        yield Finding("spacing", "warning", "slices are very thick beside the pixels")
    extent = [size * mm for size, mm in zip(case.shape, spacing, strict=True)]
    if max(extent) > _EXTENT_MM[1] or sorted(extent)[1] < _EXTENT_MM[0]:
        sizes = " x ".join(f"{mm:.0f}" for mm in extent)
        yield Finding("extent", "warning", f"the volume is {sizes} mm large")
    unit = case.affine.ras_from_voxel[:3, :3] / spacing
    cosines = np.abs([unit[:, a] @ unit[:, b] for a, b in ((0, 1), (0, 2), (1, 2))])
    tilt = float(np.degrees(np.arcsin(min(cosines.max(), 1.0))))
    if tilt > _SHEAR_DEGREES:
        yield Finding("shear", "warning", f"axes are {tilt:.1f} degrees off a right angle (tilt)")


def _intensities(case: Case, volumes: CaseVolumes) -> Iterator[Finding]:
    for name, image in volumes.images.items():
        low, high = float(image.min()), float(image.max())
        if low == high:
            yield Finding("constant", "error", f"{name}: all voxels have one value")
            continue
        top = float((image == high).mean())
        if top > _SATURATED:
            yield Finding(
                "saturated", "warning", f"{name}: {100 * top:.0f}% of voxels have the largest value"
            )
        if case.acquisition.get(f"unit_{name}", "").startswith("HU"):
            yield from _hounsfield(name, image, low)


def _hounsfield(name: str, image: NDArray[np.float32], low: float) -> Iterator[Finding]:
    if low > _AIR_HU:
        yield Finding("units", "warning", f"{name}: no air in it, so it may not be in HU")
    odd = float((image < _LOWEST_HU).mean())
    if odd > _SATURATED:
        yield Finding(
            "padding",
            "warning",
            f"{name}: {100 * odd:.0f}% of voxels lie below {_LOWEST_HU:g} HU (padding of the "
            "scanner that was taken for values)",
        )


def _mask(case: Case, volumes: CaseVolumes, body: NDArray[np.bool_] | None) -> Iterator[Finding]:
    if volumes.mask is None:
        yield Finding("no mask", "warning", "there is no reference mask")
        return
    mask = (volumes.mask > 0).astype(np.uint8)  # of all labels
    size = int(mask.sum())
    if not size:
        yield Finding("empty mask", "error", "the mask is empty")
        return
    if body is not None and body.any():
        yield from _mask_in_body(mask.astype(bool), size, body)
    faces = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    if any(face.any() for face in faces) or (
        case.shape[2] > 1 and (mask[..., 0].any() or mask[..., -1].any())
    ):
        yield Finding("mask at the edge", "warning", "the mask touches the edge of the volume")
    parts = int(ndimage.label(mask, np.ones((3, 3, 3)))[1])
    if parts > _MANY_PARTS:
        yield Finding("mask in pieces", "warning", f"the mask has {parts} parts")


def _mask_in_body(mask: NDArray[np.bool_], size: int, body: NDArray[np.bool_]) -> Iterator[Finding]:
    outside = float((mask & ~body).sum()) / size
    if outside > _OUTSIDE[0]:
        severity: Severity = "error" if outside > _OUTSIDE[1] else "warning"
        yield Finding(
            "mask out of the body", severity, f"{100 * outside:.0f}% of the mask lies outside"
        )
    share = float((mask & body).sum()) / float(body.sum())
    if share > _MOST_OF_BODY:
        yield Finding(
            "mask too large",
            "error",
            f"the mask covers {100 * share:.0f}% of the body: inside and outside may be exchanged",
        )
