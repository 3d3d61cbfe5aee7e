"""A study: what hospitals and a coordinator agree on, in one signed TOML file.

The signature covers the bytes before the `[signature]` table, so the file can be read by a
person, checked by a program, and not changed by anybody: not a key, not a space. The hash of
these bytes is the study's name between hospitals; a hospital approves that hash and nothing else.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import Field, ValidationError, model_validator

from evenhand import __version__
from evenhand.artifacts import write_atomically
from evenhand.config import (
    PRIVATE_ARM,
    Count,
    DataConfig,
    ExperimentConfig,
    FederationConfig,
    Fraction,
    ModelConfig,
    PrivacyConfig,
    Section,
    TrainingConfig,
    WarmStartConfig,
)
from evenhand.config_files import load_section
from evenhand.errors import ConfigError, FederationError
from evenhand.privacy.keys import HospitalKey, fingerprint_of, is_signed
from evenhand.privacy.secure_sum import Together
from evenhand_federated.certified import Roll

__all__ = [
    "CoordinatorIdentity",
    "NodeKey",
    "SignedStudy",
    "StudyTerms",
    "read_draft",
    "read_study",
    "sign_study",
    "write_draft",
]

_MARK = "\n[signature]\n"
"""What is before it is signed."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
NodeKey = Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]+$")]
"""A node's public key, in OpenSSH's format."""
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CoordinatorIdentity(Section):
    """Who leads the study."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    public_key: Hex64
    """Ed25519, hex: what signs the study."""


class StudyTerms(Section):
    """All that is agreed on. What is not in here a hospital decides by itself."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    purpose: str = ""
    """In words, for the board that reads it."""
    created: str
    evenhand: str
    """Version that all sides run."""
    coordinator: CoordinatorIdentity
    hospitals: Annotated[tuple[Name, ...], Field(min_length=1)]
    arm: Literal["federated", "federated-private"]
    weights_sha256: Hex64
    """Of the frozen backbone."""
    sequence: str = "FLAIR"
    """Images that the backbone sees, by BIDS suffix."""
    test_fraction: Fraction = 1 / 3
    """Part of its patients that each hospital keeps out of training."""
    patients: Count | None = None
    """In training, of all hospitals together, as they have agreed; one noise is sized by it."""
    seed: Annotated[int, Field(ge=0)] = 0
    keys: dict[Name, NodeKey] | None = None
    """Of the hospitals' nodes; what they say of a hidden sum is signed with these."""
    model: ModelConfig
    training: TrainingConfig
    federation: FederationConfig
    warm_start: WarmStartConfig = WarmStartConfig()
    """Phantoms that the coordinator trains on first; anybody can do it again."""
    privacy: PrivacyConfig

    @model_validator(mode="after")
    def _can_be_run(self) -> "StudyTerms":
        if len(set(self.hospitals)) < len(self.hospitals):
            raise ValueError("hospitals names one twice")
        if self.federation.minimum_hospitals > len(self.hospitals):
            raise ValueError(
                f"federation.minimum_hospitals is {self.federation.minimum_hospitals}, "
                f"but {len(self.hospitals)} hospitals take part"
            )
        if self.arm == PRIVATE_ARM and self.federation.local_parts:
            raise ValueError(
                f"federation.local_parts is for the arm federated; {PRIVATE_ARM} does not pay for "
                "what trains beside it"
            )
        if self._shares_noise and self.patients is None:
            raise ValueError("privacy.trust = 'secure-sum' wants patients, of all hospitals")
        if self._shares_noise and self.privacy.tolerated < 1:
            raise ValueError(
                "privacy.trust = 'secure-sum' wants privacy.tolerated of 1 or more between "
                "hospitals: with 0 any two that talk to each other see through the noise"
            )
        if self.keys is not None and (
            set(self.keys) != set(self.hospitals) or len(set(self.keys.values())) < len(self.keys)
        ):
            raise ValueError("keys does not name one key of its own for each hospital")
        if self.is_hidden and self.keys is None:
            raise ValueError(
                "a study that hides updates wants keys, of all its hospitals: a coordinator could "
                "make some up. Admit them all (evenhand federation admit), then write the draft "
                "again: evenhand study create"
            )
        return self

    @property
    def _shares_noise(self) -> bool:
        return self.arm == PRIVATE_ARM and self.privacy.trust == "secure-sum"

    @property
    def together(self) -> Together | None:
        """Who shares one noise, and that nobody sees a single update; None where none does."""
        if self.patients is None or not self.is_hidden:
            return None
        return Together(self.patients, len(self.hospitals), carrier="secure-aggregation")

    @property
    def roll(self) -> Roll:
        """The hospitals and their keys."""
        return Roll(self.keys or {})

    @property
    def rounds(self) -> int:
        """How often updates are put together."""
        private = self.arm == PRIVATE_ARM
        return self.privacy.rounds if private else self.federation.rounds

    @property
    def is_hidden(self) -> bool:
        """Whether the coordinator sees only sums of updates."""
        return self.federation.secure_sum or self._shares_noise

    def config(self) -> ExperimentConfig:
        """The terms as an experiment of one arm; it names no data: each hospital has its own."""
        return ExperimentConfig(
            name=self.name,
            seed=self.seed,
            arms=(self.arm,),
            data=DataConfig(
                source=Path("hospitals"),
                sequences=(self.sequence,),
                test_fraction=self.test_fraction,
            ),
            model=self.model,
            training=self.training,
            federation=self.federation,
            warm_start=self.warm_start,
            privacy=self.privacy,
        )

    @classmethod
    def of(
        cls,
        config: ExperimentConfig,
        *,
        arm: str,
        hospitals: tuple[str, ...],
        coordinator: CoordinatorIdentity,
        weights_sha256: str,
        purpose: str = "",
        patients: int | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> "StudyTerms":
        """The terms under which an experiment's arm becomes a study.

        Args:
            config: the experiment.
            arm: of it.
            hospitals: who takes part.
            coordinator: who leads.
            weights_sha256: of the frozen backbone.
            purpose: in words.
            patients: in training, of all hospitals together.
            keys: public keys of hospitals' nodes; they are in the study once all are known.

        Raises:
            ConfigError: the hospitals or the arm cannot be.
        """
        named = {name: keys[name] for name in hospitals if name in keys} if keys else {}
        try:
            return cls.model_validate(
                {
                    "name": config.name,
                    "purpose": purpose,
                    "created": datetime.now(UTC).date().isoformat(),
                    "evenhand": __version__,
                    "coordinator": coordinator.model_dump(),
                    "hospitals": hospitals,
                    "arm": arm,
                    "weights_sha256": weights_sha256,
                    "sequence": config.data.sequences[0],
                    "test_fraction": config.data.test_fraction,
                    "patients": patients,
                    "keys": named if set(named) == set(hospitals) else None,
                    "seed": config.seed,
                    "model": config.model.model_dump(),
                    "training": config.training.model_dump(),
                    "federation": config.federation.model_dump(),
                    "warm_start": config.warm_start.model_dump(),
                    "privacy": config.privacy.model_dump(),
                }
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            raise ConfigError(
                f"This cannot be a study: {f'{where}: ' if where else ''}{reason}."
            ) from None


class _Signature(Section):
    key: Hex64
    value: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class _StudyFile(StudyTerms):
    signature: _Signature | None = None


@dataclass(frozen=True)
class SignedStudy:
    """A study whose signature has been checked.

    Attributes:
        terms: what is agreed on.
        digest: SHA-256 of the signed bytes, hex: the study's name between hospitals.
        content: the whole file.
    """

    terms: StudyTerms
    digest: str
    content: bytes

    def check_version(self) -> None:
        """Refuse to run it with another version of Evenhand.

        Raises:
            FederationError: says which version is wanted and which is here.
        """
        if self.terms.evenhand != __version__:
            raise FederationError(
                f"The study {self.terms.name} was agreed on for Evenhand {self.terms.evenhand}; "
                f"this is {__version__}. Install that version, or have the study made anew."
            )


def write_draft(path: Path, terms: StudyTerms) -> None:
    """Write a study that nobody has signed yet.

    Raises:
        ConfigError: there is a file already.
        ResourceError: it cannot be written.
    """
    if path.exists():
        raise ConfigError(f"'{path}' is there already. Name another file with --out.")
    content = terms.model_dump(mode="json", exclude_none=True)
    write_atomically(path, tomli_w.dumps(content).encode())


def read_draft(path: Path) -> StudyTerms:
    """Read the terms of a study, signed or not, without believing them.

    Raises:
        ConfigError: the file, a key or a value is wrong; an unknown key names the nearest.
    """
    return _terms(load_section(path, _StudyFile))


def sign_study(path: Path, key: HospitalKey) -> SignedStudy:
    """Sign a draft in its place.

    Raises:
        ConfigError: the file is no study.
        FederationError: it is signed already, or by somebody else's key.
    """
    file = load_section(path, _StudyFile)
    if file.signature is not None:
        raise FederationError(
            f"'{path}' is signed already. To change it, make a new draft: evenhand study create"
        )
    if key.public != file.coordinator.public_key:
        raise FederationError(
            f"'{path}' names the coordinator {file.coordinator.name} with the key "
            f"{fingerprint_of(file.coordinator.public_key)}; the key here is "
            f"{fingerprint_of(key.public)}. Sign it where that coordinator is, or make a new draft."
        )
    body = path.read_bytes().rstrip(b"\n") + b"\n"
    table = f'key = "{key.public}"\nvalue = "{key.sign(_message(body))}"\n'
    write_atomically(path, body + _MARK.encode() + table.encode())
    return read_study(path)


def read_study(path: Path) -> SignedStudy:
    """Read a signed study and check it.

    Raises:
        ConfigError: the file, a key or a value is wrong.
        FederationError: nobody has signed it, or it was altered afterwards.
    """
    file = load_section(path, _StudyFile)
    content = path.read_bytes()
    body, mark, _ = content.rpartition(_MARK.encode())
    if file.signature is None or not mark:
        raise FederationError(
            f"'{path}' is not signed. The coordinator signs it: evenhand study sign STUDY.toml"
        )
    if file.signature.key != file.coordinator.public_key or not is_signed(
        file.signature.key, _message(body), file.signature.value
    ):
        raise FederationError(
            f"'{path}' was altered after it was signed, or signed by somebody else. "
            "Nothing of it is run. Get the file from the coordinator again."
        )
    return SignedStudy(_terms(file), hashlib.sha256(body).hexdigest(), content)


def _terms(file: _StudyFile) -> StudyTerms:
    return StudyTerms.model_validate(file.model_dump(exclude={"signature"}))


def _message(body: bytes) -> bytes:
    return b"evenhand study " + hashlib.sha256(body).hexdigest().encode()
