"""What lies around a synthetic brain, and tumours that are as unlike as patients' are.

Plain phantoms show a brain alone with one kind of tumour, which suffices to measure with. What is
to teach a model something about patients needs what else is bright on FLAIR: fat in the scalp and
behind the eyes, marrow, mucosa; and tumours that are faint, cystic, blurred at the edge, small and
large. All of it comes from anatomy books, none of it from a patient.
"""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from evenhand.ingest.phantom_anatomy import Brain, Volume, blob, smooth, step

__all__ = ["ROOM", "share_of_head", "with_head"]

ROOM = 1.32
"""How much more of the box is imaged than a brain alone needs."""

_FLUID, _BONE = 0.10, 0.06


def share_of_head(share: float, rng: np.random.Generator) -> float:
    """Return a tumour's share of the brain that is drawn from a wider range than `share` was."""
    return float(np.clip(share * np.exp(rng.uniform(-1.2, 1.2)), 0.004, 0.15))


def with_head(brain: Brain, axes: tuple[Volume, Volume, Volume], rng: np.random.Generator) -> Brain:
    """Put a head around a brain, and let its tumour differ from others.

    Args:
        brain: with room around it, see `ROOM`.
        axes: where each voxel lies, as the brain was drawn.
        rng: where the draw comes from.

    Returns:
        The brain with a head. What is subtracted where a cyst lies is in `tumour`.
    """
    tissue = np.where(brain.brain, brain.tissue, _around(brain.depth, axes, rng))
    seen = brain.brain | (tissue > 0)
    return replace(brain, tissue=tissue, tumour=_unlike(brain, rng), seen=seen)


def _around(depth: Volume, axes: tuple[Volume, Volume, Volume], rng: np.random.Generator) -> Volume:
    """Brightness outside of the brain: fluid, bone with marrow, fat, muscle and eyes."""
    shape = depth.shape
    fat = rng.uniform(0.35, 1.2)
    out = -depth + 0.015 * smooth(rng, shape, 0.05)  # how far outside, in parts of the brain
    fluid, bone = rng.uniform(0.01, 0.04), rng.uniform(0.05, 0.09)
    skin = fluid + bone + rng.uniform(0.04, 0.12) * np.exp(0.25 * smooth(rng, shape, 0.10))
    marrow = 0.6 * fat * step(0.2 * bone - np.abs(out - fluid - 0.5 * bone), 0.02)
    marrow = marrow * step(smooth(rng, shape, 0.06), 0.5)
    scalp = fat * np.clip(0.75 + 0.3 * smooth(rng, shape, 0.02), 0.1, None)
    layers = np.where(out < fluid, _FLUID, np.where(out < fluid + bone, _BONE + marrow, scalp))
    layers = np.where(out < skin, layers, 0.0)
    return _face(layers, axes, fat, rng)


def _face(
    layers: Volume, axes: tuple[Volume, Volume, Volume], fat: float, rng: np.random.Generator
) -> Volume:
    """Eyes in their fat, and mucosa between them, in front of and below the brain."""
    _, _, z = axes
    height = rng.uniform(-0.65, -0.35)
    mucosa = np.clip(smooth(rng, layers.shape, 0.03), 0, 1.5) * rng.uniform(0.3, 0.9)
    nose = step(blob(axes, (0.0, -0.98, height - 0.1), (0.22, 0.30, 0.45)), 0.1)
    face = layers * (1 - nose) + nose * mucosa
    for side in (-1, 1):
        centre = (side * 0.34, -0.92, height)
        socket = step(blob(axes, centre, (0.27, 0.33, 0.30)), 0.15)
        eye = step(blob(axes, (centre[0], centre[1] - 0.10, height), (0.17, 0.17, 0.20)), 0.1)
        wall = step(eye - 0.2, 0.2) * step(0.8 - eye, 0.2)
        face = face * (1 - socket) + socket * fat * rng.uniform(0.5, 1.1)
        face = face * (1 - eye) + eye * rng.uniform(0.06, 0.25) + 0.4 * wall
    return np.where(z < height + 0.5, face, layers)


def _unlike(brain: Brain, rng: np.random.Generator) -> Volume:
    """The tumour's share of each voxel, times how it differs from others; a cyst is below zero."""
    tumour = brain.tumour * np.exp(rng.uniform(np.log(0.35), np.log(1.5)))
    tumour = tumour * np.exp(0.25 * smooth(rng, tumour.shape, 0.03))
    if rng.random() < 0.5:
        width = rng.uniform(0.5, 2.0)
        tumour = ndimage.gaussian_filter(tumour, (width, width, 0))
    if rng.random() < 0.35:
        inside = ndimage.distance_transform_edt(brain.mask, sampling=(1, 1, 4))
        core = step(inside / max(float(inside.max()), 1.0) - rng.uniform(0.3, 0.6), 0.15)
        tumour = tumour * (1 - core) + core * rng.uniform(-0.9, 0.6)
    return np.asarray(tumour)
