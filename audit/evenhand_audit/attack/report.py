"""What the attacks found: `attack.json` for programs, a page and a section for a data officer.

`attack_section` is the part that an audit report or a model card can show as it is.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from evenhand.artifacts import write_atomically
from evenhand_audit.attack.canaries import CanaryAudit
from evenhand_audit.attack.checks import Check
from evenhand_audit.attack.membership import Membership
from evenhand_audit.attack.reconstruction import Reconstruction

__all__ = [
    "ATTACK_SCHEMA_VERSION",
    "AttackReport",
    "Target",
    "attack_section",
    "verdict_of",
    "write_attack",
]

ATTACK_SCHEMA_VERSION = 1
"""Raised when the layout of attack.json changes."""


@dataclass(frozen=True)
class Target:
    """What was attacked.

    Attributes:
        name: of the run, or of what stands for it.
        epsilon: that was promised to each patient.
        delta: of the promise.
        patients: over whom noise is shared.
        phantoms: no real patient was involved.
    """

    name: str
    epsilon: float
    delta: float
    patients: int
    phantoms: bool


@dataclass(frozen=True)
class AttackReport:
    """All results of one command.

    Attributes:
        target: what was attacked.
        canaries: one audit, where it was asked for.
        membership: attacks by what they attacked, such as `federated-private`.
        reconstruction: without noise first, then with the promised noise.
        checks: of the code.
    """

    target: Target
    canaries: CanaryAudit | None = None
    membership: Mapping[str, tuple[Membership, ...]] = field(default_factory=dict)
    reconstruction: tuple[Reconstruction, ...] = ()
    checks: tuple[Check, ...] = ()

    def record(self) -> dict[str, Any]:
        """As plain values, as in attack.json."""
        verdict, sentence = verdict_of(self)
        return {
            "schema_version": ATTACK_SCHEMA_VERSION,
            "evenhand": version("evenhand"),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "verdict": verdict,
            "sentence": sentence,
            "target": {
                "name": self.target.name,
                "epsilon": self.target.epsilon,
                "delta": self.target.delta,
                "patients": self.target.patients,
                "phantoms": self.target.phantoms,
            },
            "canaries": self.canaries.record() if self.canaries else None,
            "membership": {
                name: [each.record() for each in attacks]
                for name, attacks in self.membership.items()
            },
            "reconstruction": [each.record() for each in self.reconstruction],
            "checks": [each.record() for each in self.checks],
        }


def verdict_of(report: AttackReport) -> tuple[str, str]:
    """`broken` or `held`, and a sentence: what was broken, or what was tried in vain."""
    failed = [check.name for check in report.checks if not check.passed]
    if failed:
        return "broken", f"The code does not do what was promised: {', '.join(failed)}."
    audit = report.canaries
    if audit is not None and not audit.holds:
        return "broken", (
            f"The attack proves epsilon of at least {audit.epsilon_proven:.2f}; at most "
            f"{audit.epsilon_claimed:.2f} was promised (delta {audit.delta:g})."
        )
    if audit is None:
        return "held", "No check found a fault. No attack on the promise itself was run."
    return "held", (
        f"The attack proves epsilon of at least {audit.epsilon_proven:.2f}. Promised is at most "
        f"{audit.epsilon_claimed:.2f} (both at delta {audit.delta:g}). The promise stands; what "
        "lies between is not proven either way."
    )


def write_attack(report: AttackReport, out_dir: Path) -> Path:
    """Write attack.json and index.html into a folder; return the page's path."""
    record = report.record()
    text = json.dumps(record, indent=1, allow_nan=False)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(out_dir / "attack.json", f"{text}\n".encode())
    page = (
        _environment()
        .get_template("attack.html.j2")
        .render(record=record, section=attack_section(record))
    )
    index = out_dir / "index.html"
    write_atomically(index, page.encode())
    return index


def attack_section(record: Mapping[str, Any]) -> str:
    """One HTML section from the content of attack.json, for a report or a model card."""
    template = _environment().get_template("attack_section.html.j2")
    return template.render(record=record, scale=_scale(record))


def _scale(record: Mapping[str, Any]) -> dict[str, float] | None:
    """Places on a line from 0 to a bit beyond the larger epsilon, in percent."""
    audit = record["canaries"]
    if audit is None:
        return None
    end = 1.15 * max(audit["epsilon_claimed"], audit["epsilon_proven"], 0.1)
    return {
        "end": end,
        "claimed": 100 * audit["epsilon_claimed"] / end,
        "proven": 100 * audit["epsilon_proven"] / end,
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evenhand_audit"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = _percent
    return environment


def _percent(share: float) -> str:
    if math.isclose(share, round(share, 2)):
        return f"{share:.0%}"
    return f"{share:.1%}"
