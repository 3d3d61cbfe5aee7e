"""What an audit reads from DICOM: the segments of a SEG, and attributes from headers."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError, UsageError
from evenhand.geometry import Affine

__all__ = ["check_keywords", "read_header", "read_segments"]

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM counts towards left and posterior, NIfTI towards right and anterior."""

HALF = 0.5
"""From this on a fractional segment counts as inside."""

SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
"""Segmentation Storage and Label Map Segmentation Storage."""


def read_segments(
    path: Path, labels: Mapping[str, Sequence[int]], *, name: str
) -> tuple[dict[str, NDArray[np.bool_]], Affine]:
    """Read segments of a DICOM SEG, each label the union of its segment numbers.

    Args:
        path: the SEG.
        labels: segment numbers of each label; empty: the SEG must have one segment.
        name: what an error calls the file.

    Raises:
        DataError: no SEG, damaged, no regular volume, or segments that are not there.
    """
    import highdicom
    from pydicom.errors import InvalidDicomError

    try:
        seg = highdicom.seg.segread(path)
        present = [int(number) for number in seg.segment_numbers]
    except (InvalidDicomError, OSError, ValueError, TypeError, AttributeError, EOFError, KeyError):
        raise DataError(
            f"'{name}' is no DICOM SEG, or is damaged. Give a Segmentation object, or masks as "
            "NIfTI."
        ) from None
    if not labels and len(present) != 1:
        raise DataError(
            f"'{name}' has {len(present)} segments, and it is not said which is what. Name them, "
            "such as masks.labels = { core = [1], oedema = [2] }."
        )
    wanted = dict(labels) or {"": present}
    missing = sorted({number for numbers in wanted.values() for number in numbers} - {*present})
    if missing:
        raise DataError(
            f"'{name}' has the segments {_listed(present)}, not {_listed(missing)}. Correct "
            "masks.labels."
        )
    masks: dict[str, NDArray[np.bool_]] = {}
    affine = None
    for label, numbers in wanted.items():
        masks[label], affine = _union(seg, numbers, name)
    assert affine is not None  # noqa: S101 - a SEG has at least one segment
    return masks, affine


def _union(seg: Any, numbers: Sequence[int], name: str) -> tuple[NDArray[np.bool_], Affine]:
    """Voxels of any of the segments, (slice, row, column), and where they lie."""
    try:
        volume = seg.get_volume(segment_numbers=list(numbers), combine_segments=False)
    except (RuntimeError, ValueError):
        raise DataError(
            f"'{name}' has slices that make no regular volume, or pixels that cannot be decoded. "
            "Convert it into NIfTI with a tool that resamples."
        ) from None
    inside: NDArray[np.bool_] = np.asarray(volume.array) >= HALF
    affine = Affine(RAS_FROM_LPS @ np.asarray(volume.affine, dtype=np.float64))
    union: NDArray[np.bool_] = np.logical_or.reduce(inside, axis=-1)
    return union, affine


def check_keywords(keywords: Sequence[str]) -> None:
    """Refuse what is no DICOM keyword.

    Raises:
        UsageError: names the keyword and the nearest that DICOM has.
    """
    from pydicom.datadict import keyword_dict, tag_for_keyword

    for keyword in keywords:
        if tag_for_keyword(keyword) is None:
            near = difflib.get_close_matches(keyword, keyword_dict, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "take one such as PatientSex."
            raise UsageError(f"'{keyword}' is no DICOM keyword; {hint}")


def read_header(path: Path, keywords: Sequence[str], *, name: str) -> dict[str, str]:
    """Read header fields as text; a field that is absent or empty is "".

    An age string such as `061Y` or `018M` becomes years.

    Args:
        path: a DICOM file, or a folder whose first file (by name) is read.
        keywords: such as PatientSex.
        name: what an error calls the path.

    Raises:
        DataError: nothing there, or no DICOM.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    file = path
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        if not files:
            raise DataError(f"The folder '{name}' is empty; a DICOM file was wanted. Restore it.")
        file = files[0]
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(keywords))
    except FileNotFoundError:
        raise DataError(f"There is no DICOM file or folder '{name}'. Restore it.") from None
    except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError):
        raise DataError(f"'{name}' is no DICOM file, or is damaged. Copy it again.") from None
    return {keyword: _text(header.get(keyword)) for keyword in keywords}


def _text(value: Any) -> str:
    text = "" if value is None else str(value).strip()
    if len(text) == 4 and text[:3].isdigit() and text[3] in _YEARS:
        return f"{int(text[:3]) * _YEARS[text[3]]:g}"
    return text


_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
"""Years in each unit of a DICOM age string (AS)."""


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
