"""`evenhand federation status` in the terminal: hospitals, studies, rounds, and who was missing."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from evenhand.experiment.federation_view import FederationView, RoundView, StudyView
from evenhand_federated.coordinator import CoordinatorFolder
from evenhand_federated.overview import overview_of

__all__ = ["show"]

_POLL_S = 2.0
_PIPE_WIDTH = 160
"""Columns where no terminal shows them."""


def show(folder: CoordinatorFolder, *, follow: bool) -> None:
    """Print it once, or until every study has ended."""
    out = Console()
    if not out.is_terminal:
        out = Console(width=_PIPE_WIDTH)
    view = overview_of(folder)
    if not follow:
        out.print(_page(view))
        return
    with Live(_page(view), console=out, auto_refresh=False) as live:
        while any(one.status in ("running", "waiting") for one in view.studies):
            time.sleep(_POLL_S)
            view = overview_of(folder)
            live.update(_page(view), refresh=True)


def _page(view: FederationView) -> Group:
    members = Table("hospital", "admitted", "key", title="Hospitals")
    for member in view.members:
        members.add_row(member.hospital, member.admitted_at, member.key)
    parts: list[Any] = [members]
    for study in view.studies:
        parts += _study(study)
    parts += [f"Cannot be read: {fault}" for fault in view.damaged]
    return Group(*parts)


def _study(study: StudyView) -> list[Any]:
    title = f"{study.name} ({study.digest[:16]}): {study.status}"
    table = Table(
        *("round", "seconds", "answered", "missing", "last loss", "epsilon", "sent (kB)"),
        title=f"{title}, {study.done} of {study.rounds} rounds",
    )
    for one in study.tried:
        table.add_row(*_row(one, study.rounds))
    lines: list[Any] = [table]
    if study.reason:
        lines.append(f"Reason: {study.reason}")
    if study.seconds_left is not None:
        lines.append(f"About {study.seconds_left / 60:.1f} minutes are left.")
    if study.adapter:
        lines.append(f"Adapter: {study.adapter}")
    return lines


def _row(one: RoundView, rounds: int) -> tuple[str, ...]:
    missing = [name if why == "silent" else f"{name} ({why})" for name, why in one.missing.items()]

    def of_all(figures: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in figures.items()) or "not told"

    return (
        f"{one.number} of {rounds}",
        f"{one.seconds:.0f}",
        ", ".join(one.answered),
        ", ".join(missing) or "nobody",
        of_all(one.losses),
        of_all(one.epsilon),
        f"{one.bytes_sent / 1000:.0f}",
    )
