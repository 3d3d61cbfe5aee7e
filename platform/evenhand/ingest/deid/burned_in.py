"""Text that is burned into pixels: found by an OCR library, blanked where it is certain.

Ultrasound devices say in their headers where the image is (Sequence of
Ultrasound Regions); what lies outside goes first. Then the OCR library looks at
the first, the middle and the last frame and at the brightest value over all
frames: burned-in text stands still. A region is blanked in all frames.

A region that might be text but could not be read is left as it is and goes on a
review list: it may be anatomy. The text itself is neither kept nor logged.

The OCR library is RapidOCR, which ships its models: the optional part `ocr`.
"""

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from evenhand.errors import DataError, ResourceError

__all__ = ["CERTAIN", "PixelFinding", "PixelResult", "clean_pixels", "eight_bits", "find_text"]

CERTAIN = 0.6
"""Confidence of the reading from which a region is blanked without asking."""

_Box = tuple[int, int, int, int]
_MARGIN_PIXELS = 3
_SMALLEST_SIDE = 16
_RARE_ERRORS = (ValueError, RuntimeError, AttributeError, KeyError, TypeError)
"""What pydicom raises where pixels are damaged, or packed in a way that no decoder here knows."""


@dataclass(frozen=True)
class PixelFinding:
    """A region that a person must look at: (left, top, right, bottom) in pixels, and why."""

    box: tuple[int, int, int, int]
    why: str


@dataclass(frozen=True)
class PixelResult:
    """How many regions were blanked, and which are left to a person."""

    blanked: int
    uncertain: tuple[PixelFinding, ...]


def clean_pixels(dataset: Dataset) -> PixelResult:
    """Blank burned-in text in an object, in place. Compressed pixels become uncompressed.

    Raises:
        DataError: the pixels cannot be decoded.
        ResourceError: the OCR library is not installed.
    """
    _engine()  # says early that it is missing
    try:
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress(generate_instance_uid=False)
        pixels = np.array(dataset.pixel_array)
    except _RARE_ERRORS:
        raise DataError("Its pixels cannot be decoded, so nobody knows what they show.") from None
    frames = _as_frames(dataset, pixels)
    blanked = _blank_outside_regions(dataset, frames)
    certain: list[_Box] = []
    uncertain: list[_Box] = []
    for view in _views(frames):
        for box, score in find_text(view):
            (certain if score >= CERTAIN else uncertain).append(box)
    for left, top, right, bottom in certain:
        frames[:, top:bottom, left:right] = _darkest(dataset, frames)
    open_questions = [box for box in uncertain if not any(_covers(done, box) for done in certain)]
    if certain or blanked:
        if frames.ndim == 4:  # pydicom hands colour out as RGB, sample by sample
            dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
        content = np.ascontiguousarray(pixels).tobytes()
        dataset.PixelData = content + b"\0" * (len(content) % 2)
    findings = {PixelFinding(box, "may be text; could not be read") for box in open_questions}
    return PixelResult(blanked + len(set(certain)), tuple(sorted(findings, key=lambda f: f.box)))


def find_text(view: NDArray[np.uint8]) -> list[tuple[_Box, float]]:
    """Boxes (left, top, right, bottom) around text in an 8-bit picture (h, w, 3), with confidence.

    Raises:
        ResourceError: the OCR library is not installed.
    """
    height, width = view.shape[:2]
    if min(height, width) < _SMALLEST_SIDE:
        return []
    found = _engine()(view)
    if found.boxes is None:
        return []
    result = []
    scores = found.scores if found.scores is not None else [0.0] * len(found.boxes)
    for corners, score in zip(found.boxes, scores, strict=True):
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        left, top = (max(int(v) - _MARGIN_PIXELS, 0) for v in low)
        right = min(int(np.ceil(high[0])) + _MARGIN_PIXELS, width)
        bottom = min(int(np.ceil(high[1])) + _MARGIN_PIXELS, height)
        result.append(((left, top, right, bottom), float(score)))
    return result


@cache
def _engine() -> Any:
    try:
        from rapidocr import RapidOCR
    except ImportError:
        raise ResourceError(
            "Burned-in text is looked for with RapidOCR, which is not installed; install it with "
            "`pip install 'evenhand[ocr]'`, or do not ask for it."
        ) from None
    engine = RapidOCR(params={"Global.log_level": "critical", "Global.text_score": 0.0})
    logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
    return engine


def _as_frames(dataset: Dataset, pixels: NDArray[Any]) -> NDArray[Any]:
    """A view of the pixels as (frames, h, w) or (frames, h, w, samples)."""
    many = int(dataset.get("NumberOfFrames", 1) or 1) > 1
    return pixels if many else pixels[np.newaxis]


def _darkest(dataset: Dataset, frames: NDArray[Any]) -> Any:
    """What black is: 0 in colour, the largest value where small is bright, else the smallest."""
    if frames.ndim == 4:
        return 0
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    return frames.max() if inverted else frames.min()


def _blank_outside_regions(dataset: Dataset, frames: NDArray[Any]) -> int:
    regions = dataset.get("SequenceOfUltrasoundRegions") or []
    inside = np.zeros(frames.shape[1:3], bool)
    for region in regions:
        left, top = int(region.RegionLocationMinX0), int(region.RegionLocationMinY0)
        right, bottom = int(region.RegionLocationMaxX1), int(region.RegionLocationMaxY1)
        inside[top : bottom + 1, left : right + 1] = True
    if not inside.any():  # no regions, or none that lies in the image
        return 0
    frames[:, ~inside] = _darkest(dataset, frames)
    return 1


def _views(frames: NDArray[Any]) -> list[NDArray[np.uint8]]:
    """What the OCR library is shown, as 8-bit RGB."""
    chosen = [frames[0]]
    if len(frames) > 1:
        chosen += [frames[len(frames) // 2], frames[-1], frames.max(axis=0)]
    return [eight_bits(frame) for frame in chosen]


def eight_bits(frame: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a picture (h, w), or (h, w, samples), as `find_text` wants it: stretched to 8 bits."""
    if frame.dtype != np.uint8:
        low, high = (float(v) for v in (frame.min(), frame.max()))
        scale = 255 / (high - low) if high > low else 0.0
        frame = ((frame.astype(np.float32) - low) * scale).astype(np.uint8)
    grey = frame if frame.ndim == 3 else np.repeat(frame[..., np.newaxis], 3, axis=-1)
    return np.ascontiguousarray(grey[..., :3])


def _covers(outer: _Box, inner: _Box) -> bool:
    slack = 2 * _MARGIN_PIXELS
    return (
        outer[0] - slack <= inner[0]
        and outer[1] - slack <= inner[1]
        and outer[2] + slack >= inner[2]
        and outer[3] + slack >= inner[3]
    )
