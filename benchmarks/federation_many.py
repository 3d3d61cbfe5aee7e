"""Seconds and memory a hospital costs in a simulated federation, at 5 to 50 hospitals.

    python benchmarks/federation_many.py --hospitals 5 10 25 50 --out runs/many

Phantoms, two patients a hospital, three rounds in Flower's simulation on all cores of the machine,
as `evenhand run` does it. Memory is the largest sum over all its processes of what each has for
itself and its part of what is shared (PSS), looked at four times a second. Growth is linear where
seconds a hospital and round stay level. Expected on two quiet cores: 6 minutes.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import Progress

from evenhand.artifacts import write_atomically
from evenhand.cases.splits import split_patients
from evenhand.config import ExperimentConfig, PhantomConfig
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.ingest.bids import ingest_bids
from evenhand.ingest.phantom import make_phantoms
from evenhand.model.weights import fetch
from evenhand_federated.arms import run_federated

ARM, ROUNDS = "federated", 3
HEADER = "| hospitals | first round, s | later round, s | a hospital and round, s | MB in all |"


def main() -> None:
    """Simulate each number of hospitals and print a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hospitals", type=int, nargs="+", default=[5, 10, 25, 50])
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    fetch("mobile-sam")
    found = []
    print(f"{HEADER}\n|---|---|---|---|---|", flush=True)
    for hospitals in asked.hospitals:
        found.append(simulated(hospitals, asked.out / str(hospitals)))
        row = found[-1]
        print(
            f"| {hospitals} | {row['first']:.1f} | {row['later']:.1f} "
            f"| {row['later'] / hospitals:.3f} | {row['mb']:.0f} |",
            flush=True,
        )
    write_atomically(asked.out / "many.json", json.dumps(found, indent=1).encode())


def simulated(hospitals: int, folder: Path) -> dict[str, Any]:
    """What one simulation took."""
    run = run_of(hospitals, folder)
    with Progress(disable=True) as bar, watched() as peak:
        started = time.monotonic()
        run_federated(run, ARM, build_model(run.config()), bar)
        whole = time.monotonic() - started
    records: list[dict[str, Any]] = run.arm(ARM).read_rounds()
    if any(len(record["hospitals"]) != hospitals for record in records):
        raise SystemExit("not all hospitals answered; read the log in --out")
    seconds = [record["seconds"] for record in records]
    later = sum(seconds[1:]) / len(seconds[1:])
    mb = max(peak) / 1e6
    return {"hospitals": hospitals, "whole": whole, "first": seconds[0], "later": later, "mb": mb}


def run_of(hospitals: int, folder: Path) -> RunFolder:
    """A run whose stores and embeddings are made, and nothing trained."""
    names = [f"h{number:02}" for number in range(hospitals)]
    phantoms = PhantomConfig(patients=dict.fromkeys(names, 2), shape=(48, 48, 4))
    ingest_bids(make_phantoms(phantoms, folder / "tree", seed=3), folder / "stores")
    config = ExperimentConfig.model_validate(
        {
            "name": "many",
            "arms": [ARM],
            "data": {"source": "nowhere"},
            "model": {"image_size": 128, "head": "small", "head_size": 64},
            "training": {"tumour_slices": 2, "other_slices": 2, "box_share": 0.0},
            "federation": {"rounds": ROUNDS, "minimum_hospitals": hospitals},
        }
    )
    run, model = RunFolder(folder / "run"), build_model(config)
    for name in names:
        home = run.hospital(name)
        home.path.mkdir(parents=True)
        (home.path / "store").symlink_to((folder / "stores" / name).resolve())
        store, cache = home.store(), home.cache(model, config.data.sequences[0])
        cache.fill(store, cache.missing(store), lambda _: None)
    run.arm(ARM).path.mkdir(parents=True)
    write_atomically(run.config_path, config.model_dump_json().encode())
    split = split_patients([run.hospital(n).store() for n in names], test_fraction=0.5, seed=0)
    write_atomically(run.split_path, split.to_json().encode())
    return run


@contextmanager
def watched() -> Iterator[list[int]]:
    """Bytes of all processes that descend from this one, in time; without this one."""
    seen, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.25):
            seen.append(sum(pss_of(each) for each in descendants(os.getpid())))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def descendants(root: int) -> list[int]:
    """Processes below one, from the parents that the system knows."""
    below: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        below.setdefault(parent, []).append(int(path.parent.name))
    found, open_ = [], [root]
    while open_:
        children = below.get(open_.pop(), [])
        found += children
        open_ += children
    return found


def pss_of(process: int) -> int:
    """Bytes of a process; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
