"""A case as a coarse volume in one orientation: flips and near-duplicates are looked for in it."""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from evenhand.geometry import Affine

__all__ = ["PRINT_BITS", "SHAPE", "body_of", "coarse_volume", "fingerprint_bits", "turned_to_ras"]

SHAPE = (32, 32, 16)
"""Columns, rows and slices of a coarse volume."""
PRINT_BITS = 256
"""Bits of a fingerprint."""

_HIGHEST = (10, 10, 7)
_LOWEST_SUM = 3
"""Coefficients below say what everybody's head or chest looks like, so they tell nobody apart."""
_CLIP = (1.0, 99.0)


def body_of(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the patient is in a volume: brighter than the background, largest part, filled.

    The threshold is the middle between the first percentile and the mean of what
    lies above the overall mean, which fits air of -1000 HU as well as zeros.
    """
    low = float(np.percentile(image, 1))
    high = float(image[image >= image.mean()].mean())
    inside: NDArray[np.bool_] = image > low + 0.25 * (high - low)
    if not inside.any():
        return inside
    labels, count = ndimage.label(inside)
    if count > 1:
        inside = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    filled = np.empty_like(inside)
    for k in range(inside.shape[2]):
        filled[:, :, k] = ndimage.binary_fill_holes(inside[:, :, k])
    return filled


def turned_to_ras(volume: NDArray[np.float32], affine: Affine) -> NDArray[np.float32]:
    """Permute and flip axes so that they run nearest to right, anterior, superior."""
    direction = affine.ras_from_voxel[:3, :3] / affine.spacing_mm
    order = [0, 0, 0]
    left = {0, 1, 2}
    for axis in np.argsort(-np.abs(direction).max(axis=1)):
        best = max(left, key=lambda voxel: abs(float(direction[axis, voxel])))
        order[axis] = best
        left.remove(best)
    turned = volume.transpose(order)
    backwards = tuple(axis for axis in range(3) if direction[axis, order[axis]] < 0)
    flipped: NDArray[np.float32] = np.flip(turned, backwards)
    return flipped


def coarse_volume(
    image: NDArray[np.float32], body: NDArray[np.bool_], affine: Affine
) -> NDArray[np.float32]:
    """Shrink the box around the body to `SHAPE`, in RAS order, with mean 0 and deviation 1.

    Intensities are clipped to the first and last percentile of the body, so that
    neither scale nor window matters.
    """
    values = image[body] if body.any() else image.ravel()
    low, high = np.percentile(values, _CLIP)
    clipped = np.clip(image, low, high)
    if body.any():
        clipped = np.where(body, clipped, low)
        box = ndimage.find_objects(body.astype(np.uint8))[0]
        clipped = clipped[box]
    ras = turned_to_ras(clipped.astype(np.float32), affine)
    sigma = [max(size / wanted - 1, 0) / 2 for size, wanted in zip(ras.shape, SHAPE, strict=True)]
    smooth = ndimage.gaussian_filter(ras, sigma)
    places = [
        (np.arange(wanted) + 0.5) * size / wanted - 0.5
        for size, wanted in zip(ras.shape, SHAPE, strict=True)
    ]
    grid = np.meshgrid(*places, indexing="ij")
    small = ndimage.map_coordinates(smooth, grid, order=1, mode="nearest")
    deviation = float(small.std())
    flat: NDArray[np.float32] = (small - small.mean()) / (deviation or 1.0)
    return flat.astype(np.float32)


def fingerprint_bits(coarse: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Signs of `PRINT_BITS` middle frequencies of a coarse volume (discrete cosine transform).

    The way of perceptual hashes (pHash), in three dimensions. Copies of a volume
    that were rescaled, resampled or cut by a slice agree in most bits; volumes of
    two people agree in about half.
    """
    flat = np.ptp(coarse, axis=2).max() < 1e-6  # one slice: frequencies along the third axis are 0
    spectrum = fft.dctn(coarse, norm="ortho")
    highest = (24, 24, 1) if flat else _HIGHEST
    wanted = sorted(
        (place for place in product(*map(range, highest)) if sum(place) >= _LOWEST_SUM),
        key=lambda place: (sum(place), place),
    )[:PRINT_BITS]
    bits: NDArray[np.bool_] = np.array([spectrum[place] > 0 for place in wanted])
    return bits
