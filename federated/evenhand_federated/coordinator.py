"""A coordinator's place on disk: who it is, which hospitals it admitted, what runs.

FOLDER/coordinator.toml            name, host and port of the door
FOLDER/ca.crt, ca.key              its authority; server.crt, server.key: its door
FOLDER/signing.key                 Ed25519: signs invitations and studies
FOLDER/members.json                admitted hospitals, their public keys and node ids
FOLDER/studies/DIGEST/study.toml   a submitted study
FOLDER/studies/DIGEST/state.json   how far it is
FOLDER/studies/DIGEST/arm/         rounds, checkpoint, adapter
FOLDER/flower/, logs/              of the SuperLink
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import Field

from evenhand.artifacts import write_atomically
from evenhand.config import Section
from evenhand.config_files import load_section
from evenhand.errors import ConfigError, EvenhandError, FederationError
from evenhand.experiment.layout import ArmFolder
from evenhand.home import evenhand_home
from evenhand.privacy.keys import HospitalKey, fingerprint_of
from evenhand_federated.certificates import (
    EXPIRY_DAYS,
    days_left,
    make_authority,
    make_server_certificate,
)
from evenhand_federated.enrolment import EnrolmentAnswer, Invitation
from evenhand_federated.study import CoordinatorIdentity, SignedStudy, read_study

__all__ = [
    "COORDINATOR_VARIABLE",
    "SERVING_VARIABLE",
    "CoordinatorFolder",
    "CoordinatorSettings",
    "Member",
    "StudyState",
    "default_coordinator",
]

COORDINATOR_VARIABLE = "EVENHAND_COORDINATOR"
"""Names the coordinator's folder to the processes that it starts."""

SERVING_VARIABLE = "EVENHAND_SERVING"
"""What the serving process is known by to those that it starts."""

_SERVING_TRIES = 20
"""A look whether somebody serves takes the lock for a moment, so one is tried for again."""

Port = Annotated[int, Field(ge=1, le=65535)]


def default_coordinator() -> Path:
    """Where a coordinator is, if not said otherwise."""
    return evenhand_home() / "coordinator"


class CoordinatorSettings(Section):
    """`coordinator.toml`."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    host: str
    """Name or address under which hospitals reach the door."""
    listen: str
    """Address that the door listens on."""
    port: Port

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names that the door's certificate is for."""
        return tuple(dict.fromkeys((self.host, "localhost", "127.0.0.1")))


@dataclass(frozen=True)
class Member:
    """An admitted hospital; `node_id` is Flower's, None until the SuperLink knows it."""

    hospital: str
    public_key: str
    admitted_at: str
    node_id: int | None = None


@dataclass(frozen=True)
class StudyState:
    """How far a submitted study is.

    Attributes:
        status: submitted until it finished, was stopped or has failed for good.
        attempts: times that it was started since it got any further.
        rounds_at_start: finished rounds at the latest start.
        work_at_start: what was done of its start from phantoms then.
        run_id: Flower's, of the latest start.
        reason: why it stopped.
    """

    status: Literal["submitted", "finished", "stopped", "failed"] = "submitted"
    attempts: int = 0
    rounds_at_start: int = 0
    work_at_start: int = 0
    run_id: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class CoordinatorFolder:
    """A coordinator on disk."""

    path: Path

    @classmethod
    def of_environment(cls) -> "CoordinatorFolder":
        """The coordinator that started this process.

        Raises:
            FederationError: none did.
        """
        folder = os.environ.get(COORDINATOR_VARIABLE)
        if not folder:
            raise FederationError(f"{COORDINATOR_VARIABLE} is not set: no coordinator to work for.")
        return cls(Path(folder))

    @classmethod
    def make(
        cls, path: Path, *, name: str, host: str, listen: str, port: int
    ) -> "CoordinatorFolder":
        """Make a coordinator: keys, certificates, settings.

        Raises:
            ConfigError: there is one already, or a setting cannot be.
        """
        own = cls(path)
        if own.settings_path.exists():
            raise ConfigError(
                f"'{path}' holds a coordinator already. Its hospitals know its keys: keep it, or "
                "choose another folder with --folder."
            )
        settings = CoordinatorSettings(name=name, host=host, listen=listen, port=port)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_authority(path, name)
        make_server_certificate(path, settings.hosts)
        own.key()
        write_atomically(own.settings_path, tomli_w.dumps(settings.model_dump()).encode())
        return own

    def renew(self) -> None:
        """Make a new certificate for the door when the old one is about to run out."""
        if days_left(self.path / "server.crt") <= EXPIRY_DAYS:
            make_server_certificate(self.path, self.settings().hosts)

    @property
    def settings_path(self) -> Path:
        """Written last: where it is, the coordinator is whole."""
        return self.path / "coordinator.toml"

    @property
    def members_path(self) -> Path:
        """Admitted hospitals."""
        return self.path / "members.json"

    @property
    def database_path(self) -> Path:
        """The SuperLink's."""
        return self.path / "flower" / "state.db"

    def settings(self) -> CoordinatorSettings:
        """Name, host and port.

        Raises:
            ConfigError: there is no coordinator here.
        """
        if not self.settings_path.exists():
            raise ConfigError(
                f"There is no coordinator in '{self.path}'. Make one: evenhand federation init, or "
                "name its folder with --folder."
            )
        return load_section(self.settings_path, CoordinatorSettings)

    def key(self) -> HospitalKey:
        """The key that signs invitations and studies."""
        return HospitalKey.open(self.path)

    def identity(self) -> CoordinatorIdentity:
        """Who this is."""
        return CoordinatorIdentity(name=self.settings().name, public_key=self.key().public)

    def invitation(self, hospital: str) -> Invitation:
        """An invitation for a hospital, signed."""
        settings = self.settings()
        draft = Invitation(
            coordinator=self.identity(),
            hospital=hospital,
            address=f"{settings.host}:{settings.port}",
            authority=(self.path / "ca.crt").read_text("utf-8"),
            signature="",
        )
        return draft.model_copy(update={"signature": self.key().sign(draft.message())})

    def members(self) -> dict[str, Member]:
        """Admitted hospitals by name."""
        if not self.members_path.exists():
            return {}
        rows = json.loads(self.members_path.read_text("utf-8"))
        return {row["hospital"]: Member(**row) for row in rows}

    def keep_member(self, member: Member) -> None:
        """Write down an admitted hospital.

        Raises:
            FederationError: it was admitted with another key, or the key with another name.
        """
        with self._locked("members"):
            known = self.members()
            for other in known.values():
                same_name = other.hospital == member.hospital
                if same_name != (other.public_key == member.public_key):
                    raise FederationError(
                        f"Hospital {other.hospital} was admitted with "
                        f"{'another key' if same_name else 'this same key'}. If its machine was "
                        f"replaced, take its entry out of '{self.members_path}' first."
                    )
            known[member.hospital] = member
            rows = [asdict(known[name]) for name in sorted(known)]
            write_atomically(self.members_path, json.dumps(rows, indent=1).encode())

    def admit(self, answer: EnrolmentAnswer) -> Member:
        """Admit the hospital that answered an invitation."""
        member = Member(
            answer.hospital,
            answer.public_key,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.keep_member(member)
        return member

    def study_folder(self, digest: str) -> Path:
        """Where a submitted study is kept."""
        return self.path / "studies" / digest

    def arm(self, digest: str) -> ArmFolder:
        """Rounds, checkpoint and adapter of a study."""
        return ArmFolder(self.study_folder(digest) / "arm")

    def studies(self) -> list[SignedStudy]:
        """All submitted studies that can be read, by digest; `damaged` names the others."""
        return self._read_studies()[0]

    def damaged(self) -> list[str]:
        """What is wrong with submitted studies that cannot be read, a sentence each."""
        return self._read_studies()[1]

    def _read_studies(self) -> tuple[list[SignedStudy], list[str]]:
        studies, faults = [], []
        for path in sorted((self.path / "studies").glob("*/study.toml")):
            try:
                studies.append(read_study(path))
            except (EvenhandError, OSError) as error:
                faults.append(str(error))
        return studies, faults

    def study(self, digest: str) -> SignedStudy:
        """A submitted study, checked.

        Raises:
            FederationError: there is none of that digest.
        """
        path = self.study_folder(digest) / "study.toml"
        if not path.exists():
            raise FederationError(f"No study {digest[:16]} was submitted to this coordinator.")
        study = read_study(path)
        if study.digest != digest:
            raise FederationError(f"'{path}' is another study than {digest[:16]}.")
        return study

    def submit(self, study: SignedStudy) -> None:
        """Take a study into the queue, or go on with one that was stopped or has failed.

        Raises:
            FederationError: another coordinator's, or a hospital in it was not admitted.
        """
        if study.terms.coordinator.public_key != self.key().public:
            raise FederationError(
                f"The study {study.terms.name} belongs to the coordinator "
                f"{study.terms.coordinator.name} "
                f"({fingerprint_of(study.terms.coordinator.public_key)}), not to this one."
            )
        study.check_version()
        missing = sorted(set(study.terms.hospitals) - set(self.members()))
        if missing:
            raise FederationError(
                f"Not admitted yet: {', '.join(missing)}. Invite them, and admit their answers: "
                "evenhand federation invite HOSPITAL, evenhand federation admit FILE"
            )
        known, keys = self.members(), study.terms.roll.keys
        if changed := [name for name in sorted(keys) if known[name].public_key != keys[name]]:
            raise FederationError(
                f"Admitted with another key since this study was written: {', '.join(changed)}. "
                "Make a new draft: evenhand study create"
            )
        write_atomically(self.study_folder(study.digest) / "study.toml", study.content)
        self.arm(study.digest).path.mkdir(parents=True, exist_ok=True)
        if self.state(study.digest).status != "finished":
            self.set_state(study.digest, StudyState())

    def state(self, digest: str) -> StudyState:
        """How far a study is."""
        path = self.study_folder(digest) / "state.json"
        return StudyState(**json.loads(path.read_text("utf-8"))) if path.exists() else StudyState()

    def set_state(self, digest: str, state: StudyState) -> None:
        """Write down how far a study is."""
        path = self.study_folder(digest) / "state.json"
        write_atomically(path, json.dumps(asdict(state)).encode())

    def change_state(self, digest: str, **changes: object) -> StudyState:
        """Change parts of a study's state."""
        with self._locked(f"state-{digest[:16]}"):
            state = replace(self.state(digest), **changes)  # type: ignore[arg-type]
            self.set_state(digest, state)
            return state

    def find(self, name: str) -> str:
        """The digest of a submitted study by its name or the start of its digest.

        Raises:
            FederationError: none, or several, are called so.
        """
        found = [
            study.digest
            for study in self.studies()
            if study.terms.name == name or (len(name) >= 6 and study.digest.startswith(name))
        ]
        if len(found) != 1:
            what = "No study was" if not found else f"{len(found)} studies were"
            raise FederationError(
                f"{what} submitted as '{name}'. Name one by its hash: evenhand federation status"
            )
        return found[0]

    @contextmanager
    def running(self, digest: str) -> Iterator[bool]:
        """Hold a study for as long as it runs; False where another process holds it."""
        with (self.study_folder(digest) / ".running").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def is_running(self, digest: str) -> bool:
        """Whether a process holds a study."""
        with self.running(digest) as free:
            return not free

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Hold the coordinator for one serving process; yields what it is known by.

        Raises:
            FederationError: another process serves it.
        """
        with (self.path / ".serving").open("a+") as lock:
            for attempt in range(_SERVING_TRIES):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == _SERVING_TRIES - 1:
                        raise FederationError(
                            f"'{self.path}' is served already by another process. One is enough."
                        ) from None
                    time.sleep(0.1)
            token = secrets.token_hex(16)
            lock.truncate(0)
            lock.write(token)
            lock.flush()
            yield token

    def is_served_by(self, token: str) -> bool:
        """Whether the serving process of that name still serves."""
        with (self.path / ".serving").open("r") as lock:
            if lock.read() != token:
                return False
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.path / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
