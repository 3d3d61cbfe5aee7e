"""A slice as a clinician expects it: radiological display, right proportions, letters.

Whatever way round a file stores its voxels, axial and coronal slices show the
patient's right on the left of the screen, and sagittal slices face left. Pixels
and border letters both follow from the affine, through the same two screen axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from evenhand.geometry import Affine

__all__ = [
    "CORRECTED_COLOUR",
    "PROPOSED_COLOUR",
    "BorderLetters",
    "CaseView",
    "Overlay",
    "Window",
    "default_window",
    "render_slice",
]

PROPOSED_COLOUR = (230, 159, 0)
"""Orange of the Okabe-Ito palette, which the colour-blind tell apart (jfly.uni-koeln.de/color)."""

CORRECTED_COLOUR = (86, 180, 233)
"""Sky blue of the same palette."""

PICTURE_LENGTH_PX = 580
"""Longer side of a drawn slice, without its margins."""

MARGIN_PX = 26
"""Black border that holds the letters, so that they never cover anatomy."""

_Scalar = TypeVar("_Scalar", bound=np.generic)
_OUTLINE_PX = 2
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class BorderLetters:
    """Which way the patient lies behind each border of the picture: one of R L A P S I."""

    left: str
    right: str
    top: str
    bottom: str


@dataclass(frozen=True)
class Window:
    """Grey scale: `level` is mid grey, `width` runs from black to white, in image values."""

    level: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A mask to draw over a slice. `mask` is (i, j, k) of the case, as stored."""

    mask: NDArray[np.uint8]
    colour: tuple[int, int, int]
    style: Literal["outline", "fill"]
    opacity: float


@dataclass(frozen=True)
class _ScreenAxis:
    """One direction of the picture: the stored axis (0: i, 1: j) it follows, and in which sense."""

    stored: int
    sense: int


@dataclass(frozen=True)
class CaseView:
    """An image volume (i, j, k) turned for display, sliced in the plane in which it is stored (k).

    Slices count from 0 in display order, towards the patient's superior (or
    anterior, or right); `voxel_slice` gives the k in the file.
    """

    image: NDArray[np.float32]
    affine: Affine

    @cached_property
    def _orientation(self) -> list[tuple[int, int]]:
        """Of each stored axis: which RAS axis it runs along (0, 1, 2), and in which sense."""
        rows = nib.io_orientation(self.affine.ras_from_voxel)
        return [(int(axis), int(sense)) for axis, sense in rows]

    @cached_property
    def _rightwards(self) -> _ScreenAxis:
        """What runs to the right on screen: against R in axial and coronal, against A otherwise."""
        stored = min((0, 1), key=lambda axis: self._orientation[axis][0])
        return _ScreenAxis(stored, -self._orientation[stored][1])

    @cached_property
    def _downwards(self) -> _ScreenAxis:
        """What runs down the screen: against A in axial, against S otherwise."""
        stored = max((0, 1), key=lambda axis: self._orientation[axis][0])
        return _ScreenAxis(stored, -self._orientation[stored][1])

    @property
    def plane(self) -> str:
        """Name of the plane that is shown."""
        return _PLANES[self._orientation[2][0]]

    def __len__(self) -> int:
        """How many slices there are."""
        return int(self.image.shape[2])

    def voxel_slice(self, index: int) -> int:
        """Return the k, in the file, of the displayed slice `index` (and the other way round)."""
        return index if self._orientation[2][1] > 0 else len(self) - 1 - index

    def areas(self, mask: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Voxels of a mask (i, j, k) in each displayed slice."""
        counts = np.asarray(np.count_nonzero(mask, axis=(0, 1)), dtype=np.intp)
        return counts if self._orientation[2][1] > 0 else counts[::-1]

    def pixels(self, index: int) -> NDArray[np.float32]:
        """Image values of a displayed slice: (rows, columns) as on screen."""
        return np.nan_to_num(self._on_screen(self.image, index))

    def mask_pixels(self, mask: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        """Return a mask (i, j, k) on a displayed slice: (rows, columns) as on screen."""
        return self._on_screen(mask, index)

    @property
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """Distance between rows and between columns on screen."""
        spacing = self.affine.spacing_mm
        return spacing[self._downwards.stored], spacing[self._rightwards.stored]

    @property
    def letters(self) -> BorderLetters:
        """Letters for the borders, from the affine."""
        columns = self.affine.ras_from_voxel[:3, :3].T
        right = columns[self._rightwards.stored] * self._rightwards.sense
        bottom = columns[self._downwards.stored] * self._downwards.sense
        return BorderLetters(
            left=_letter(-right), right=_letter(right), top=_letter(-bottom), bottom=_letter(bottom)
        )

    def _on_screen(self, volume: NDArray[_Scalar], index: int) -> NDArray[_Scalar]:
        plane = volume[:, :, self.voxel_slice(index)]  # (i, j)
        for axis in (self._rightwards, self._downwards):
            if axis.sense < 0:
                plane = np.flip(plane, axis=axis.stored)
        return plane if self._rightwards.stored == 1 else plane.T  # (rows, columns)


def default_window(image: NDArray[np.float32]) -> Window:
    """Window from the 1st to the 99.5th percentile of what is not background."""
    values = image[np.isfinite(image)]
    inside = values[values > values.min()] if values.size else values
    if not inside.size:
        return Window(level=0.5, width=1.0)
    low, high = (float(v) for v in np.percentile(inside, (1, 99.5)))
    return Window(level=(low + high) / 2, width=max(high - low, 1e-6))


def render_slice(
    view: CaseView, index: int, window: Window, overlays: Sequence[Overlay] = ()
) -> NDArray[np.uint8]:
    """Draw one slice with its overlays and letters.

    Args:
        view: the volume.
        index: which slice, 0 to len(view) - 1.
        window: grey scale.
        overlays: drawn in this order.

    Returns:
        RGB picture (rows, columns, 3) of 0 to 255, true to the voxel spacing.
    """
    pixels = view.pixels(index)
    grey = np.clip((pixels - window.level) / window.width + 0.5, 0, 1) * 255
    size = _size_px(pixels.shape, view.pixel_spacing_mm)
    drawn = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    canvas = np.asarray(drawn.convert("RGB")).astype(np.float32)
    for overlay in overlays:
        _draw_mask(canvas, view.mask_pixels(overlay.mask, index), overlay)
    framed = np.pad(
        canvas.astype(np.uint8), ((MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0))
    )
    return _draw_letters(framed, view.letters)


def _size_px(shape: tuple[int, ...], spacing_mm: tuple[float, float]) -> tuple[int, int]:
    height, width = shape[0] * spacing_mm[0], shape[1] * spacing_mm[1]
    scale = PICTURE_LENGTH_PX / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _draw_mask(canvas: NDArray[np.float32], mask: NDArray[np.uint8], overlay: Overlay) -> None:
    size = (canvas.shape[1], canvas.shape[0])
    large = Image.fromarray((mask != 0).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    where = np.asarray(large) != 0
    if overlay.style == "outline":
        where = where & ~ndimage.binary_erosion(where, iterations=_OUTLINE_PX)
    colour = np.array(overlay.colour, dtype=np.float32)
    canvas[where] = (1 - overlay.opacity) * canvas[where] + overlay.opacity * colour


def _draw_letters(picture: NDArray[np.uint8], letters: BorderLetters) -> NDArray[np.uint8]:
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=18)
    width, height = image.size
    middle = MARGIN_PX // 2
    places = {
        letters.left: (middle, height // 2),
        letters.right: (width - middle, height // 2),
        letters.top: (width // 2, middle),
        letters.bottom: (width // 2, height - middle),
    }
    for letter, place in places.items():
        draw.text(place, letter, font=font, fill=(255, 255, 255), anchor="mm")
    return np.asarray(image)


def _letter(direction_ras: NDArray[np.float64]) -> str:
    axis = int(np.argmax(np.abs(direction_ras)))
    return _LETTERS[axis][int(direction_ras[axis] > 0)]
