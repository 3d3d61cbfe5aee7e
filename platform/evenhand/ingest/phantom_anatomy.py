"""One synthetic FLAIR-like brain with a tumour, and the scanner that pictures it.

Coordinates are those of a head in a box: x from the patient's right (-1) to
left (1), y from front (-1) to back (1), z from below (-1) to above (1); arrays
are (i, j, k) along x, y, z. Tissue brightness is 0 to about 1 before the
scanner. The anatomy is asymmetric on purpose (the left ventricle is larger, the
right frontal and left occipital poles bulge), so that a flip can be noticed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = [
    "TUMOUR_CONTRAST",
    "Brain",
    "Scanner",
    "blob",
    "grid_of",
    "make_brain",
    "picture",
    "scanners",
    "smooth",
    "step",
]

Volume = NDArray[np.float64]

TUMOUR_CONTRAST = 0.40
"""How much brighter than its surroundings an unbiased tumour is; white matter is 0.42."""

_WHITE, _GREY, _FLUID = 0.42, 0.52, 0.10


@dataclass(frozen=True)
class Brain:
    """Anatomy before any scanner: tissue, tumour share, who is brain and who is tumour.

    All arrays are (i, j, k). `tumour` is 0 to 1: what the tumour adds is
    `tumour * contrast`. `mask` is the manual outline, `brain` is not background, `seen` is
    what the scanner shows. `depth` is 0 on the brain's outline, 1 in its middle, negative outside.
    """

    tissue: Volume
    tumour: Volume
    mask: NDArray[np.bool_]
    brain: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    depth: Volume


@dataclass(frozen=True)
class Scanner:
    """What one hospital's scanner does to brightness.

    `field` is the strength of its bias field along x, y, z (relative), `noise`
    a standard deviation in tissue brightness, `blur_voxel` a Gaussian's width.
    """

    gain: float
    gamma: float
    field: tuple[float, float, float]
    noise: float
    blur_voxel: float
    sixteen_bit: bool


def scanners(count: int, shift: float, rng: np.random.Generator) -> list[Scanner]:
    """Return `count` scanners spread evenly over what scanners do, times `shift`."""

    def spread() -> NDArray[np.float64]:
        return rng.permutation(np.linspace(-1, 1, count) if count > 1 else np.zeros(1)) * shift

    gain, gamma, noise, blur = spread(), spread(), spread(), spread()
    field = np.stack([spread(), spread(), spread()], axis=1) * 0.18
    return [
        Scanner(
            gain=float(np.exp(0.25 * gain[n])),
            gamma=float(np.exp(0.22 * gamma[n])),
            field=(float(field[n, 0]), float(field[n, 1]), float(field[n, 2])),
            noise=0.022 * float(np.exp(0.4 * noise[n])),
            blur_voxel=0.35 * float(np.exp(0.5 * blur[n])),
            sixteen_bit=n % 2 == 1,
        )
        for n in range(count)
    ]


def picture(brain: Brain, contrast: float, scanner: Scanner, rng: np.random.Generator) -> Volume:
    """Return brightness (i, j, k), about 0 to 1, of a brain whose tumour has `contrast`."""
    image = np.clip(brain.tissue + contrast * brain.tumour, 0, None)
    in_plane = (scanner.blur_voxel, scanner.blur_voxel, 0)
    image = ndimage.gaussian_filter(image, in_plane)
    x, y, z = grid_of(image.shape)
    own = rng.normal(0, 0.03, 3)
    field = sum((f + o) * axis for f, o, axis in zip(scanner.field, own, (x, y, z), strict=True))
    image = image * np.exp(field)
    image = np.hypot(  # magnitude images have Rician noise
        image + rng.normal(0, scanner.noise, image.shape),
        rng.normal(0, scanner.noise, image.shape),
    )
    image = scanner.gain * image**scanner.gamma
    return np.where(brain.seen, image, 0.0)


def make_brain(
    shape: tuple[int, int, int],
    tumour_share: float,
    rng: np.random.Generator,
    *,
    room: float = 1.0,
) -> Brain:
    """Draw one brain.

    Args:
        shape: (i, j, k), at least 24 x 24 x 4.
        tumour_share: tumour voxels as a share of brain voxels.
        rng: where the draw comes from.
        room: side of the box in x and y; above 1 there is room around the brain.
    """
    x, y, z = _bent(grid_of(shape, room), rng)
    size = np.sqrt(np.clip(1 - 0.8 * (z - 0.05) ** 2, 0.05, None))  # of the outline, by height
    torque = 1 + 0.09 * np.tanh(3 * x) * np.clip(y, -1, 1)  # frontal right, occipital left
    half_width = size * (0.76 - 0.08 * np.clip(-y, 0, 1)) * torque * rng.uniform(0.96, 1.04)
    depth = 1 - np.hypot(x / half_width, y / (0.92 * size * rng.uniform(0.97, 1.03)))
    folds = _folds(rng, depth)
    brain = depth > 0.01 * folds
    white = step(depth - 0.12 - 0.10 * np.clip(folds, -0.6, 2), 0.03)
    tissue = _GREY + (_WHITE - _GREY) * white
    tissue = _deep_grey(tissue, x, y, z)
    ventricles = _ventricles(x, y, z, rng)
    fluid = np.maximum(_clefts(x, y, z, depth, folds), ventricles)
    caps = step(ndimage.gaussian_filter(ventricles, (1.2, 1.2, 0)) - 0.12, 0.05)
    tissue = tissue + 0.07 * caps * rng.uniform(0.3, 1.2)
    tissue = tissue * (1 + 0.035 * smooth(rng, shape, 0.05) + 0.02 * smooth(rng, shape, 0.012))
    tissue = tissue * (1 - fluid) + _FLUID * fluid
    tissue = np.where(brain, tissue * step(depth + 0.03, 0.03), 0.0)
    allowed = brain & (ventricles < 0.5) & (depth > 0.04)
    voxels = max(8, round(tumour_share * int(brain.sum())))
    tumour, mask = _tumour(allowed, depth, (x, y, z), voxels, rng)
    return Brain(tissue=tissue, tumour=tumour, mask=mask, brain=brain, seen=brain, depth=depth)


def grid_of(shape: tuple[int, ...], room: float = 1.0) -> tuple[Volume, Volume, Volume]:
    """Return x, y and z of each voxel, see the top; `room` is the side of the box in x and y."""
    x, y = (np.linspace(-room, room, size) for size in shape[:2])
    z = np.linspace(-0.75, 0.92, shape[2])
    gx, gy, gz = np.meshgrid(x, y, z, indexing="ij")
    return gx, gy, gz


def _bent(
    grid: tuple[Volume, Volume, Volume], rng: np.random.Generator
) -> tuple[Volume, Volume, Volume]:
    """Return the grid turned and bent a little, as heads are."""
    x, y, z = grid
    angle = np.deg2rad(rng.normal(0, 4))
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    dx, dy = rng.normal(0, 0.02, 2)
    bend = [0.022 * smooth(rng, x.shape, 0.14) for _ in range(2)]
    return x + dx + bend[0], y + dy + bend[1], z


def smooth(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Volume:
    """Return smooth noise of mean 0 and deviation 1; `scale` is in parts of the box."""
    noise = rng.standard_normal(shape)
    sigma = (scale * shape[0], scale * shape[1], 0.6 * scale * shape[2])
    noise = ndimage.gaussian_filter(noise, sigma)
    return np.asarray((noise - noise.mean()) / noise.std())


def _folds(rng: np.random.Generator, depth: Volume) -> Volume:
    """Return smooth noise drawn out towards the centre, as the cortex folds inwards."""
    noise = smooth(rng, depth.shape, 0.016)
    radius = np.clip(1 - depth, 0.3, None)
    middle = (np.array(depth.shape[:2]) - 1) / 2
    i, j, k = np.indices(depth.shape, dtype=np.float64)
    pull = 0.8 * radius**-0.75
    places = [middle[0] + (i - middle[0]) * pull, middle[1] + (j - middle[1]) * pull, k]
    return np.asarray(ndimage.map_coordinates(noise, places, order=1, mode="nearest"))


def step(value: Volume, width: float) -> Volume:
    """Return a soft step: 0 below, 1 above, `width` wide."""
    return np.clip(0.5 + value / (2 * width), 0, 1)


def blob(
    axes: tuple[Volume, Volume, Volume],
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
) -> Volume:
    """Return 1 at the centre of an ellipsoid, 0 on its surface, negative outside."""
    squares = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    return np.asarray(1 - np.sqrt(squares))


def _deep_grey(tissue: Volume, x: Volume, y: Volume, z: Volume) -> Volume:
    for side, back in ((-1, 0.0), (1, 0.015)):
        for centre, radii in (
            ((side * 0.14, 0.10 + back, 0.0), (0.10, 0.15, 0.22)),  # thalamus
            ((side * 0.27, -0.06 + back, 0.0), (0.07, 0.19, 0.25)),  # putamen
        ):
            inside = step(blob((x, y, z), centre, radii), 0.15)
            tissue = tissue + (0.95 * _GREY - tissue) * 0.8 * inside
    return tissue


def _clefts(x: Volume, y: Volume, z: Volume, depth: Volume, folds: Volume) -> Volume:
    """Return how much of a voxel is fluid between folds, lobes and halves (0 to 1)."""
    sulci = step(folds - 0.8 - 2.5 * np.clip(depth, 0, 1), 0.3) * step(0.24 - depth, 0.06)
    half = step(0.014 - np.abs(x), 0.008)
    fissure = half * np.maximum(step(np.abs(y + 0.02) - 0.34, 0.05), step(z - 0.45, 0.1))
    side = np.abs(x)
    slope = y + 0.16 - 0.35 * (side - 0.4) - 0.03 * np.sign(x)  # one side lies further back
    sylvian = step(0.022 - np.abs(slope), 0.02) * step(side - 0.36, 0.04)
    sylvian = sylvian * step(0.22 - np.abs(z + 0.15), 0.1)
    arms = np.minimum(np.abs(x), np.abs(y + 0.05) + 0.4 * np.abs(x))
    cistern = step(0.05 - arms, 0.03) * step(0.22 - np.hypot(x, y + 0.05), 0.05)
    cistern = cistern * step(-0.45 - z, 0.08)
    return np.max([0.75 * sulci, 0.8 * fissure, 0.7 * sylvian, 0.85 * cistern], axis=0)  # type: ignore[no-any-return]


def _ventricles(x: Volume, y: Volume, z: Volume, rng: np.random.Generator) -> Volume:
    wide = rng.uniform(0.8, 1.35)
    parts = [blob((x, y, z), (0.0, 0.03, -0.12), (0.02 * wide, 0.13, 0.22))]  # the third
    for side, larger in ((-1, 1.0), (1, 1.3)):
        width = 0.055 * wide * larger
        horn = x - side * (0.10 + 0.16 * np.clip(y, -0.5, 0.6) ** 2)
        parts.append(blob((horn, y, z), (0, 0.06, 0.18), (width, 0.40 * larger**0.5, 0.24)))
    parts.append(blob((x, y, z), (0.0, 0.45, -0.55), (0.06, 0.06, 0.2)))  # the fourth
    return np.asarray(np.max([step(part, 0.2) for part in parts], axis=0))


def _tumour(
    allowed: NDArray[np.bool_],
    depth: Volume,
    axes: tuple[Volume, Volume, Volume],
    voxels: int,
    rng: np.random.Generator,
) -> tuple[Volume, NDArray[np.bool_]]:
    """Return the tumour's share of each voxel (0 to 1) and its outline, about `voxels` large."""
    x, _, z = axes
    home = allowed & (depth > 0.22) & (np.abs(x) > 0.16) & (np.abs(z - 0.12) < 0.5)
    places = np.flatnonzero(home if home.any() else allowed)
    seed = int(rng.choice(places))
    centre = np.array([axis.flat[seed] for axis in axes])
    allowed = allowed & (x * np.sign(centre[0]) > 0.02)  # the falx holds it on one side
    reach = (voxels / (depth > 0).sum()) ** (1 / 3)  # of the whole tumour, in parts of the head
    field = np.zeros(allowed.shape)
    for _ in range(6):
        offset = rng.normal(0, 0.42 * reach, 3)
        radii = reach * rng.uniform(0.35, 0.75, 3)
        radii[2] *= 1.3
        squares = sum(
            ((axis - c - o) / r) ** 2
            for axis, c, o, r in zip(axes, centre, offset, radii, strict=True)
        )
        field += rng.uniform(0.6, 1.0) * np.exp(-0.5 * np.asarray(squares))
    field *= np.exp(0.20 * smooth(rng, allowed.shape, 0.025))
    wanted = min(voxels, int(allowed.sum()) // 2)
    edge = float(np.partition(field[allowed], -wanted)[-wanted])
    blocks, _ = ndimage.label((field >= edge) & allowed)
    sizes = np.bincount(blocks.ravel())
    sizes[0] = 0
    mask = blocks == sizes.argmax()
    profile = np.clip(0.5 + (field - edge) / (0.55 * edge), 0, 1)
    near = ndimage.binary_dilation(mask, iterations=1)
    tumour = np.where(allowed & near, profile, 0.0) * (1 + 0.10 * smooth(rng, mask.shape, 0.02))
    return np.clip(tumour, 0, 1.2), mask
