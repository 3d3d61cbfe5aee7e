"""What should be right before the first round, looked at one by one: `evenhand doctor`."""

import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path

import httpx

from evenhand import __version__
from evenhand.cases.store import CaseStore
from evenhand.errors import EvenhandError
from evenhand.model.weights import verify
from evenhand_federated.certificates import EXPIRY_DAYS, days_left, node_key_of
from evenhand_federated.coordinator import CoordinatorFolder
from evenhand_federated.hospital import HospitalFolder

__all__ = ["Finding", "examine_coordinator", "examine_hospital"]

FLOWER = "1.41."
"""The version that the site guard and the messages are written for."""

_AHEAD_S, _BEHIND_S = 5.0, 300.0
"""How far a node's clock may be off: flwr 1.41 takes signed times of -5 to 305 s ago."""
_DISK_LIMIT_GB = 2.0
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        said: what was found.
        fix: what to do; empty where nothing is wrong.
    """

    name: str
    said: str
    fix: str = ""


def examine_hospital(folder: HospitalFolder) -> Iterator[Finding]:
    """Everything that a hospital's node stands on."""
    settings = folder.settings()
    yield _guarded("node's key", lambda: _node_key(folder))
    yield _versions()
    yield _disk(folder.path)
    authority = folder.authority_path
    renew = "it runs out: ask the coordinator for a new invitation, and join again"
    yield _guarded("authority", lambda: _certificate("authority", authority, renew))
    yield from _coordinator_reached(settings.address, authority)
    yield _guarded("cases", lambda: _cases(settings.store))
    yield _guarded("site policy", lambda: _policy(folder))
    yield _guarded("message log", lambda: _log(folder))
    studies = folder.approved_digests()
    if not studies:
        yield Finding(
            "studies", "none is approved", "evenhand federation approve STUDY.toml HOSPITAL --hash"
        )
    for digest in studies:
        yield _guarded(f"study {digest[:12]}", lambda digest=digest: _study(folder, digest))  # type: ignore[misc]


def examine_coordinator(folder: CoordinatorFolder) -> Iterator[Finding]:
    """Everything that a coordinator stands on."""
    settings = folder.settings()
    yield _versions()
    yield _disk(folder.path)
    authority, door = folder.path / "ca.crt", folder.path / "server.crt"
    anew = "it runs out: make a coordinator in another folder, and invite the hospitals anew"
    yield _guarded("authority", lambda: _certificate("authority", authority, anew))
    renew = "it runs out: serve again, which renews it"
    yield _guarded("certificate", lambda: _certificate("certificate", door, renew))
    yield from _coordinator_reached(f"{settings.host}:{settings.port}", authority)
    members = folder.members()
    waiting = [one.hospital for one in members.values() if one.node_id is None]
    fix = "" if members else "evenhand federation invite HOSPITAL --out FILE"
    if waiting:
        fix = "evenhand federation serve: they are let in when it runs"
    said = f"{len(members)} admitted, {len(waiting)} not known to the link yet"
    yield Finding("hospitals", said, fix)


def _guarded(name: str, look: Callable[[], Finding]) -> Finding:
    """A look that fails is a finding."""
    try:
        return look()
    except EvenhandError as error:
        return Finding(name, "not right", str(error))
    except (OSError, ValueError) as error:
        return Finding(name, "cannot be read", f"{type(error).__name__}; put the file right.")


def _node_key(folder: HospitalFolder) -> Finding:
    node_key_of(folder.key_path)
    return Finding("node's key", "there, and its owner's alone")


def _versions() -> Finding:
    flower = version("flwr")
    fix = "" if flower.startswith(FLOWER) else f"install flwr {FLOWER}*: make install"
    return Finding("versions", f"Evenhand {__version__}, Flower {flower}", fix)


def _disk(path: Path) -> Finding:
    free = shutil.disk_usage(path).free / 1e9
    fix = "" if free >= _DISK_LIMIT_GB else f"free some: {_DISK_LIMIT_GB:g} GB are wanted"
    return Finding("disk", f"{free:.1f} GB free", fix)


def _certificate(name: str, path: Path, fix: str) -> Finding:
    left = days_left(path)
    return Finding(name, f"valid for {left} days", fix if left <= EXPIRY_DAYS else "")


def _coordinator_reached(address: str, authority: Path) -> Iterator[Finding]:
    """Reachability, TLS and the clock, each by what stands on it."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_TIMEOUT_S).close()
    except OSError as error:
        why = error.strerror or type(error).__name__
        fix = f"is the coordinator serving, and does the firewall let calls to port {port} out?"
        yield Finding("coordinator", f"{address} is not reached: {why}", fix)
        return
    try:
        context = ssl.create_default_context(cafile=str(authority))
        with httpx.Client(verify=context, trust_env=False, timeout=_TIMEOUT_S) as client:
            answer = client.get(f"https://{address}/doctor")
    except (httpx.HTTPError, OSError):
        fix = "somebody stands between, or the authority is another one's: ask the coordinator"
        yield Finding("coordinator", f"{address} is not the one of the invitation", fix)
        return
    yield Finding("coordinator", f"{address} is reached, and it is the right one")
    if "date" in answer.headers:
        away = parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
        fix = "" if -_AHEAD_S <= away <= _BEHIND_S else "set the clock, for instance with NTP"
        side = "ahead of" if away < 0 else "behind"
        yield Finding("clock", f"{abs(away):.0f} s {side} the coordinator's", fix)


def _cases(store: Path) -> Finding:
    opened = CaseStore(store)
    people = {case.patient.patient_id for case in opened}
    fix = "" if len(people) >= 2 else "training and testing need two: evenhand ingest"
    return Finding("cases", f"{len(people)} patients of {opened.hospital}", fix)


def _policy(folder: HospitalFolder) -> Finding:
    policy = folder.site().policy()
    arms = ", ".join(policy.training.arms) or "no training"
    unlimited = policy.budget.maximum_epsilon is None and "*" in policy.grants.by
    fix = "write one: without it everything is allowed (configs/site-policy.toml)"
    return Finding("site policy", f"allows {arms}", fix if unlimited else "")


def _log(folder: HospitalFolder) -> Finding:
    log = folder.messages()
    faults = log.faults()
    way_out = "Put messages.jsonl and messages.head aside and keep them; new ones are begun."
    fix = f"{faults[0]} {way_out}" if faults else ""
    return Finding("message log", f"{len(log.entries())} lines", fix)


def _study(folder: HospitalFolder, digest: str) -> Finding:
    study = folder.approved(digest)
    verify(study.terms.model.backbone)
    patients = len(folder.train_patients(study))
    return Finding(f"study {digest[:12]}", f"{study.terms.name}: {patients} patients train")
