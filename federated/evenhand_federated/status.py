"""What a coordinator sees: hospitals, studies, rounds, and who was missing."""

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from evenhand_federated.certificates import key_name_of
from evenhand_federated.checkpoint import finished_rounds
from evenhand_federated.coordinator import CoordinatorFolder
from evenhand_federated.study import SignedStudy

__all__ = ["show"]

_POLL_S = 2.0
_PIPE_WIDTH = 160
"""Columns where no terminal shows them."""


def show(folder: CoordinatorFolder, *, follow: bool) -> None:
    """Print it once, or until every study has ended."""
    folder.settings()
    out = Console()
    if not out.is_terminal:
        out = Console(width=_PIPE_WIDTH)
    if not follow:
        out.print(_page(folder))
        return
    with Live(_page(folder), console=out, auto_refresh=False) as live:
        while any(folder.state(one.digest).status == "submitted" for one in folder.studies()):
            time.sleep(_POLL_S)
            live.update(_page(folder), refresh=True)
        live.update(_page(folder), refresh=True)


def _page(folder: CoordinatorFolder) -> Group:
    members = Table("hospital", "admitted", "key", title="Hospitals")
    for member in folder.members().values():
        members.add_row(member.hospital, member.admitted_at, key_name_of(member.public_key))
    parts: list[Any] = [members]
    for study in folder.studies():
        parts += _study(folder, study)
    parts += [f"Cannot be read: {fault}" for fault in folder.damaged()]
    return Group(*parts)


def _study(folder: CoordinatorFolder, study: SignedStudy) -> list[Any]:
    terms, arm = study.terms, folder.arm(study.digest)
    state, done = folder.state(study.digest), finished_rounds(arm)
    status = state.status
    if status == "submitted":
        status_text = "running" if folder.is_running(study.digest) else "waiting"
    else:
        status_text = status
    table = Table(
        *("round", "seconds", "answered", "missing", "last loss", "epsilon", "sent (kB)"),
        title=f"{terms.name} ({study.digest[:16]}): {status_text}, {done} of {terms.rounds} rounds",
    )
    records: list[Any] = arm.read_rounds()
    for record in records:
        table.add_row(*_row(record))
    lines: list[Any] = [table]
    if state.reason:
        lines.append(f"Reason: {state.reason}")
    if status_text == "running" and records:
        seconds = sum(record["seconds"] for record in records) / len(records)
        lines.append(f"About {(terms.rounds - done) * seconds / 60:.1f} minutes are left.")
    if status == "finished":
        lines.append(f"Adapter: {arm.adapter_path}")
    return lines


def _row(record: Any) -> tuple[str, ...]:
    hospitals = record["hospitals"]
    missing = [f"{name} ({why})" for name, why in sorted(record["failed"].items())]
    missing += record["silent"]

    def of_all(key: str) -> str:
        found = [f"{name} {one[key]:.3g}" for name, one in sorted(hospitals.items()) if key in one]
        return ", ".join(found) or "not told"

    return (
        f"{record['round']} of {record['rounds']}",
        f"{record['seconds']:.0f}",
        ", ".join(sorted(hospitals)),
        ", ".join(missing) or "nobody",
        of_all("last_loss"),
        of_all("epsilon"),
        f"{sum(one['bytes'] for one in hospitals.values()) / 1000:.0f}",
    )
