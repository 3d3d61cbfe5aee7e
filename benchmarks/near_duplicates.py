"""How well near-duplicate patients are told from other people, on real or synthetic images.

Usage: python benchmarks/near_duplicates.py STORE...

Each case is copied in five ways (other grey values, another grid, a slice less
at one end, moved, noise), as if it had come in at another hospital. Counted are
copies that are found, and pairs of different patients that are taken for one.
Prints numbers only.
"""

import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evenhand.cases.store import CaseStore
from evenhand.ingest.quality.coarse import body_of, coarse_volume, fingerprint_bits
from evenhand.ingest.quality.prints import BANDS, ENOUGH

Volume = NDArray[np.float32]


def noisy(image: Volume) -> Volume:
    """Noise of 2% of the 99th percentile."""
    deviation = 0.02 * float(np.percentile(image, 99))
    noise = np.random.default_rng(0).normal(0, deviation, image.shape)
    return (image + noise).astype(np.float32)


COPIES: dict[str, Callable[[Volume], Volume]] = {
    "other grey values (power of 0.8, scaled)": lambda v: (
        1000 * ((v - v.min()) / np.ptp(v)).astype(np.float32) ** 0.8
    ),
    "grid of 0.7 times the voxels in the plane": lambda v: ndimage.zoom(v, (0.7, 0.7, 1), order=1),
    "a slice less at one end": lambda v: v[:, :, 1:],
    "moved by five voxels": lambda v: np.roll(v, 5, 0),
    "noise of 2%": noisy,
}


def main() -> None:
    """Run the benchmark and print a table."""
    stores = [CaseStore(Path(path)) for path in sys.argv[1:]]
    cases = [(store, case) for store in stores for case in store]
    bits, owners = [], []
    copies: dict[str, list[int]] = {name: [] for name in COPIES}
    for store, case in cases:
        image = next(iter(store.volumes(case).images.values()))

        def print_of(volume: Volume, case=case) -> NDArray[np.bool_]:  # noqa: ANN001
            return fingerprint_bits(coarse_volume(volume, body_of(volume), case.affine))

        bits.append(print_of(image))
        owners.append(case.patient.patient_id)
        for name, change in COPIES.items():
            copies[name].append(shared(bits[-1], print_of(change(image))))
    others = [
        shared(bits[one], bits[other])
        for one, other in combinations(range(len(bits)), 2)
        if owners[one] != owners[other]
    ]
    print(f"{len(cases)} cases of {len(set(owners))} patients; {ENOUGH} of {BANDS} bands count\n")
    print("| copy | found | bands in common, median (smallest) |\n|---|---|---|")
    for name, found in copies.items():
        hits = sum(n >= ENOUGH for n in found)
        print(f"| {name} | {hits} of {len(found)} | {int(np.median(found))} ({min(found)}) |")
    wrong = sum(n >= ENOUGH for n in others)
    print(f"| another patient | {wrong} of {len(others)} | most: {max(others)} |")


def shared(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> int:
    """Bands that two fingerprints have in common."""
    return int((one.reshape(BANDS, -1) == other.reshape(BANDS, -1)).all(axis=1).sum())


if __name__ == "__main__":
    main()
