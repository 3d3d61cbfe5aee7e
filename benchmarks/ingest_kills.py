"""Kill an ingest at random points, finish it, and compare the store with one never disturbed.

Usage: python benchmarks/ingest_kills.py [KILLS] [CASES] [FOLDER]

Takes CASES synthetic CT studies in, once in peace, and once killed KILLS times:
SIGKILL to the command alone, a moment after the store has reached a number of
cases that is drawn anew each time (0: while headers are read). After each kill
every case that is in the store must be whole. The killed store is finished after
one kill in five and compared, and then started anew. Nothing here comes from a
patient.
"""

import random
import shutil
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
    met, finished, broken, alike, too_late = [], 0, 0, 0, 0
    for _ in range(kills):
        done = number_of_cases(folder / "killed" / "north")
        target = chance.randint(done, cases - 1)
        process = start(folder / "source", folder / "killed", key)
        while process.poll() is None and number_of_cases(folder / "killed" / "north") < target:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15 if target > done else 2.0))
        too_late += process.poll() is not None
        process.kill()
        process.wait()
        time.sleep(0.6)  # workers notice that they are orphans and end
        stored, bad = whole_cases(folder / "killed" / "north")
        met.append(stored)
        broken += bad
        if chance.random() < 0.2 or stored > 0.9 * cases:
            finish(folder / "source", folder / "killed", key)
            alike += contents(folder / "killed" / "north") == calm
            finished += 1
            shutil.rmtree(folder / "killed")
    finish(folder / "source", folder / "killed", key)
    alike += contents(folder / "killed" / "north") == calm
    spread = f"{min(met)} to {max(met)}, median {int(np.median(met))}"
    print(f"{kills} kills ({too_late} came after the end); cases stored at the kill: {spread}")
    print(f"cases not whole after a kill: {broken}")
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


def number_of_cases(store: Path) -> int:
    """How many cases lie in a store; 0 where there is none."""
    return sum(not path.name.startswith(".") for path in (store / "cases").glob("*"))


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
