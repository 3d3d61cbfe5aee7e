"""A federation of phantoms on this machine, set up as people type it: for tests and benchmarks.

Everybody has a home of their own below one folder: `centre` the coordinator, the others a hospital
each. Commands are run in this process; `serve` and `node` are programs, in process groups of
their own.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from typer.testing import CliRunner

from evenhand.cli import app
from evenhand.config import PhantomConfig
from evenhand.errors import FederationError
from evenhand.home import HOME_VARIABLE
from evenhand.ingest.bids import ingest_bids
from evenhand.ingest.phantom import make_phantoms
from evenhand_federated.coordinator import CoordinatorFolder
from evenhand_federated.hospital import HospitalFolder
from evenhand_federated.serve import free_port
from evenhand_federated.study import SignedStudy, read_study

__all__ = ["CENTRE", "Rehearsal", "end_group", "start_group"]

CENTRE = "centre"
"""The coordinator's home."""

_TRAINING = 2
"""Of a hospital's three patients; the third is kept for testing."""

_CONFIG = """
name = "{name}"
[data]
source = "nowhere"
[model]
image_size = 128
head = "small"
head_size = 64
[training]
tumour_slices = 2
other_slices = 2
box_share = 0.0
[federation]
rounds = {rounds}
minimum_hospitals = {minimum}
round_timeout_s = 240
"""


@dataclass(frozen=True)
class Rehearsal:
    """Folders of one federation.

    Attributes:
        path: of all of them.
        hospitals: their names; each has three patients.
        rounds: of the study.
        minimum: hospitals without which no round ends.
        name: of the study.
        arm: of the study.
        more: what follows in its config, TOML: keys of [federation], then sections.
        port: of the coordinator's door.
    """

    path: Path
    hospitals: tuple[str, ...]
    rounds: int
    minimum: int = 2
    name: str = "rehearsal"
    arm: str = "federated"
    more: str = ""
    port: int = field(default_factory=free_port)

    @property
    def coordinator(self) -> CoordinatorFolder:
        """The coordinator's folder."""
        return CoordinatorFolder(self.path / CENTRE / "coordinator")

    @property
    def study_path(self) -> Path:
        """The signed study."""
        return self.path / "study.toml"

    @property
    def digest(self) -> str:
        """The study's."""
        return read_study(self.study_path).digest

    def hospital(self, name: str) -> HospitalFolder:
        """A hospital's node."""
        return HospitalFolder(self.path / name / "hospitals" / name / "federation")

    def type(self, home: str, *words: object) -> str:
        """Type a command in the home of somebody; returns what it says.

        Raises:
            FederationError: it fails.
        """
        typed = [str(word) for word in words]
        done = CliRunner().invoke(app, typed, env={HOME_VARIABLE: str(self.path / home)})
        if done.exit_code != 0:
            raise FederationError(f"{' '.join(typed)}: {done.output} {done.exception}")
        return done.output

    def set_up(self) -> SignedStudy:
        """From nothing to a study that every hospital has approved."""
        tree = make_phantoms(
            PhantomConfig(patients=dict.fromkeys(self.hospitals, 3), shape=(48, 48, 6)),
            self.path / "tree",
            seed=3,
        )
        ingest_bids(tree, self.path / "stores")
        where = ("--host", "127.0.0.1", "--listen", "127.0.0.1", "--port", self.port)
        self.type(CENTRE, "federation", "init", "--name", "Centre", *where)
        for name in self.hospitals:
            invitation = self.path / f"{name}-invitation.toml"
            self.type(CENTRE, "federation", "invite", name, "--out", invitation)
            store = self.path / "stores" / name
            self.type(name, "federation", "join", invitation, "--store", store)
            self.type(CENTRE, "federation", "admit", self.hospital(name).answer_path)
        config = self.path / "my.toml"
        common = _CONFIG.format(name=self.name, rounds=self.rounds, minimum=self.minimum)
        config.write_text(common + self.more, "utf-8")
        named = [word for name in self.hospitals for word in ("--hospital", name)]
        patients = ("--patients", _TRAINING * len(self.hospitals))
        made = ("study", "create", config, *named, *patients, "--arm", self.arm)
        self.type(CENTRE, *made, "--out", self.study_path)
        self.type(CENTRE, "study", "sign", self.study_path)
        study = read_study(self.study_path)
        for name in self.hospitals:
            agreed = ("federation", "approve", self.study_path, name, "--hash", study.digest[:16])
            self.type(name, *agreed)
        return study

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        """Let the coordinator serve, or a hospital's node run; its output goes to NAME.log."""
        words = ("serve",) if name == CENTRE else ("node", name)
        command = [sys.executable, "-m", "evenhand", "federation", *words]
        own = {HOME_VARIABLE: str(self.path / name), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return start_group(command, self.log(name), {**os.environ, **own})

    def log(self, name: str) -> Path:
        """Output of somebody's program."""
        return self.path / f"{name}.log"

    @property
    def is_open(self) -> bool:
        """Whether the coordinator's door has ever been open."""
        log = self.log(CENTRE)
        return log.exists() and "Open:" in log.read_text("utf-8")


def start_group(
    command: list[str], log: Path, environment: Mapping[str, str], cwd: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start a program in a process group of its own; its output is appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            command,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end_group(process: "subprocess.Popen[bytes]", how: signal.Signals = signal.SIGKILL) -> None:
    """End a program and what it has started in its group; by default as a power cut would."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    process.wait()
