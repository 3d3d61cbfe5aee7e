"""What encryption at rest costs: a CT into a store and back, and slices of cached activations.

Usage: python benchmarks/sealing.py [SLICES] [RUNS]

Random voxels that fit 16 bits, 512 x 512 x SLICES. Each figure is the best of RUNS, in seconds of
CPU of this process; plain and sealed take turns. The key is made in a home of its own.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from evenhand.cases.records import Patient
from evenhand.cases.sealing import StoreKey
from evenhand.cases.store import CaseStore
from evenhand.geometry import Affine
from evenhand.model.sealed_slices import SealedSlices, sealed_pieces

_EMBEDDING = (256, 32, 32)


def main() -> None:
    """Run the benchmark and print a table."""
    slices = int(sys.argv[1]) if len(sys.argv) > 1 else 236
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print("| what | plain, CPU s | sealed, CPU s | ratio |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        os.environ["EVENHAND_HOME"] = f"{name}/home"
        for what, kinds in {**_stores(Path(name), slices), **_caches(Path(name))}.items():
            plain, sealed = (min(column) for column in _timed(kinds, runs))
            print(f"| {what} | {plain:.3f} | {sealed:.3f} | {sealed / plain:.2f} |")


def _timed(kinds: tuple[Callable[[], object], ...], runs: int) -> list[tuple[float, ...]]:
    """Seconds of each kind in each run."""
    rows = []
    for _ in range(runs):
        row = []
        for kind in kinds:
            began = time.process_time()
            kind()
            row.append(time.process_time() - began)
        rows.append(row)
    return list(zip(*rows, strict=True))


def _stores(folder: Path, slices: int) -> dict[str, tuple[Callable[[], object], ...]]:
    chance = np.random.default_rng(0)
    image = chance.normal(0, 20, (slices, 512, 512)).round().astype(np.float32).T
    stores = [
        CaseStore.create(folder / str(sealed), "n", sealed=sealed) for sealed in (False, True)
    ]

    def write(store: CaseStore) -> None:
        store.add(
            case_id="c",
            patient=Patient(patient_id="p", hospital="n"),
            affine=Affine(np.eye(4)),
            images={"CT": image},
            mask=None,
            source="benchmark",
        )

    return {
        f"{slices} slices written": tuple(lambda store=store: write(store) for store in stores),
        f"{slices} slices read": tuple(
            lambda store=store: store.volumes(store.case("c")) for store in stores
        ),
    }


def _caches(folder: Path) -> dict[str, tuple[Callable[[], object], ...]]:
    key = StoreKey.make("n")
    values = np.random.default_rng(0).normal(size=(24, *_EMBEDDING)).astype(np.float16)
    np.save(folder / "plain.npy", values)
    (folder / "a.sealed").write_bytes(b"".join(sealed_pieces(values, "a.sealed", key)))
    plain = np.load(folder / "plain.npy", mmap_mode="r")
    sealed = SealedSlices(folder / "a.sealed", key)
    order = np.random.default_rng(1).integers(0, 24, 200)
    return {
        "200 slices of activations drawn": (
            lambda: [np.array(plain[index]) for index in order],
            lambda: [np.array(sealed[int(index)]) for index in order],
        )
    }


if __name__ == "__main__":
    main()
