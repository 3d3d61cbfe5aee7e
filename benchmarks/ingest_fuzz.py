"""Ingest damaged files, and see that each is taken whole or refused with a reason.

Usage: python benchmarks/ingest_fuzz.py [FILES] [FOLDER]

Half of FILES are DICOM (CT slices and RTSTRUCT of small studies, one damaged
file a study), half NIfTI (images and masks of a datalist, plain and gzipped).
Bytes are flipped, cut, doubled, blanked or exchanged. `evenhand ingest` runs on
them in lots; counted are cases taken and refused, crashes of the command, cases
that are not whole, patients' names in what it printed, and the memory of the
largest process. Nothing here comes from a patient.
"""

import gzip
import json
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from evenhand.cases.nifti import write_nifti
from evenhand.cases.store import CaseStore
from evenhand.geometry import Affine
from evenhand.ingest.deid import HospitalKey
from evenhand.ingest.dicom.phantom import Study, write_rtstruct, write_series

LOT = 100
"""Damaged files on disk at a time."""
NAME = "Aardvark"
"""Stands in every header and file name, and must never be printed."""
_GRID = Affine(np.diag([-0.9, -0.9, 3.0, 1.0]))
_SHAPE = (24, 24, 5)


def main() -> None:
    """Run the benchmark and print a table."""
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    HospitalKey.create(folder / "hospital.key")
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    began = time.monotonic()
    for lot in range(0, files, LOT):
        make = dicom_lot if (lot // LOT) % 2 == 0 else nifti_lot
        make(folder / "source", random.Random(lot))
        ingest(folder, totals, reasons)
        shutil.rmtree(folder / "source")
        shutil.rmtree(folder / "stores", ignore_errors=True)
        print(f"{lot + LOT} of {files}: {dict(totals)}", file=sys.stderr)
    totals["seconds"] = round(time.monotonic() - began)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    totals["MiB of the largest process"] = largest
    rows = [f"| {name} | {value} |" for name, value in [("damaged files", files), *totals.items()]]
    print("\n".join(["| | |", "|---|---|", *rows, "", "| reason | times |", "|---|---|"]))
    print("\n".join(f"| {reason} | {times} |" for reason, times in reasons.most_common(20)))
    shutil.rmtree(folder)
    bad = ("commands that crashed", "cases not whole", "names that were printed", "drafts left")
    sys.exit(any(totals[what] for what in bad))


def mutated(content: bytes, chance: random.Random, head: int) -> bytes:
    """Damage a few bytes, most often among the first `head`."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(min(head, len(changed)) if chance.random() < 0.7 else len(changed))
        match chance.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[max(at, 1) :]
            case 2:
                changed[at:at] = changed[max(at - 40, 0) : at]
            case 3:
                changed[at : at + 4] = b"\xff\xff\xff\xff"
            case _:
                del changed[at : at + min(chance.randrange(1, 60), len(changed) - 1)]
    return bytes(changed)


def dicom_lot(folder: Path, chance: random.Random) -> None:
    """Write LOT studies of one series and one RTSTRUCT; one file of each is damaged."""
    corners = np.array([[4, 4, 2, 1], [16, 4, 2, 1], [16, 12, 2, 1], [4, 12, 2, 1]]).T
    contour = (_GRID.ras_from_voxel @ corners)[:3].T
    for number in range(LOT):
        voxels = np.random.default_rng(number).integers(-1000, 1000, _SHAPE, np.int16)
        study = Study(patient_id=f"{NAME}{number}", attributes={"PatientName": f"{NAME}^Zoe"})
        place = folder / f"{NAME}-{number}"
        paths = write_series(place, voxels, _GRID, study)
        write_rtstruct(place / "rs", {f"GTV {NAME}": [contour]}, study)
        victim = chance.choice([*paths, place / "rs"])
        victim.write_bytes(mutated(victim.read_bytes(), chance, head=900))


def nifti_lot(folder: Path, chance: random.Random) -> None:
    """Write a datalist of LOT cases; the image or the mask of each is damaged."""
    folder.mkdir()
    entries = []
    for number in range(LOT):
        values = np.random.default_rng(number).normal(size=_SHAPE).astype(np.float32)
        files = {"image": values, "label": (values > 1).astype(np.uint8)}
        for kind, voxels in files.items():
            write_nifti(folder / f"{NAME}{number}_{kind}.nii.gz", voxels, _GRID)
        victim = folder / f"{NAME}{number}_{chance.choice(list(files))}.nii.gz"
        content = victim.read_bytes()
        if chance.random() < 0.6:  # damage what is inside, and pack it again or not
            content = mutated(gzip.decompress(content), chance, head=352)
            content = gzip.compress(content) if chance.random() < 0.5 else content
        else:
            content = mutated(content, chance, head=40)
        victim.write_bytes(content)
        entries.append({kind: f"{NAME}{number}_{kind}.nii.gz" for kind in files})
    (folder / "list.json").write_text(json.dumps({"training": entries}), encoding="utf-8")


def ingest(folder: Path, totals: Counter[str], reasons: Counter[str]) -> None:
    """Run the command on a lot, and judge what it left and printed."""
    words = ["ingest", folder / "source", "--into", folder / "stores", "--hospital", "north"]
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "evenhand", *words, "--key", folder / "hospital.key"],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    printed = done.stdout + done.stderr
    totals["commands"] += 1
    totals["commands that crashed"] += done.returncode not in (0, 1) or "Traceback" in printed
    totals["names that were printed"] += NAME.lower() in printed.lower()
    taken = refused = bad = 0
    if (folder / "stores" / "north" / "store.json").exists():
        store = CaseStore(folder / "stores" / "north")
        for case_id in store.case_ids():
            try:
                store.volumes(store.case(case_id))
            except Exception:  # noqa: BLE001 - whatever it is, the case is not whole
                bad += 1
        taken = len(store)
        totals["drafts left"] += len(list((store.path / "cases").glob(".*")))
    for line in printed.splitlines():
        cells = [cell.strip() for cell in line.strip("│ ").split("│")]
        if re.match(r"(case|file|series) \d+", cells[0]) and cells[-1] and cells[-2:-1] != ["yes"]:
            refused += cells[0].startswith("case")
            reasons[re.sub(r"\d+(\.\d+)?", "N", cells[-1])[:70]] += 1
    totals["cases taken"] += taken
    totals["cases refused"] += refused
    totals["cases not whole"] += bad


if __name__ == "__main__":
    main()
