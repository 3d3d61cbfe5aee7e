"""A hospital's place in a federation: its node's key, whom it trusts, which studies it approved.

FOLDER/node.toml              hospital, coordinator, address, store
FOLDER/ca.crt                 the only authority that it trusts
FOLDER/node.key               P-384, made here, never leaves
FOLDER/approved/DIGEST.toml   studies that this hospital approved
FOLDER/messages.jsonl         what came, what left, what was refused
FOLDER/studies/DIGEST/        split, embeddings, receipts, its own log in full
FOLDER/programs/              what the SuperNode may start (`evenhand_federated.site_guard`)
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tomli_w
from pydantic import Field

from evenhand.artifacts import write_atomically
from evenhand.cases.splits import Split, split_patients
from evenhand.cases.store import CaseStore
from evenhand.config import Section
from evenhand.config_files import load_section
from evenhand.errors import ConfigError, FederationError, StoreError
from evenhand.experiment.layout import HospitalHome, build_model
from evenhand.home import evenhand_home
from evenhand.privacy.keys import fingerprint_of
from evenhand.privacy.policy import Proposal
from evenhand.privacy.site import Site
from evenhand_federated.certificates import make_node_key, node_key_of
from evenhand_federated.enrolment import EnrolmentAnswer, Invitation
from evenhand_federated.message_log import MessageLog
from evenhand_federated.study import CoordinatorIdentity, Name, SignedStudy, read_study

if TYPE_CHECKING:
    from evenhand.model.adapted import AdaptedModel

__all__ = [
    "NODE_VARIABLE",
    "HospitalFolder",
    "NodeSettings",
    "default_hospital",
    "join_adapter",
    "prepare",
]

NODE_VARIABLE = "EVENHAND_NODE"
"""Names the hospital's folder to the processes of its node."""

_SHORTEST_HASH = 16


def default_hospital(hospital: str) -> Path:
    """Where a hospital's node lives, if not said otherwise."""
    return Site.of(hospital).path / "federation"


class NodeSettings(Section):
    """`node.toml`."""

    hospital: Name
    coordinator: CoordinatorIdentity
    address: Annotated[str, Field(pattern=r"^[^\s:]+:\d+$")]
    """Of the coordinator's door."""
    store: Path
    """The hospital's case store."""
    home: Path
    """Where ledger, key and site policy are: $EVENHAND_HOME when the hospital joined."""


@dataclass(frozen=True)
class HospitalFolder:
    """One hospital's node on disk."""

    path: Path

    @classmethod
    def of_environment(cls) -> "HospitalFolder":
        """The hospital whose node started this process.

        Raises:
            FederationError: no node did.
        """
        folder = os.environ.get(NODE_VARIABLE)
        if not folder:
            raise FederationError(f"{NODE_VARIABLE} is not set: no hospital to work for.")
        return cls(Path(folder))

    @classmethod
    def join(cls, path: Path, invitation: Invitation, store: Path) -> "HospitalFolder":
        """Make a node from an invitation: its key pair, its settings.

        Raises:
            FederationError: the invitation was altered, or there is a node already.
            StoreError: the store is missing or another hospital's.
        """
        own = cls(path)
        invitation.check()
        if own.settings_path.exists():
            raise FederationError(
                f"'{path}' holds a node already. Start it: evenhand federation node "
                f"{invitation.hospital}. For another federation choose another --folder."
            )
        owner = CaseStore(store).hospital
        if owner != invitation.hospital:
            raise StoreError(
                f"The invitation is for hospital {invitation.hospital}; '{store}' is the store of "
                f"{owner}. Name the right store with --store."
            )
        settings = NodeSettings(
            hospital=invitation.hospital,
            coordinator=invitation.coordinator,
            address=invitation.address,
            store=store.resolve(),
            home=evenhand_home().resolve(),
        )
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        public = make_node_key(own.key_path)
        answer = EnrolmentAnswer(hospital=invitation.hospital, public_key=public)
        write_atomically(own.authority_path, invitation.authority.encode())
        write_atomically(own.answer_path, tomli_w.dumps(answer.model_dump()).encode())
        content = tomli_w.dumps(settings.model_dump(mode="json"))
        write_atomically(own.settings_path, content.encode())
        return own

    @property
    def settings_path(self) -> Path:
        """Written last: where it is, the node is whole."""
        return self.path / "node.toml"

    @property
    def key_path(self) -> Path:
        """The node's private key."""
        return self.path / "node.key"

    @property
    def authority_path(self) -> Path:
        """The coordinator's authority."""
        return self.path / "ca.crt"

    @property
    def answer_path(self) -> Path:
        """What goes back to the coordinator."""
        return self.path / "answer.toml"

    @property
    def programs_path(self) -> Path:
        """Wrappers of what the SuperNode may start."""
        return self.path / "programs"

    def settings(self) -> NodeSettings:
        """Whose node this is.

        Raises:
            ConfigError: there is no node here.
        """
        if not self.settings_path.exists():
            raise ConfigError(
                f"There is no node in '{self.path}'. Make one from the coordinator's invitation: "
                "evenhand federation join FILE --store STORE, or name its folder with --folder."
            )
        return load_section(self.settings_path, NodeSettings)

    def site(self) -> Site:
        """The hospital's own place, with ledger and policy."""
        settings = self.settings()
        return Site.of(settings.hospital, settings.home)

    def messages(self) -> MessageLog:
        """The log of messages."""
        return MessageLog(self.path / "messages.jsonl", self.site().key())

    def approve(self, study: SignedStudy, digest: str) -> None:
        """Approve a study by its hash, after the site policy and the hospital's data allow it.

        Args:
            study: its signature is checked already.
            digest: what the coordinator has told by another way; 16 digits at least.

        Raises:
            FederationError: another hash, coordinator, version, list of hospitals, or another key
                under this hospital's name.
            PolicyError: the site policy does not allow it.
        """
        settings, terms = self.settings(), study.terms
        if len(digest) < _SHORTEST_HASH or not study.digest.startswith(digest.lower()):
            raise FederationError(
                f"The hash of this study is {study.digest}, not '{digest}' ({_SHORTEST_HASH} "
                "digits are needed). Ask the coordinator, by telephone, which one it signed."
            )
        if terms.coordinator != settings.coordinator:
            raise FederationError(
                f"This node works with the coordinator {settings.coordinator.name} "
                f"({fingerprint_of(settings.coordinator.public_key)}), and the study is "
                f"{terms.coordinator.name}'s ({fingerprint_of(terms.coordinator.public_key)})."
            )
        if settings.hospital not in terms.hospitals:
            raise FederationError(
                f"The study {terms.name} does not name {settings.hospital}; it is for "
                f"{', '.join(terms.hospitals)}."
            )
        named = terms.roll.keys.get(settings.hospital)
        if terms.keys is not None and named != node_key_of(self.key_path):
            raise FederationError(
                f"The study {terms.name} names another key for {settings.hospital} than that of "
                "this node. Ask the coordinator whom it admitted under this name."
            )
        study.check_version()
        split = self._split(study)
        config = terms.config()
        policy = self.site().policy()
        tensors, leaving = _tensors_of(study) if policy.names_tensors else ((), ())
        proposal = Proposal.of(
            config,
            terms.arm,
            hospital=settings.hospital,
            patients=len(split.train[settings.hospital]),
            tensors=tensors,
            leaving=leaving,
            carrier=terms.together.carrier if terms.together else None,
        )
        policy.check(proposal)
        home = self.home(study)
        home.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        link = home.path / "store"
        if link.is_symlink() and link.readlink() != settings.store:
            link.unlink()  # to a store that was moved since
        if not link.exists():
            link.symlink_to(settings.store, target_is_directory=True)
        write_atomically(self._split_path(study.digest), split.to_json().encode())
        write_atomically(self._approved_path(study.digest), study.content)

    def approved(self, digest: str) -> SignedStudy:
        """A study that this hospital approved, checked again.

        Raises:
            FederationError: it did not, or the file was altered since.
        """
        path = self._approved_path(digest)
        if not path.is_file():
            raise FederationError(f"This hospital has not approved the study {digest[:16]}.")
        study = read_study(path)
        if study.digest != digest or study.terms.coordinator != self.settings().coordinator:
            raise FederationError(f"'{path}' is not the study {digest[:16]} that was approved.")
        study.check_version()
        return study

    def approved_digests(self) -> list[str]:
        """Hashes of all approved studies."""
        return sorted(path.stem for path in (self.path / "approved").glob("*.toml"))

    def home(self, study: SignedStudy) -> HospitalHome:
        """What the hospital keeps of a study."""
        return _Home(
            self.path / "studies" / study.digest / self.settings().hospital, own_site=self.site()
        )

    def train_patients(self, study: SignedStudy) -> tuple[str, ...]:
        """Who trains in a study; the others were put aside for testing."""
        split = Split.from_json(self._split_path(study.digest).read_text("utf-8"))
        return split.train[self.settings().hospital]

    def _split(self, study: SignedStudy) -> Split:
        terms = study.terms
        store = CaseStore(self.settings().store)
        return split_patients([store], test_fraction=terms.test_fraction, seed=terms.seed)

    def _split_path(self, digest: str) -> Path:
        return self.path / "studies" / digest / "splits.json"

    def _approved_path(self, digest: str) -> Path:
        # A digest may come from a message: it must not lead out of the folder.
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise FederationError("A study is named by a SHA-256; something else came.")
        return self.path / "approved" / f"{digest}.toml"


@dataclass(frozen=True)
class _Home(HospitalHome):
    """A hospital's folder for one study; its ledger is the one of all its studies."""

    own_site: Site | None = None

    def site(self) -> Site:
        return self.own_site or super().site()


def _model_of(study: SignedStudy) -> "AdaptedModel":
    """The model of a study, with the weights that it names.

    Raises:
        FederationError: this version knows other weights.
        WeightsError: they cannot be had.
    """
    from evenhand.model.weights import fetch, find

    terms = study.terms
    if find(terms.model.backbone).sha256 != terms.weights_sha256:
        raise FederationError(
            f"The study wants the weights {terms.weights_sha256[:12]} of {terms.model.backbone}; "
            f"this version of Evenhand knows {find(terms.model.backbone).sha256[:12]}."
        )
    fetch(terms.model.backbone)
    return build_model(terms.config())


def _tensors_of(study: SignedStudy) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a study trains, and what of it leaves, by name."""
    from evenhand_federated.node import trained_and_leaving

    return trained_and_leaving(study.terms.config(), study.terms.arm, _model_of(study))


def prepare(folder: HospitalFolder, study: SignedStudy) -> int:
    """Compute what training reads, so that no round waits for it; returns slices computed.

    Raises:
        FederationError: this version knows other weights than the study names.
        WeightsError: the weights are missing.
    """
    model, home = _model_of(study), folder.home(study)
    store, cache = home.store(), home.cache(model, study.terms.sequence)
    missing = cache.missing(store)
    cache.fill(store, missing, lambda _: None)
    return sum(case.shape[2] for case in missing)


def join_adapter(folder: HospitalFolder, adapter: Path, out: Path) -> None:
    """Write a study's adapter with this hospital's own part in it.

    Raises:
        FederationError: the adapter is of no study that was approved here, or this hospital has
            no part of its own in it.
        AdapterError: the file is damaged or fits another model.
    """
    from evenhand.model.adapter_files import load_onto, read_adapter, save_adapter
    from evenhand.training.moments import read_moments
    from evenhand.training.personal import own_part

    file = read_adapter(adapter)
    study = folder.approved(str(file.training.get("study", "")))
    terms, home = study.terms, folder.home(study)
    rounds = home.rounds_kept(terms.arm)
    if not terms.federation.local_parts or not rounds:
        raise FederationError(
            f"Nothing of the study {terms.name} stayed at {folder.settings().hospital}: the "
            "adapter is whole as it came."
        )
    model = build_model(terms.config())
    load_onto(adapter, model)
    own = own_part(read_moments(home.moments_path(terms.arm, rounds[-1])))
    model.load_adapter({**model.adapter_state(), **own})
    save_adapter(
        out,
        model,
        config_fingerprint=file.config_fingerprint,
        training={**file.training, "own_part_of": folder.settings().hospital, "local_parts": []},
    )
