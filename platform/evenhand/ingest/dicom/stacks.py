"""Slices into volumes: sorted along their normal, judged, and given an affine.

A stack is good if its slices are parallel, of one size, evenly spaced and in
line. The affine then follows from the first and the last slice. A gantry tilt
is not corrected: the grid is sheared, which an affine can say exactly, and
nothing is resampled.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.ingest.dicom.frames import Plane

__all__ = ["TILT_DEGREES", "Stack", "make_stacks"]

TILT_DEGREES = 0.05
"""Slices that are displaced by more than this against their normal are tilted."""

_SAME_DIRECTION = 1e-3
_SAME_SPACING_MM = 1e-4
_SAME_PLACE_MM = 1e-3
_UNEVEN = 0.05
"""How far a slice may lie from its place on the even grid, in slice distances ..."""
_UNEVEN_LEAST_MM = 0.05
"""... or in mm, whichever is more: scanners round positions to a tenth of a millimetre."""
_GAP = 1.5
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Stack:
    """The slices of one volume, sorted along their normal.

    `part` tells volumes of one series apart (such as "echo 2"); `notes` are what
    was noticed; `problem` is empty, or says why this is no volume.
    """

    planes: tuple[Plane, ...]
    affine: Affine | None
    part: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices: the order of the store's voxels."""
        return self.planes[0].columns, self.planes[0].rows, len(self.planes)


def make_stacks(planes: Sequence[Plane]) -> list[Stack]:
    """Sort the slices of one series into volumes, and judge each of them."""
    unique, notes = _without_copies(planes)
    groups = _grouped(unique)
    if len(groups) > 1:
        directions = {_rounded(group[0].orientation) for group in groups}
        what = "directions" if len(directions) > 1 else "sizes or pixel spacings"
        problem = f"its slices have {len(groups)} different {what} (a localiser, or several scans)"
        return [Stack(tuple(unique), None, notes=notes, problem=problem)]
    stacks = []
    for part, own in _parts(groups[0]):
        try:
            stacks.append(_stack(own, part, notes))
        except DataError as error:
            stacks.append(Stack(tuple(own), None, part, notes, str(error)))
    return stacks


def _without_copies(planes: Sequence[Plane]) -> tuple[list[Plane], tuple[str, ...]]:
    """Leave out slices that came twice under one UID: the same file, copied."""
    first: dict[Hashable, Plane] = {}
    for number, plane in enumerate(planes):
        first.setdefault((plane.uid, plane.frame) if plane.uid else number, plane)
    copies = len(planes) - len(first)
    return list(first.values()), (f"{copies} slice(s) came twice",) if copies else ()


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value / _SAME_DIRECTION) * _SAME_DIRECTION for value in values)


def _grouped(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Group slices that have one size, spacing and direction, within tolerance."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            like = group[0]
            if (
                (plane.rows, plane.columns) == (like.rows, like.columns)
                and np.allclose(plane.orientation, like.orientation, rtol=0, atol=_SAME_DIRECTION)
                and np.allclose(plane.spacing_mm, like.spacing_mm, rtol=0, atol=_SAME_SPACING_MM)
            ):
                group.append(plane)
                break
        else:
            groups.append([plane])
            if len(groups) > 16:  # a radial localiser; more need not be told apart
                break
    return groups


def _directions(plane: Plane) -> tuple[Array, Array, Array]:
    """Unit vectors along rows, along columns, and normal to both.

    Raises:
        DataError: the first two are not perpendicular unit vectors.
    """
    along_row, along_column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    if (np.abs(lengths - 1) > _SAME_DIRECTION).any() or (
        abs(float(along_row @ along_column)) > _SAME_DIRECTION
    ):
        raise DataError("the directions of its rows and columns are not perpendicular")
    normal = np.cross(along_row, along_column)
    return along_row, along_column, normal / np.linalg.norm(normal)


def _along(planes: Sequence[Plane]) -> Array:
    """How far each slice lies along the normal, in mm."""
    along_row, along_column = (
        np.array(planes[0].orientation[:3]),
        np.array(planes[0].orientation[3:]),
    )
    return np.array([plane.position for plane in planes]) @ np.cross(along_row, along_column)


def _has_doubles(planes: Sequence[Plane]) -> bool:
    return bool((np.diff(np.sort(_along(planes))) < _SAME_PLACE_MM).any())


def _parts(planes: list[Plane]) -> list[tuple[str, list[Plane]]]:
    """Split slices that lie at one place by what their headers say of them.

    The first property that leaves no two slices at one place is taken; where
    none does, all together; where these do not either, the slices stay as they are.
    """
    if not _has_doubles(planes):
        return [("", planes)]
    names = sorted({name for plane in planes for name, _ in plane.kind})
    keys: list[tuple[str, Callable[[Plane], Hashable]]] = [
        (name, lambda plane, name=name: dict(plane.kind).get(name))  # type: ignore[misc]
        for name in names
    ]
    for name, key in [*keys, ("volume", lambda plane: plane.kind)]:
        groups: defaultdict[Hashable, list[Plane]] = defaultdict(list)
        for plane in planes:
            groups[key(plane)].append(plane)
        if len(groups) > 1 and not any(_has_doubles(group) for group in groups.values()):
            ordered = sorted(groups.values(), key=lambda group: str(group[0].kind))
            return [(f"{name} {n}", group) for n, group in enumerate(ordered, start=1)]
    return [("", planes)]


def _stack(planes: list[Plane], part: str, notes: tuple[str, ...]) -> Stack:
    along_row, along_column, normal = _directions(planes[0])
    distance = _along(planes)
    order = np.argsort(distance, kind="stable")
    ordered = [planes[index] for index in order]
    positions = np.array([plane.position for plane in ordered])
    _check_spacing(distance[order])
    if len(ordered) == 1:
        thickness = ordered[0].thickness_mm
        if not thickness:
            notes = (*notes, "one slice of unknown thickness; 1 mm is taken")
        step = normal * (thickness or 1.0)
    else:
        step = (positions[-1] - positions[0]) / (len(ordered) - 1)
        notes = (*notes, *_check_line(positions, step, normal))
    lps = np.eye(4)
    lps[:3, 0] = along_row * ordered[0].spacing_mm[1]
    lps[:3, 1] = along_column * ordered[0].spacing_mm[0]
    lps[:3, 2] = step
    lps[:3, 3] = positions[0]
    lps[:3] = _RAS_FROM_LPS @ lps[:3]
    return Stack(tuple(ordered), Affine(lps), part, notes)


def _check_spacing(distance: Array) -> None:
    gaps = np.diff(distance)
    if not len(gaps):
        return
    doubles = int((gaps < _SAME_PLACE_MM).sum())
    if doubles:
        raise DataError(
            f"{doubles} slice(s) lie at the place of another, and nothing in the headers tells "
            "them apart"
        )
    usual = float(np.median(gaps))
    missing = sum(round(gap / usual) - 1 for gap in gaps if gap >= _GAP * usual)
    if missing:
        raise DataError(f"{missing} slice(s) are missing between the first and the last")


def _check_line(positions: Array, step: Array, normal: Array) -> tuple[str, ...]:
    """Refuse slices off their even grid; say if the grid is tilted or not quite even."""
    even = positions[0] + np.arange(len(positions))[:, None] * step
    off = float(np.linalg.norm(positions - even, axis=1).max())
    between = float(np.linalg.norm(step))
    if off > max(_UNEVEN * between, _UNEVEN_LEAST_MM):
        raise DataError(f"its slices are not evenly spaced in a line (off by up to {off:.2g} mm)")
    notes = []
    cosine = min(abs(float(step @ normal)) / between, 1.0)
    tilt = float(np.degrees(np.arccos(cosine)))
    if tilt > TILT_DEGREES:
        notes.append(f"gantry tilt of {tilt:.1f} degrees: kept as a sheared grid, not resampled")
    if off > _SAME_PLACE_MM:
        notes.append(f"slices lie up to {off:.2g} mm off an even grid")
    return tuple(notes)
