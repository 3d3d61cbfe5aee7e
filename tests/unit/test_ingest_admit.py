"""Rules of admitting cases: whole or not at all, again after a kill, and one bad file costs one."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from evenhand.cases.records import Patient
from evenhand.cases.store import CaseStore
from evenhand.errors import DataError, StoreError
from evenhand.geometry import Affine
from evenhand.ingest.admit import admit
from evenhand.ingest.recipes import Content
from evenhand.ingest.workers import run_isolated, serve

HERE = str(Path(__file__).parent)


@dataclass(frozen=True)
class Made:
    """A recipe that needs no file; `does` is what happens while it is read."""

    number: int
    does: str = "well"

    @property
    def label(self) -> str:
        """Its number."""
        return f"case {self.number}"

    @property
    def case_id(self) -> str:
        """Its name in the store."""
        return f"c{self.number:03d}"

    @property
    def patient(self) -> Patient:
        """One for each number."""
        return Patient(patient_id=f"p{self.number}", hospital="north")

    @property
    def has_mask(self) -> bool:
        """There is none."""
        return False

    def fingerprint(self) -> str:
        """Follows from the number."""
        return f"made {self.number}"

    def read(self) -> Content:
        """Make a picture, or do what it does."""
        if self.does == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.does == "hang":
            time.sleep(1000)
        if self.does == "swell":
            np.ones(2**34, np.uint8)
        if self.does == "refuse":
            raise DataError("it is not right")
        if self.does == "fail":
            raise KeyError("Aardvark")
        image = np.random.default_rng(self.number).normal(size=(64, 64, 12)).astype(np.float32)
        return Content(affine=Affine(np.eye(4)), images={"FLAIR": image}, mask=None)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store, hidden ones too."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(autouse=True)
def _workers_find_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of this module are unpickled in new processes."""
    monkeypatch.setenv("PYTHONPATH", HERE)


def test_one_bad_case_costs_one(tmp_path: Path) -> None:
    """A crash, a hang, a swelling and two refusals leave the others whole; no value is shown."""
    ways = ["well", "crash", "refuse", "well", "hang", "swell", "fail", "well"]
    recipes = [Made(number, does) for number, does in enumerate(ways)]
    report = admit(recipes, tmp_path / "s", "north", jobs=2, memory_bytes=2**32, case_seconds=20.0)
    whys = [outcome.why for outcome in report.outcomes]
    assert [not why for why in whys] == [does == "well" for does in ways]
    for number, part in {
        1: "crashed",
        2: "not right",
        4: "20 s",
        5: "memory",
        6: "KeyError",
    }.items():
        assert part in whys[number]
    assert "Aardvark" not in "".join(whys)
    assert sorted(p.name for p in (tmp_path / "s" / "cases").iterdir()) == ["c000", "c003", "c007"]
    again = admit(recipes[:1], tmp_path / "s", "north", jobs=1)
    assert again.outcomes[0].status == "reused"


def test_the_number_of_processes_does_not_show_in_the_store(tmp_path: Path) -> None:
    """Equal sources make equal stores, byte for byte."""
    recipes = [Made(number) for number in range(4)]
    for jobs in (1, 3):
        admit(recipes, tmp_path / str(jobs), "north", jobs=jobs)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


MARK = "EVENHAND_TEST_OF_KILLS"
PATIENCE_S = 120

KILLED = """
import sys
from pathlib import Path
from test_ingest_admit import Made
from evenhand.ingest.admit import admit
admit([Made(n) for n in range(12)], Path(sys.argv[1]), "north", jobs=2)
"""


def test_after_kills_the_store_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    """Killed at random points and run again, an ingest ends where an undisturbed one does."""
    admit([Made(n) for n in range(12)], tmp_path / "calm", "north", jobs=2)
    chance, killed = random.Random(4), tmp_path / "killed"
    words = [sys.executable, "-c", KILLED, str(killed)]
    own = os.environ | {MARK: str(tmp_path)}
    for cases in (0, 1, 5, 9):
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=own)
        _wait_until(lambda c=cases: len(list(killed.glob("cases/c*"))) >= c, process)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (killed / "store.json").exists():
            for case in CaseStore(killed):
                assert CaseStore(killed).volumes(case).images  # whole, checksum right
    assert len(list(killed.glob("cases/c*"))) >= 9
    subprocess.run(words, check=True)
    _wait_until(lambda: not _living(tmp_path))  # orphans too, which leave nothing behind the last
    assert contents(killed) == contents(tmp_path / "calm")


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    """Wait, however crowded the machine is, or until a process has ended."""
    end = time.monotonic() + PATIENCE_S
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < end
        time.sleep(0.01)


def _living(folder: Path) -> list[Path]:
    """Processes of the test that are still there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={folder}\0".encode() in (process / "environ").read_bytes():
                found.append(process)
    return found


def test_a_worker_whose_parent_is_gone_does_nothing(tmp_path: Path) -> None:
    """Killed before its worker had begun: the task that waits in the pipe is not done."""
    ours, theirs = Pipe()
    with ours, theirs:
        ours.send_bytes(pickle.dumps((Path.touch, tmp_path / "touched")))
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        serve(theirs.fileno(), 2**31, parent=gone.pid)
    assert not (tmp_path / "touched").exists()


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    """A store takes one ingest at a time."""
    store = CaseStore.create(tmp_path / "s", "north")
    with store.locked(), pytest.raises(StoreError, match="Another command"):
        admit([Made(1)], tmp_path / "s", "north", jobs=1)


def test_what_a_killed_replacement_left_is_put_back(tmp_path: Path) -> None:
    """Between taking the old case away and putting the new one there, the old one is kept."""
    admit([Made(1)], tmp_path / "s", "north", jobs=1)
    cases = tmp_path / "s" / "cases"
    (cases / "c001").rename(cases / ".old-c001")
    (cases / ".draft-x").mkdir()
    with CaseStore(tmp_path / "s").locked():
        assert [path.name for path in cases.iterdir()] == ["c001"]


def test_one_name_for_two_cases_is_refused(tmp_path: Path) -> None:
    """The second would silently replace the first."""
    with pytest.raises(DataError, match="one name in the store"):
        admit([Made(1), _Other(1)], tmp_path / "s", "north")
    assert not (tmp_path / "s").exists()


class _Other(Made):
    """Another case under the same name."""

    @property
    def label(self) -> str:
        """Its number."""
        return "case 9"


def test_answers_come_for_all_tasks() -> None:
    """More tasks than processes, each answered once."""
    answers = list(run_isolated(len, ["a" * n for n in range(20)], jobs=2))
    assert sorted((answer.index, answer.value) for answer in answers) == [(n, n) for n in range(20)]
