"""The report: one self-contained HTML page for people, `audit.json` for programs.

Neither holds a patient's or a case's id. The page loads nothing from elsewhere. Its one script,
which is inside it, sorts tables when a heading is clicked; without scripts it reads the same.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from evenhand.artifacts import file_sha256, read_prediction_table, write_atomically
from evenhand.config import AuditConfig
from evenhand_audit.analysis import audit_table
from evenhand_audit.plots import arms_plot, forest_plot, scatter_plot
from evenhand_audit.records import ArmAudit, Audit, Check, Estimate
from evenhand_audit.register import Register
from evenhand_audit.thresholds import verdict_of
from evenhand_audit.words import (
    UNKNOWN_FIGURE,
    adjusted_in_words,
    arm_name,
    attribute_name,
    finding_of,
    group_name,
    headline_arm,
    number,
    p_text,
    unseen_misses,
)

__all__ = [
    "REPORT_SCHEMA_VERSION",
    "AuditedTable",
    "audit_file",
    "write_audit",
    "write_report",
]

REPORT_SCHEMA_VERSION = 2
"""Raised when the layout of audit.json changes. 2 added tests, pairs, limits and effects."""

NO_FACTS: dict[str, Any] = {
    "epsilon": None,
    "attack": None,
    "seconds": None,
    "bytes_moved": None,
    "note": "",
    "train_patients": None,
}
"""What is known of an arm when the run says nothing."""

VERSIONS = ("evenhand", "fairlearn", "numpy", "scipy", "statsmodels")
"""Distributions that a report's figures come from."""

TITLE = "Subgroup audit"
"""Heading where the run gives none."""


@dataclass(frozen=True, eq=False)
class AuditedTable:
    """A prediction table and what the audit found in it."""

    audit: Audit
    table: pd.DataFrame
    origin: dict[str, Any]
    """Name, hash and sidecar of the table, versions of what judged it."""
    register: Register | None = None
    """Where the report is noted when it is written."""


def write_audit(
    table_path: Path,
    out_dir: Path,
    *,
    config: AuditConfig,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Audit a prediction table and write `index.html` and `audit.json` into `out_dir`.

    Args:
        table_path: the prediction table; its sidecar, where there is one, is checked.
        out_dir: made if need be.
        config: attributes, age edges, minimum group, resamples.
        facts: what the run knows beyond the table, all optional: `title`; `arms`, by arm name
            `epsilon` (by hospital: `epsilon`, `delta`, `unit`, `accountant`, `trust`), `seconds`,
            `bytes_moved`, `note`, `train_patients`, `attack` (a sentence); `notes`;
            `left_out` (hospital: reason);
            `weights`; `planted_bias` (of phantoms: `attribute`, `value`,
            `contrast_ratio`).

    Returns:
        The path of index.html.

    Raises:
        DataError: the table is damaged, or holds too few patients.
        UsageError: an attribute is not one of a table, or is named twice.
        ResourceError: the report cannot be written.
    """
    return write_report(audit_file(table_path, config), out_dir, facts=facts or {})


def audit_file(table_path: Path, config: AuditConfig) -> AuditedTable:
    """Read a prediction table and judge it, writing nothing; errors as in `write_audit`."""
    table, meta = read_prediction_table(table_path, attributes=config.attributes)
    register = Register(config.register_file) if config.register_file else None
    audit = audit_table(table, config, register=register)
    return AuditedTable(
        audit,
        table,
        _origin(table_path, meta, [str(column) for column in table.columns], config),
        register,
    )


def write_report(audited: AuditedTable, out_dir: Path, *, facts: Mapping[str, Any]) -> Path:
    """Write index.html and audit.json of a judged table; `facts` as in `write_audit`."""
    audit = audited.audit
    page = _page(audited, facts)
    findings = [found for found in map(finding_of, audit.arms) if found is not None]
    record = {
        "schema_version": REPORT_SCHEMA_VERSION,
        "origin": audited.origin,
        "audit": asdict(audit),
        "findings": [asdict(found) for found in findings],
        "facts": facts,
    }
    text = json.dumps(_plain(record), indent=1, allow_nan=False)
    if audited.register is not None:
        audited.register.save()  # first: a report that is out must be known
    write_atomically(out_dir / "audit.json", f"{text}\n".encode())
    index = out_dir / "index.html"
    write_atomically(index, page.encode())
    return index


def _origin(
    table_path: Path, meta: Mapping[str, Any], columns: Sequence[str], config: AuditConfig
) -> dict[str, Any]:
    asked = config.model_dump(mode="json", exclude={"register_file"})
    canonical = json.dumps(asked, sort_keys=True).encode()
    return {
        "table": table_path.name,
        "table_sha256": file_sha256(table_path),
        "vouched_by_sidecar": table_path.with_suffix(".json").exists(),
        "columns": columns,
        "config": asked,
        "config_sha256": hashlib.sha256(canonical).hexdigest(),
        "code_sha256": _code_sha256(),
        "meta": dict(meta),
        "versions": {name: version(name) for name in VERSIONS},
    }


def _code_sha256() -> str:
    """Hash of this package's modules, so that a report names the code that made it."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Make a record valid JSON: an infinite bound becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _page(audited: AuditedTable, facts: Mapping[str, Any]) -> str:
    audit = audited.audit
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evenhand_audit"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        number=number, interval=_interval, duration=_duration, megabytes=_megabytes,
        attribute=attribute_name, arm=arm_name, like_patients=adjusted_in_words, p=p_text,
        group_name=group_name,
    )  # fmt: skip
    told: Mapping[str, Any] = facts.get("arms") or {}
    lead = headline_arm(audit)
    leading = finding_of(lead)
    others = [finding_of(arm) for arm in audit.arms if arm is not lead]
    return environment.get_template("report.html.j2").render(
        audit=audit,
        facts=facts,
        origin=audited.origin,
        title=facts.get("title") or TITLE,
        arm_facts={arm.arm: NO_FACTS | dict(told.get(arm.arm) or {}) for arm in audit.arms},
        told=told,
        counts=_counts(audited.table),
        lead=lead,
        decisive=_decisive(lead),
        verdict=verdict_of(lead.checks),
        verdicts={arm_name(arm): verdict_of(arm.checks) for arm in audit.arms},
        leading=leading,
        unseen_misses=unseen_misses(lead),
        others=[found for found in others if found is not None],
        bias=_planted(audit, facts.get("planted_bias")),
        arms_plot=arms_plot(audit),
        forests=[
            forest_plot(arm, index) if arm.attributes else None
            for index, arm in enumerate(audit.arms)
        ],
        scatter=scatter_plot(audited.table, audit),
    )


def _decisive(arm: ArmAudit) -> list[Check]:
    """For each limit the check that came out worst: beyond the limit most, or nearest to it."""
    worst: dict[str, Check] = {}
    for check in arm.checks:
        known = worst.get(check.limit)
        if known is None or _worse(check, known):
            worst[check.limit] = check
    return list(worst.values())


def _worse(check: Check, other: Check) -> bool:
    if check.verdict != other.verdict:
        return verdict_of((check, other)) == check.verdict
    if check.value is None or other.value is None:
        return other.value is None
    return check.value < other.value if check.lower_is_worse else check.value > other.value


def _counts(table: pd.DataFrame) -> dict[str, int]:
    return {
        "patients": int(table["patient"].nunique()),
        "cases": int(table["case"].nunique()),
        "hospitals": int(table["hospital"].nunique()),
        "arms": int(table["arm"].nunique()),
    }


def _planted(audit: Audit, bias: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What was planted in synthetic data, and in which arms the audit names that group worst."""
    attribute = (bias or {}).get("attribute")
    if bias is None or attribute is None:
        return None
    value = bias.get("value")
    verdicts: dict[str, list[str]] = {
        "Named worst, beyond chance": [],
        "Named worst, within chance": [],
        "Not named worst": [],
    }
    beyond, within, not_named = verdicts.values()
    for arm in audit.arms:
        for found in arm.attributes:
            difference = found.difference.get("dice")
            if found.attribute == attribute and difference is not None:
                named = difference.worst_group == value
                heard = beyond if difference.beyond_chance else within
                (heard if named else not_named).append(arm_name(arm))
    return {
        "attribute": attribute,
        "value": value,
        "contrast_ratio": bias.get("contrast_ratio"),
        "verdicts": [(text, members) for text, members in verdicts.items() if members],
    }


def _interval(estimate: Estimate, column: str = "dice") -> str:
    return f"{number(estimate.low, column)} to {number(estimate.high, column)}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN_FIGURE
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _megabytes(size: float | None) -> str:
    if not size:
        return UNKNOWN_FIGURE if size is None else "0"
    return f"{size / 1e6:.1f}"
