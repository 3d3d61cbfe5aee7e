"""How long a CT of 236 slices takes into a store, beside SimpleITK's pure conversion.

Usage: python benchmarks/ingest_speed.py [SLICES] [RUNS] [FOLDER]

Makes a CT of SLICES slices of 512 x 512, smooth with noise as a scanner's,
one file a slice. In each run `evenhand ingest` (de-identified, hashed, checked,
into a store) and SimpleITK (series sorted, read, written as NIfTI at the same
compression, nothing else) convert it one after the other, each in a process of
its own; start of the program is counted. Nothing here comes from a patient.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from evenhand.geometry import Affine
from evenhand.ingest.deid import HospitalKey
from evenhand.ingest.dicom.phantom import Study, write_series

_PEER = """
import sys
import SimpleITK as sitk
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(sys.argv[1]))
sitk.WriteImage(reader.Execute(), sys.argv[2], useCompression=True, compressionLevel=1)
"""


def main() -> None:
    """Run the benchmark and print a table."""
    slices = int(sys.argv[1]) if len(sys.argv) > 1 else 236
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(tempfile.mkdtemp())
    HospitalKey.create(folder / "hospital.key")
    make_ct(folder / "ct", slices)
    ingest = ["-m", "evenhand", "ingest", str(folder / "ct"), "--into", str(folder / "stores")]
    ingest += ["--hospital", "north", "--key", str(folder / "hospital.key"), "--no-masks-required"]
    peer = ["-c", _PEER, str(folder / "ct"), str(folder / "peer.nii.gz")]
    rows = []
    for number in range(1, runs + 1):
        own, own_cpu = timed(ingest)
        other, other_cpu = timed(peer)
        rows.append(f"| {number} | {own:.1f} | {own_cpu:.1f} | {other:.1f} | {other_cpu:.1f} |")
        rows[-1] += f" {own / other:.2f} | {own_cpu / other_cpu:.2f} |"
        size = sum(path.stat().st_size for path in (folder / "stores").rglob("*.nii.gz"))
        shutil.rmtree(folder / "stores")
    print(
        f"{slices} slices, {len(os.sched_getaffinity(0))} core(s), {size / 2**20:.0f} MiB stored\n"
    )
    print("| run | ingest, s | CPU, s | SimpleITK, s | CPU, s | ratio | ratio of CPU |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    shutil.rmtree(folder)


def make_ct(folder: Path, slices: int) -> None:
    """Write a series that compresses about as a real CT does."""
    chance = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(chance.normal(size=(64, 64, 32)).astype(np.float32), 3)
    shape = (512, 512, slices)
    body = ndimage.zoom(smooth, [n / m for n, m in zip(shape, smooth.shape, strict=True)], order=1)
    values = 40 + 4000 * body + chance.normal(0, 12, shape)
    i, j = np.meshgrid(np.linspace(-1, 1, 512), np.linspace(-1, 1, 512), indexing="ij")
    values[(i / 0.8) ** 2 + (j / 0.6) ** 2 > 1] = -1000
    voxels = (np.clip(values, -1024, 3000) + 1024).astype(np.int16)
    write_series(
        folder,
        voxels,
        Affine(np.diag([-0.7, -0.7, 1.25, 1.0])),
        Study(attributes={"BodyPartExamined": "CHEST"}),
        RescaleIntercept=-1024,
        RescaleSlope=1,
    )


def timed(words: list[str]) -> tuple[float, float]:
    """Run a program of Python; return seconds that passed, and seconds of CPU it took."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, *words], capture_output=True, check=False
    )
    seconds, after = time.perf_counter() - began, os.times()
    if done.returncode != 0:
        sys.exit(f"A program failed; nothing was measured.\n{done.stderr.decode()}")
    cpu = after.children_user + after.children_system
    return seconds, cpu - before.children_user - before.children_system


if __name__ == "__main__":
    main()
