"""Many readers at once: how long each waits, what the server takes, and that nobody sees another's.

    python benchmarks/review_load.py [--readers 20] [--size 128,128,96] [--saves 10]

Makes a run of synthetic cases, starts `evenhand review`, and lets each reader work on a case of
their own through the routes, all at the same time, with a pause of half a second between two
strokes: open (image, proposal, draft), paint and save, report slices, decide. Afterwards each
draft is held against what its reader sent, and each reader asks for the others' drafts and with
the others' tickets.

Medians and 95th percentiles in ms, and the server's memory, as JSON lines on standard output.
"""

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from evenhand.cases.nifti import write_nifti
from evenhand.cases.records import Patient
from evenhand.cases.store import CaseStore
from evenhand.geometry import Affine
from evenhand.review import ReviewStore
from evenhand_ui.drafts import Box
from evenhand_ui.office import Office, office_of
from evenhand_ui.tickets import WRITE
from evenhand_ui.volumes import pack

PAUSE_S = 0.5
PATIENCE_S = 300

Shape = tuple[int, int, int]


def make_run(folder: Path, shape: Shape, count: int) -> None:
    """Write a run with so many cases of noise and a block as their proposal."""
    rng = np.random.default_rng(1)
    store = CaseStore.create(folder / "hospitals" / "north" / "store", "north")
    masks = folder / "arms" / "federated" / "masks"
    masks.mkdir(parents=True)
    affine = Affine(np.eye(4))
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(size // 3, size // 2) for size in shape)] = 1
    for number in range(count):
        image = rng.normal(300, 100, shape).astype(np.float32)
        store.add(
            case_id=f"c{number:03d}",
            patient=Patient(patient_id=f"p{number:03d}", hospital="north"),
            affine=affine,
            images={"FLAIR": image},
            mask=None,
            source="synthetic",
        )
        write_nifti(masks / f"c{number:03d}.nii.gz", mask, affine)
    (folder / "config.json").write_text('{"data": {"units": "mm"}}', encoding="utf-8")


@contextmanager
def served(folder: Path) -> Iterator[tuple[int, str]]:
    """Start the page; yield the server's process id and address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("evenhand")), "review", str(folder)]
    command += ["--port", str(port), "--no-browser"]
    # Our own command.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield int(children.split()[0]), url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def memory_mib(pid: int, field: str) -> float:
    """What a process takes: VmRSS now, VmHWM at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


class Reader:
    """One reader with a case of their own."""

    def __init__(self, number: int, url: str, office: Office, shape: Shape) -> None:
        self.number = number
        self.name = f"reader-{number}"
        tickets, case_id = office.tickets, f"c{number:03d}"
        self.opaque = tickets.opaque(case_id)
        self.shown = office.reading(case_id, self.name).place.name  # as the page tells the viewer
        self.ticket = tickets.issue(self.name, self.opaque, WRITE, now_s=time.time())
        self.client = httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False)
        self.shape = shape
        self.times: dict[str, list[float]] = defaultdict(list)
        self.sent: NDArray[np.uint8] = np.zeros(shape, dtype=np.uint8)
        self.revision = 0
        self.faults: list[str] = []

    def ask(self, kind: str, method: str, path: str, opaque: str = "", **more: object) -> int:
        """Send a request of one's own and note how long it took."""
        own = {"X-Evenhand-Ticket": self.ticket, "X-Evenhand-Reading": self.shown}
        headers = own | more.pop("head", {})  # type: ignore[operator]
        began = time.perf_counter()
        answer = self.client.request(
            method,
            f"/evenhand/case/{opaque or self.opaque}/{path}",
            headers=headers,
            **more,  # type: ignore[arg-type]
        )
        self.times[kind].append((time.perf_counter() - began) * 1000)
        self.answer = answer
        return answer.status_code

    def work(self, saves: int) -> None:
        """Open, paint, look, decide."""
        rng = np.random.default_rng(self.number)
        time.sleep(PAUSE_S * rng.random())
        for path in ("image/0", "proposal", "draft"):
            self.expect(self.ask(path.partition("/")[0], "GET", path), {200, 204}, path)
        for _ in range(saves):
            time.sleep(PAUSE_S)
            i, j, k = (int(rng.integers(0, size - 8)) for size in self.shape)
            self.sent[i : i + 8, j : j + 8, k] = 1
            box = Box.around(self.sent)
            head = {
                "If-Match": f'"{self.revision}"',
                "X-Evenhand-Box": str(box),
                "X-Evenhand-Strokes": str(self.revision + 1),
            }
            body = pack(self.sent[box.slices])
            self.expect(self.ask("save", "PUT", "draft", content=body, head=head), {200}, "save")
            self.revision = self.answer.json()["revision"]
            self.expect(self.ask("seen", "POST", "seen", json={"slices": [k]}), {200}, "seen")

    def check(self, others: Sequence["Reader"]) -> None:
        """One's own draft is whole; nobody else's is handed out."""
        self.expect(self.ask("draft", "GET", "draft"), {200}, "own draft")
        box = Box.parse(self.answer.headers["X-Evenhand-Box"], self.shape)
        whole = np.zeros(self.shape, dtype=np.uint8)
        part = np.frombuffer(self.answer.content, np.uint8).reshape(box.shape[::-1]).T
        whole[box.slices] = part
        if not np.array_equal(whole, self.sent):
            self.faults.append("own draft differs from what was sent")
        for other in others:
            if other is not self:
                status = self.ask("foreign", "GET", "draft", opaque=other.opaque)
                self.expect(status, {403}, "another's case with one's own ticket")

    def decide(self) -> None:
        """Record the correction."""
        said = {"verdict": "correct", "reason": "boundary", "revision": self.revision}
        self.expect(self.ask("decide", "POST", "decision", json=said), {200}, "decide")

    def expect(self, status: int, wanted: set[int], what: str) -> None:
        """Note what should not have happened."""
        if status not in wanted:
            self.faults.append(f"{what}: {status}")


def all_at_once(work: Sequence[threading.Thread]) -> None:
    """Start all, wait for all."""
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--readers", type=int, default=20)
    parser.add_argument("--size", default="128,128,96")
    parser.add_argument("--saves", type=int, default=10)
    options = parser.parse_args()
    i, j, k = (int(part) for part in options.size.split(","))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        make_run(folder, (i, j, k), options.readers)
        with served(folder) as (pid, url):
            office = office_of(folder, "federated", None)
            before = memory_mib(pid, "VmRSS")
            readers = [Reader(n, url, office, (i, j, k)) for n in range(options.readers)]
            all_at_once([threading.Thread(target=r.work, args=(options.saves,)) for r in readers])
            all_at_once([threading.Thread(target=r.check, args=(readers,)) for r in readers])
            all_at_once([threading.Thread(target=r.decide) for r in readers])
            most = memory_mib(pid, "VmHWM")
        with ReviewStore(folder / "review" / "review.sqlite") as store:
            check = store.verify()
    times: dict[str, list[float]] = defaultdict(list)
    for reader in readers:
        for kind, own in reader.times.items():
            times[kind] += own
    for kind, own in times.items():
        low, high = statistics.median(own), float(np.percentile(own, 95))
        print(json.dumps({"what": kind, "n": len(own), "median": round(low), "p95": round(high)}))
    print(json.dumps({"server_mib_before": round(before), "at_most": round(most)}))
    print(json.dumps({"decisions": check.length, "broken_at": check.broken_at}))
    faults = [f"{r.name}: {fault}" for r in readers for fault in r.faults]
    print(json.dumps({"faults": faults}))
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
