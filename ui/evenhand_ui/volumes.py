"""Volumes on their way to the viewer and back: turned to RAS once, undone on saving.

However a file stores its voxels, the viewer gets them with x towards the
patient's right, y towards anterior and z towards superior (x fastest), so that
it needs no geometry of its own: radiological display is the same three flips
for every case. What it paints is turned back before it is kept.
"""

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError
from evenhand.geometry import Affine

__all__ = [
    "Canonical",
    "Pixels",
    "Window",
    "default_window",
    "encode_image",
    "grid_of",
    "pack",
    "unpack",
]

OBLIQUE_SINE = 0.34
"""A direction that leans more than 20 degrees towards another axis gets that letter too."""

_LETTERS = ("LR", "PA", "IS")
_Scalar = TypeVar("_Scalar", bound=np.generic)
_INT16_REACH = 32767
_LOOKED_AT = 1_000_000
"""About how many voxels the first window rests on."""


@dataclass(frozen=True)
class Window:
    """Grey scale: `level` is mid grey, `width` runs from black to white, in image values."""

    level: float
    width: float


@dataclass(frozen=True)
class Canonical:
    """How a volume (i, j, k) with this affine is turned to RAS axes (x, y, z), and back."""

    shape: tuple[int, int, int]
    affine: Affine

    @cached_property
    def _orientation(self) -> tuple[tuple[int, int], ...]:
        """Of each stored axis: which RAS axis it runs along (0, 1, 2), and in which sense."""
        rows = nib.io_orientation(self.affine.ras_from_voxel)
        return tuple((int(axis), int(sense)) for axis, sense in rows)

    @cached_property
    def _source(self) -> tuple[int, int, int]:
        """Of each RAS axis: the stored axis that runs along it."""
        axes = [axis for axis, _ in self._orientation]
        return axes.index(0), axes.index(1), axes.index(2)

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(a for a, stored in enumerate(self._source) if self._orientation[stored][1] < 0)

    def turn(self, volume: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Turn a stored volume (i, j, k) to (x, y, z); a view, nothing is copied."""
        return np.flip(volume.transpose(self._source), axis=self._flipped)

    def back(self, volume: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Turn a volume (x, y, z) back to how its case is stored (i, j, k)."""
        order = [axis for axis, _ in self._orientation]
        return np.flip(volume, axis=self._flipped).transpose(order)

    @property
    def turned_shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = (self.shape[stored] for stored in self._source)
        return x, y, z

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxels along x, y, z."""
        x, y, z = (self.affine.spacing_mm[stored] for stored in self._source)
        return x, y, z

    @property
    def turned_affine(self) -> list[list[float]]:
        """RAS millimetres from a voxel (x, y, z), as rows of a 4 x 4 matrix."""
        back = nib.orientations.inv_ornt_aff(np.array(self._orientation), self.shape)
        rows: list[list[float]] = (self.affine.ras_from_voxel @ back).tolist()
        return rows

    @property
    def letters(self) -> list[tuple[str, str]]:
        """What lies at the low and at the high end of x, y, z; two letters where it is oblique."""
        found = []
        for stored in self._source:
            direction = self.affine.ras_from_voxel[:3, stored] * self._orientation[stored][1]
            direction = direction / np.linalg.norm(direction)
            found.append((_letters(-direction), _letters(direction)))
        return found

    @property
    def slice_axis(self) -> int:
        """The RAS axis (0, 1, 2) along which the stored slices (k) lie."""
        return self._orientation[2][0]

    def stored_slice(self, index: int) -> int:
        """Return the k of a slice along `slice_axis`, and the other way round."""
        return index if self._orientation[2][1] > 0 else self.shape[2] - 1 - index

    def stored_place(self, place: tuple[float, float, float]) -> tuple[float, float, float]:
        """Turn a place (x, y, z) to (i, j, k), both counted from the edge of the first voxel."""
        stored = [0.0, 0.0, 0.0]
        for axis, (value, source) in enumerate(zip(place, self._source, strict=True)):
            size = self.shape[source]
            stored[source] = size - value if axis in self._flipped else value
        return stored[0], stored[1], stored[2]

    def areas(self, mask: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Voxels of a mask (i, j, k) in each slice along `slice_axis`, in viewer order."""
        counts = np.asarray(np.count_nonzero(mask, axis=(0, 1)), dtype=np.intp)
        return counts if self._orientation[2][1] > 0 else counts[::-1]


def grid_of(canonical: Canonical) -> dict[str, Any]:
    """Return what the viewer knows of a volume's place: plain values."""
    return {
        "shape": list(canonical.turned_shape),
        "spacing": list(canonical.spacing_mm),
        "letters": [list(pair) for pair in canonical.letters],
        "affine": canonical.turned_affine,
    }


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image as the viewer gets it: little-endian int16 (x, y, z), x fastest in `plain`.

    An image value is `slope` times the number plus `intercept`.
    """

    numbers: NDArray[np.int16]
    slope: float
    intercept: float
    window: Window
    low: float
    high: float

    @property
    def plain(self) -> memoryview:
        """The numbers as bytes."""
        return self.numbers.transpose(2, 1, 0).data.cast("B")

    @cached_property
    def packed(self) -> bytes:
        """Gzip of `plain`, for networks; on one machine it takes longer than it saves."""
        return pack(self.numbers)


def encode_image(image: NDArray[np.float32], canonical: Canonical) -> Pixels:
    """Turn an image (i, j, k) to int16; whole numbers that fit are kept as they are."""
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(high - low):  # some voxel is no number
        image = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(image.min()), float(image.max())
    slope, intercept, wanted = 1.0, 0.0, image
    if max(abs(low), abs(high)) > _INT16_REACH or not _whole(image):
        slope = (high - low) / (2 * _INT16_REACH) or 1.0
        intercept = (high + low) / 2
        wanted = np.rint((image - np.float32(intercept)) / np.float32(slope))
        np.clip(wanted, -_INT16_REACH, _INT16_REACH, out=wanted)
    numbers = canonical.turn(wanted.astype("<i2"))
    return Pixels(
        numbers=np.ascontiguousarray(numbers.transpose(2, 1, 0)).transpose(2, 1, 0),
        slope=slope,
        intercept=intercept,
        window=default_window(image),
        low=low,
        high=high,
    )


def _whole(image: NDArray[np.float32]) -> bool:
    """Whether an image holds whole numbers only; the first slice that does not ends the search."""
    return all((part == np.rint(part)).all() for part in np.moveaxis(image, 2, 0))


def pack(volume: NDArray[np.generic]) -> bytes:
    """Gzip a volume (x, y, z), x fastest, at the quickest level."""
    packer = zlib.compressobj(level=1, wbits=31)
    plain = np.ascontiguousarray(volume.transpose(2, 1, 0))
    return packer.compress(plain.data) + packer.flush()


def unpack(content: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Unpack a mask (x, y, z) of 0 and 1 that came from outside, never past its size.

    Raises:
        DataError: not gzip, cut short, more or fewer voxels than `shape`, other values.
    """
    size = int(np.prod(shape))
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(content, size + 1)
    except zlib.error:
        raise DataError("The mask arrived damaged; it was not kept. Save again.") from None
    whole = unpacker.eof or _only_the_end_is_left(unpacker)
    if len(plain) != size or not whole or unpacker.unused_data:
        raise DataError("The mask arrived with another size than it names; it was not kept.")
    mask = np.frombuffer(plain, dtype=np.uint8).reshape(shape[::-1]).transpose(2, 1, 0)
    if mask.size and mask.max() > 1:
        raise DataError("The mask arrived with values other than 0 and 1; it was not kept.")
    return mask


def _only_the_end_is_left(unpacker: "zlib._Decompress") -> bool:
    """Whether nothing but the checksum follows, which is then checked."""
    try:
        return unpacker.decompress(unpacker.unconsumed_tail, 1) == b"" and unpacker.eof
    except zlib.error:
        return False


def default_window(image: NDArray[np.float32]) -> Window:
    """Window from the 1st to the 99.5th percentile of what is not background.

    Of a large image about a million voxels, evenly spread, are looked at.
    """
    every = max(1, image.size // _LOOKED_AT) | 1
    values = image.ravel(order="K")[::every]
    values = values[np.isfinite(values)]
    inside = values[values > values.min()] if values.size else values
    if not inside.size:
        return Window(level=0.5, width=1.0)
    low, high = (float(v) for v in np.percentile(inside, (1, 99.5)))
    return Window(level=(low + high) / 2, width=max(high - low, 1e-6))


def _letters(direction: NDArray[np.float64]) -> str:
    axes = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    leans = [axis for axis in axes if abs(direction[axis]) > OBLIQUE_SINE]
    return "".join(_LETTERS[axis][int(direction[axis] > 0)] for axis in leans[:2])
