"""Whether time grows in line with the number of cases, and memory not at all.

Usage: python benchmarks/ingest_scale.py [CASES ...] (default 100 300 1000)

Makes studies of 4 slices, 64 x 64, one patient each, and takes them in with `evenhand ingest`,
each number of cases into a store of its own. Seconds of CPU are those of all its
processes, memory is that of the largest of them. Nothing here comes from a patient.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from evenhand.geometry import Affine
from evenhand.ingest.deid import HospitalKey
from evenhand.ingest.dicom.phantom import Study, write_series

_SHAPE = (64, 64, 4)


def main() -> None:
    """Run the benchmark and print a table."""
    sizes = [int(word) for word in sys.argv[1:]] or [100, 300, 1000]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        HospitalKey.create(folder / "hospital.key")
        print("| cases | clock, s | CPU, s | CPU a case, ms | largest process, MiB |")
        print("|---|---|---|---|---|")
        for size in sizes:
            _make(folder / f"dicom-{size}", size)
            clock, cpu, largest = _measured(folder, size)
            each = 1000 * cpu / size
            print(f"| {size} | {clock:.0f} | {cpu:.1f} | {each:.0f} | {largest / 1024:.0f} |")


def _make(folder: Path, cases: int) -> None:
    chance = np.random.default_rng(0)
    for number in range(cases):
        study = Study(patient_id=f"P{number}", attributes={"BodyPartExamined": "CHEST"})
        voxels = chance.integers(0, 2000, _SHAPE).astype(np.int16)
        write_series(folder / f"{number}", voxels, Affine(np.diag([-3.0, -3.0, 5.0, 1.0])), study)


def _measured(folder: Path, size: int) -> tuple[float, float, int]:
    """Seconds on the clock, seconds of CPU, and KiB of the largest process."""
    words = ["-m", "evenhand", "ingest", f"{folder}/dicom-{size}", "--into", f"{folder}/{size}"]
    words += ["--hospital", "north", "--key", f"{folder}/hospital.key", "--no-masks-required"]
    began = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    stored = len(list(Path(f"{folder}/{size}/north/cases").glob("*/case.json")))
    if status != 0 or stored != size:
        sys.exit(f"{stored} of {size} cases were stored; nothing was measured.")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss


if __name__ == "__main__":
    main()
