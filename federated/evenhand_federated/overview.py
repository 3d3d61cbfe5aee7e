"""What a coordinator's folder says about its hospitals, studies and rounds."""

from pathlib import Path
from typing import Any

from evenhand.experiment.federation_view import FederationView, MemberView, RoundView, StudyView
from evenhand_federated.certificates import key_name_of
from evenhand_federated.checkpoint import finished_rounds
from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator
from evenhand_federated.study import SignedStudy

__all__ = ["overview_at", "overview_of"]


def overview_at(path: Path | None) -> FederationView:
    """Of a coordinator's folder; None: the one in $EVENHAND_HOME.

    Raises:
        ConfigError: there is no coordinator.
    """
    return overview_of(CoordinatorFolder(path or default_coordinator()))


def overview_of(folder: CoordinatorFolder) -> FederationView:
    """As `overview_at`, of a folder that is open."""
    folder.settings()
    members = tuple(
        MemberView(one.hospital, one.admitted_at, key_name_of(one.public_key))
        for one in folder.members().values()
    )
    studies = tuple(_study(folder, one) for one in folder.studies())
    return FederationView(members, studies, tuple(map(str, folder.damaged())))


def _study(folder: CoordinatorFolder, study: SignedStudy) -> StudyView:
    terms, arm = study.terms, folder.arm(study.digest)
    state, done = folder.state(study.digest), finished_rounds(arm)
    status: str = state.status
    if status == "submitted":
        status = "running" if folder.is_running(study.digest) else "waiting"
    tried = tuple(_round(record) for record in arm.read_rounds())
    left = None
    if status == "running" and tried:
        left = (terms.rounds - done) * sum(one.seconds for one in tried) / len(tried)
    return StudyView(
        name=terms.name,
        digest=study.digest,
        status=status,
        done=done,
        rounds=terms.rounds,
        tried=tried,
        reason=state.reason,
        seconds_left=left,
        adapter=str(arm.adapter_path) if status == "finished" else "",
    )


def _round(record: Any) -> RoundView:
    hospitals = record["hospitals"]

    def of_all(key: str) -> dict[str, float]:
        return {name: one[key] for name, one in sorted(hospitals.items()) if key in one}

    return RoundView(
        number=record["round"],
        seconds=record["seconds"],
        answered=tuple(sorted(hospitals)),
        missing=dict(sorted(record["failed"].items())) | dict.fromkeys(record["silent"], "silent"),
        losses=of_all("last_loss"),
        epsilon=of_all("epsilon"),
        bytes_sent=sum(one["bytes"] for one in hospitals.values()),
        bytes_received=sum(one["bytes_down"] for one in hospitals.values()),
    )
