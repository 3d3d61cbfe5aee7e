"""Kill an ingest at random points, finish it, and compare the store with one never disturbed.

Usage: python benchmarks/ingest_kills.py [KILLS] [CASES] [FOLDER]

Takes CASES synthetic CT studies in, once in peace, and once killed KILLS times:
SIGKILL to the command alone, at a moment drawn anew each time over the length of
the undisturbed run. After each kill every case that is in the store must be
whole. The killed store starts anew whenever it is finished. Nothing here comes
from a patient.
"""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from evenhand.cases.store import CaseStore
from evenhand.geometry import Affine
from evenhand.ingest.deid import HospitalKey
from evenhand.ingest.dicom.phantom import Study, write_series

_SHAPE = (48, 48, 6)


def main() -> None:
    """Run the benchmark and print one line a result."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    cases = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(tempfile.mkdtemp())
    key = folder / "hospital.key"
    HospitalKey.create(key)
    make_source(folder / "source", cases)
    began = time.monotonic()
    finish(folder / "source", folder / "calm", key)
    seconds = time.monotonic() - began
    calm = contents(folder / "calm" / "north")
    print(f"{cases} cases, undisturbed: {seconds:.1f} s, {len(calm)} files")
    chance = random.Random(0)
    met, finished, broken, alike = [], 0, 0, 0
    for _ in range(kills):
        process = start(folder / "source", folder / "killed", key)
        time.sleep(chance.uniform(0.2, seconds))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.6)  # workers notice that they are orphans and end
        stored, bad = whole_cases(folder / "killed" / "north")
        met.append(stored)
        broken += bad
        if chance.random() < 0.2 or stored == cases:
            finish(folder / "source", folder / "killed", key)
            alike += contents(folder / "killed" / "north") == calm
            finished += 1
            shutil.rmtree(folder / "killed")
    finish(folder / "source", folder / "killed", key)
    alike += contents(folder / "killed" / "north") == calm
    spread = f"{min(met)} to {max(met)}, median {int(np.median(met))}"
    print(f"{kills} kills; cases stored at the time of a kill: {spread}; cases not whole: {broken}")
    print(f"finished after kills: {finished + 1}; equal byte for byte: {alike}")
    shutil.rmtree(folder)
    sys.exit(alike != finished + 1 or broken > 0)


def make_source(folder: Path, cases: int) -> None:
    """Write one small CT series a patient."""
    for number in range(cases):
        voxels = np.random.default_rng(number).integers(-1000, 1000, _SHAPE, np.int16)
        write_series(
            folder / f"{number:03d}",
            voxels,
            Affine(np.diag([-0.8, -0.8, 3.0, 1.0])),
            Study(patient_id=f"P{number}"),
            RescaleIntercept=-1,
            RescaleSlope=1,
        )


def start(source: Path, stores: Path, key: Path) -> "subprocess.Popen[bytes]":
    """Start the command."""
    words = ["-m", "evenhand", "ingest", str(source), "--into", str(stores), "--hospital", "north"]
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, *words, "--key", str(key), "--no-masks-required", "--jobs", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(source: Path, stores: Path, key: Path) -> None:
    """Run the command to its end."""
    if start(source, stores, key).wait() != 0:
        sys.exit("The ingest failed; nothing was measured.")


def whole_cases(store: Path) -> tuple[int, int]:
    """How many cases a store shows, and how many of them are not whole."""
    if not (store / "store.json").exists():
        return 0, 0
    opened, bad = CaseStore(store), 0
    for case_id in opened.case_ids():
        try:
            opened.volumes(opened.case(case_id))
        except Exception:  # noqa: BLE001 - whatever it is, the case is not whole
            bad += 1
    return len(opened), bad


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store, hidden ones too."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    main()
