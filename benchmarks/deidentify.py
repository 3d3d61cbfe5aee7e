"""Plant identifiers in DICOM objects, de-identify them with the command, and look for what is left.

Usage: python benchmarks/deidentify.py [OBJECTS] [FOLDER] > table.md

Prints a table of the profile's attributes by action and result, the seconds,
and what a scanner that knows every planted text finds in the files, their
names, the records of evidence and all that the command printed. The same raw
objects are also taken into a case store, which is searched too, with all that
`evenhand ingest` and `evenhand cases` printed. Objects are made, cleaned,
searched and deleted in lots, so that disk use stays flat. Cleaning is one
process. Nothing here comes from a patient.
"""

import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.ingest.deid import HospitalKey, Pseudonymiser
from evenhand.ingest.deid.dicom import DEFAULT_OPTIONS, quiet_pydicom
from evenhand.ingest.deid.planted import Planted, plant
from evenhand.ingest.deid.profile import action_of, profile_rows
from evenhand.ingest.deid.scanner import Scanner

LOT = 250
"""Objects on disk at a time."""


def main() -> None:
    """Run the benchmark and print Markdown."""
    objects = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "hospital.key"
    if not key.exists():
        HospitalKey.create(key)
    carried: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    seconds = 0.0
    for start in range(0, objects, LOT):
        lot = [plant(number) for number in range(start, min(start + LOT, objects))]
        carried.update(row for made in lot for row in made.rows)
        seconds += one_lot(lot, folder, key, totals)
        print(f"{start + len(lot)} of {objects}: {dict(totals)}", file=sys.stderr)
    print(summary(objects, totals, seconds))
    print(actions_table(carried))


def one_lot(lot: list[Planted], folder: Path, key: Path, totals: Counter[str]) -> float:
    """Write, clean, search and delete some objects; return the command's seconds."""
    source, into = folder / "source", folder / "clean"
    for made in lot:
        path = source / made.identifiers[-4] / made.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        with quiet_pydicom():
            made.dataset.save_as(path, enforce_file_format=True)
    printed = StringIO()
    began = time.perf_counter()
    with redirect_stdout(printed), redirect_stderr(printed):
        app(
            ["deidentify", str(source), "--into", str(into), "--key", str(key)],
            standalone_mode=False,
        )
    seconds = time.perf_counter() - began
    names = Pseudonymiser(HospitalKey.read(key))
    totals["planted texts"] += sum(len(made.identifiers) for made in lot)
    for made in lot:
        # Each file against its own texts: another patient's date may be this one's shifted date.
        scanner = Scanner(made.identifiers)
        before = source / made.identifiers[-4] / made.file_name
        totals["files before that hold one"] += bool(list(scanner.in_file(before, source)))
        after = into / names.pseudonym(made.identifiers[-4])
        after = (
            after
            / names.uid(f"{made.identifiers[-1]}.2")
            / f"{names.uid(made.identifiers[-1])}.dcm"
        )
        totals["files after"] += after.is_file()
        totals["files after that hold one"] += bool(list(scanner.in_file(after, into)))
    everybody = Scanner(text for made in lot for text in made.identifiers if not text.isdigit())
    for path in (into / "evidence").iterdir():
        totals["records of evidence"] += 1
        totals["records that hold one"] += bool(list(everybody.in_file(path, into)))
    totals["texts in what was printed"] += len(everybody.in_bytes(printed.getvalue().encode()))
    into_a_store(source, folder / "stores", key, everybody, totals)
    for made in lot:
        name = names.pseudonym(made.identifiers[-4])
        for path in sorted((folder / "stores" / "north" / "cases").glob(f"{name}-*/*")):
            own = Scanner([*made.identifiers, *iso_dates(made.identifiers)])
            totals["files of the store searched for their patient's dates and digits"] += 1
            totals["those that hold one"] += bool(list(own.in_file(path, folder / "stores")))
    shutil.rmtree(folder / "stores")
    shutil.rmtree(source)
    shutil.rmtree(into)
    return seconds


def into_a_store(
    source: Path, stores: Path, key: Path, everybody: Scanner, totals: Counter[str]
) -> None:
    """Take the raw objects into a store, and search it and what was printed."""
    printed = StringIO()
    words = ["ingest", str(source), "--into", str(stores), "--hospital", "north", "--key", str(key)]
    with redirect_stdout(printed), redirect_stderr(printed):
        app([*words, "--no-masks-required"], standalone_mode=False)
        app(["cases", str(stores / "north")], standalone_mode=False)
    totals["cases in the store"] += len(CaseStore(stores / "north"))
    for path in sorted(stores.rglob("*")):
        if path.is_file():
            totals["files of the store"] += 1
            totals["files of the store that hold one"] += bool(
                list(everybody.in_file(path, stores))
            )
    totals["texts that ingest printed"] += len(everybody.in_bytes(printed.getvalue().encode()))


def iso_dates(texts: tuple[str, ...]) -> list[str]:
    """Planted dates as a store would write them."""
    return [f"{t[:4]}-{t[4:6]}-{t[6:]}" for t in texts if len(t) == 8 and t.startswith("20")]


def summary(objects: int, totals: Counter[str], seconds: float) -> str:
    """What was found, and how long cleaning took."""
    lines = [("objects", objects), *totals.items(), ("seconds", round(seconds, 1))]
    lines.append(("objects a second", round(objects / seconds, 1)))
    return (
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in lines)])
        + "\n"
    )


def actions_table(carried: Counter[str]) -> str:
    """Attributes of the profile by action, and how often one was planted."""
    attributes: Counter[str] = Counter()
    planted: Counter[str] = Counter()
    for tag, row in profile_rows().items():
        action = str(action_of(row, row.vr, DEFAULT_OPTIONS))
        attributes[action] += 1
        planted[action] += carried[tag]
    rows = [f"| {name} | {n} | {planted[name]} |" for name, n in attributes.most_common()]
    head = ["| action | attributes of the table | planted |", "|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    main()
