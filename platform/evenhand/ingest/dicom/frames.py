"""Where the slices of a file lie: one for a classic image, many for an enhanced multi-frame one."""

from dataclasses import dataclass

from pydicom.dataset import Dataset

from evenhand.errors import DataError
from evenhand.ingest.dicom.values import first_item, items, number, numbers, text, texts

__all__ = ["Plane", "planes_of"]

_MOST_FRAMES = 100_000


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice: frame number `frame` (from 0) of file number `file`.

    `position` is the centre of its first pixel, `orientation` the directions of
    its rows and columns, both in DICOM's frame (left, posterior, superior),
    `spacing_mm` the distance between rows and between columns. `kind` holds what
    may tell two slices at one place apart, such as the echo.
    """

    file: int
    frame: int
    uid: str
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    rows: int
    columns: int
    spacing_mm: tuple[float, float]
    thickness_mm: float | None
    slope: float
    intercept: float
    kind: tuple[tuple[str, str], ...]


def planes_of(dataset: Dataset, file: int) -> tuple[Plane, ...]:
    """Return the slices of an image.

    Raises:
        DataError: a slice has no place in the patient, or no size.
    """
    rows, columns = int(number(dataset, "Rows") or 0), int(number(dataset, "Columns") or 0)
    if rows < 1 or columns < 1:
        raise DataError("its picture has no size")
    frames = int(number(dataset, "NumberOfFrames") or 1)
    groups = items(dataset, "PerFrameFunctionalGroupsSequence")
    if not groups and frames > 1:
        raise DataError("it is a multi-frame picture whose frames have no place in the patient")
    if not groups:
        return (_plane(dataset, [dataset], file, 0, (rows, columns)),)
    if frames != len(groups) or frames > _MOST_FRAMES:
        raise DataError("its number of frames is not that of its frames' headers")
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    return tuple(
        _plane(dataset, _flat([group, shared]), file, index, (rows, columns))
        for index, group in enumerate(groups)
    )


def _flat(groups: list[Dataset]) -> list[Dataset]:
    """All first items of the functional groups, those of the frame before the shared ones."""
    return [
        first
        for group in groups
        for element in group
        if element.VR == "SQ" and element.value
        for first in (element.value[0],)
    ]


def _find(places: list[Dataset], keyword: str) -> Dataset:
    return next((place for place in places if keyword in place), Dataset())


def _plane(
    dataset: Dataset, places: list[Dataset], file: int, frame: int, size: tuple[int, int]
) -> Plane:
    def values(keyword: str, count: int) -> tuple[float, ...] | None:
        return numbers(_find(places, keyword), keyword, count)

    position = values("ImagePositionPatient", 3)
    orientation = values("ImageOrientationPatient", 6)
    spacing = values("PixelSpacing", 2)
    if position is None or orientation is None or spacing is None or min(spacing) <= 0:
        raise DataError("a slice does not say where it lies (position, orientation or spacing)")
    slope, intercept = (
        number(_find(places, word), word) for word in ("RescaleSlope", "RescaleIntercept")
    )
    thick = number(_find(places, "SliceThickness"), "SliceThickness")
    gap = number(_find(places, "SpacingBetweenSlices"), "SpacingBetweenSlices")
    return Plane(
        file=file,
        frame=frame,
        uid=text(dataset, "SOPInstanceUID"),
        position=(position[0], position[1], position[2]),
        orientation=orientation,
        rows=size[0],
        columns=size[1],
        spacing_mm=(spacing[0], spacing[1]),
        thickness_mm=abs(gap) if gap else thick,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        kind=_kind(dataset, places),
    )


_TELLING = {
    "echo": ("EchoNumbers", "EchoTime", "EffectiveEchoTime"),
    "b-value": ("DiffusionBValue",),
    "time": ("TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime"),
    "acquisition": ("AcquisitionNumber",),
    "image type": ("ImageType", "FrameType"),
}


def _kind(dataset: Dataset, places: list[Dataset]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, "\\".join(found))
        for name, keywords in _TELLING.items()
        for keyword in keywords
        if (found := texts(_find([*places, dataset], keyword), keyword))
    )
