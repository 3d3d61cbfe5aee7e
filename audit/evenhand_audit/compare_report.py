"""A comparison as a page for people, `compare.json` for programs, and a table in the terminal."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from evenhand.artifacts import write_atomically
from evenhand_audit.cards_provenance import code_provenance
from evenhand_audit.compare import Change, Comparison, GroupChange
from evenhand_audit.records import METRICS, number
from evenhand_audit.register import Register
from evenhand_audit.words import attribute_name

__all__ = [
    "COMPARISON_SCHEMA_VERSION",
    "print_comparison",
    "row_name",
    "verdict",
    "write_comparison",
]

COMPARISON_SCHEMA_VERSION = 1
"""Raised when the layout of compare.json changes."""


def write_comparison(comparison: Comparison, out: Path, register: Register | None = None) -> Path:
    """Write index.html and compare.json; neither names a patient or a case.

    The register is saved first, where there is one: what is out must be known.

    Raises:
        ResourceError: the folder cannot be written.
    """
    code = code_provenance()
    record = {"schema_version": COMPARISON_SCHEMA_VERSION, "code": code} | asdict(comparison)
    text = json.dumps(record, indent=1, allow_nan=False)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evenhand_audit"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=number, row_name=row_name, verdict=verdict)
    page = environment.get_template("compare.html.j2").render(
        comparison=comparison, metrics=METRICS, code=code, unit=_unit(comparison)
    )
    if register is not None:
        register.save()
    write_atomically(out / "compare.json", f"{text}\n".encode())
    index = out / "index.html"
    write_atomically(index, page.encode())
    return index


def print_comparison(comparison: Comparison) -> None:
    """Print each row's mean Dice, before above after, and its change above the 95% interval."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table("model", "group", "patients", "mean Dice", "change")
    shown.add_column("verdict", no_wrap=True)
    for arm in comparison.arms:
        name = arm.before if arm.before == arm.after else f"{arm.before} → {arm.after}"
        for row in (arm.overall, *arm.groups):
            dice = row.metrics["dice"]
            low, high = (number(end) for end in dice.interval)
            shown.add_row(
                escape(f"{name}, {arm.prompt}"),
                escape(row_name(row)),
                f"{row.patients_before}\n{row.patients_after}",
                f"{number(dice.before)}\n{number(dice.after)}",
                f"{number(dice.change)}\n{low} to {high}",
                verdict(dice),
            )
    out = Console(highlight=False)
    out.print(shown)
    for note in comparison.notes:
        out.print(f"Note: {note}", markup=False)


def row_name(row: GroupChange) -> str:
    """Attribute and group, or everybody."""
    return f"{attribute_name(row.attribute)}: {row.group}" if row.attribute else "everybody"


def verdict(change: Change) -> str:
    """What may be concluded, all comparisons of the page considered."""
    if change.is_better is None:
        return "within chance"
    return "better" if change.is_better else "worse"


def _unit(comparison: Comparison) -> Any:
    return "mm" if comparison.units == "mm" else "voxels"
