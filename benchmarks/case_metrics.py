"""HD95 and NSD of one case: how many times MONAI's speed, at equal values, in one run.

Usage: python benchmarks/case_metrics.py [--small] [--repeats 3]

Prints one line a case: the seconds of MONAI's `compute_hausdorff_distance` and
`compute_surface_dice` together, ours, and their ratio. Times are of the process, so that a busy
machine does not decide; one thread each. Exits with 1 if a value differs by more than 1e-6
(relative) or a ratio is under 3.
"""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

WANTED_RATIO = 3.0
TOLERANCE = 2.0
Spacing = tuple[float, float, float]
CASES: tuple[tuple[str, tuple[int, int, int], float, int, Spacing], ...] = (
    ("brain, 240 x 240 x 155, one tumour", (240, 240, 155), 24.0, 0, (1.0, 1.0, 1.0)),
    ("brain, the same and 20 false findings", (240, 240, 155), 24.0, 20, (1.0, 1.0, 1.0)),
    ("abdomen, 512 x 512 x 100, one tumour", (512, 512, 100), 40.0, 0, (0.8, 0.8, 3.0)),
    ("abdomen, the same and 40 false findings", (512, 512, 100), 40.0, 40, (0.8, 0.8, 3.0)),
)
SMALL = (
    ("96 x 96 x 48, one tumour", (96, 96, 48), 14.0, 0, (1.0, 1.0, 1.0)),
    ("96 x 96 x 48, and 5 false findings", (96, 96, 48), 14.0, 5, (1.0, 1.0, 1.0)),
)
Mask = NDArray[np.uint8]


def main() -> None:
    """Measure every case and say whether all are fast enough and equal."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="small volumes: a quick look")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    chosen = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    ratios = []
    for name, shape, radius, false_findings, spacing in SMALL if chosen.small else CASES:
        masks = rough_tumours(shape, radius, false_findings)
        theirs, slow = fastest(lambda m=masks, s=spacing: monai(*m, s), chosen.repeats)
        ours, fast = fastest(lambda m=masks, s=spacing: evenhand(*m, s), chosen.repeats)
        equal = np.allclose(ours, theirs, rtol=1e-6, atol=1e-6)
        ratios.append(slow / fast if equal else 0.0)
        print(
            f"{name}: MONAI {slow:.3f} s, Evenhand {fast:.3f} s, {slow / fast:.1f} times; HD95 "
            f"{ours[0]:.4f}, NSD {ours[1]:.4f}, {'equal' if equal else f'UNEQUAL: {theirs}'}"
        )
    print(f"least ratio {min(ratios):.1f}, wanted {WANTED_RATIO:g}")
    sys.exit(min(ratios) < WANTED_RATIO)


def rough_tumours(
    shape: tuple[int, int, int], radius: float, false_findings: int
) -> tuple[Mask, Mask]:
    """A tumour with a rough surface, a prediction that is shifted and rough otherwise."""
    rng = np.random.default_rng(0)
    grid = np.indices(shape, dtype=np.float32)
    masks = []
    for shift in (4.0, 0.0):
        rough = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 3)
        centre = np.array(shape) / 2 + (shift, 0, 0)
        squared = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
        masks.append((np.sqrt(squared) + 3 * rough / rough.std() < radius).astype(np.uint8))
    for place in rng.integers(4, np.array(shape) - 4, size=(false_findings, 3)):
        masks[0][tuple(slice(start - 1, start + 2) for start in place)] = 1
    return masks[0], masks[1]


def fastest(work: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """What the work gives, and the least seconds of processor time it took."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def evenhand(predicted: Mask, reference: Mask, spacing: Spacing) -> tuple[float, float]:
    """Ours, from whole volumes."""
    from evenhand.metrics.surfaces import surface_distances

    distances = surface_distances(predicted.astype(bool), reference.astype(bool), spacing)
    return distances.hd95, distances.nsd(TOLERANCE)


def monai(predicted: Mask, reference: Mask, spacing: Spacing) -> tuple[float, float]:
    """MONAI's, from the same volumes, which it crops itself."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    p, r = (torch.from_numpy(mask)[None, None].float() for mask in (predicted, reference))
    where: dict[str, Any] = {"include_background": True, "spacing": list(spacing)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(p, r, percentile=95, **where)
        nsd = compute_surface_dice(p, r, class_thresholds=[TOLERANCE], **where)
    return float(hd95.item()), float(nsd.item())


if __name__ == "__main__":
    main()
