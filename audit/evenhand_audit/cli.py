"""`evenhand audit`: judge a model from a table of its results, whoever made it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.config import AuditConfig
from evenhand.errors import UsageError

if TYPE_CHECKING:
    from evenhand_audit.records import Audit

__all__ = ["register"]

DEFAULTS = AuditConfig()
DEFAULT_ATTRIBUTES = ",".join(DEFAULTS.attributes)
DEFAULT_AGE_EDGES = ",".join(f"{edge:g}" for edge in DEFAULTS.age_edges)

HELP = (
    "Judge a model by subgroup, from a table with one row per case.\n\n"
    "Writes DIR/index.html (self-contained, prints well) and DIR/audit.json. The table may come "
    "from `evenhand run` or from anywhere else, as long as it has the same columns.\n\n"
    "Example: [bold]evenhand audit runs/demo/predictions.csv --out report --age-edges 40,60[/]"
)


def register(app: typer.Typer) -> None:
    """Add `audit` to the root command."""
    app.command("audit", help=HELP)(_audit)


def _audit(  # noqa: PLR0917 (typer reads a command's options from its parameters)
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="The prediction table.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the report.")],
    attributes: Annotated[
        str, typer.Option(help="Compared one by one, separated by commas.")
    ] = DEFAULT_ATTRIBUTES,
    minimum_group: Annotated[
        int, typer.Option(min=2, help="Groups with fewer patients are not shown one by one.")
    ] = DEFAULTS.minimum_group,
    resamples: Annotated[
        int, typer.Option(min=100, help="Bootstrap resamples of the patients.")
    ] = DEFAULTS.resamples,
    age_edges: Annotated[
        str, typer.Option(help="Ages at which age groups are cut, separated by commas.")
    ] = DEFAULT_AGE_EDGES,
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "",
) -> None:
    """Heavy libraries are imported here, so that `evenhand --help` stays quick."""
    from evenhand_audit.report import audit_file, write_report

    config = AuditConfig(
        attributes=tuple(part.strip() for part in attributes.split(",") if part.strip()),
        age_edges=_ages(age_edges),
        minimum_group=minimum_group,
        resamples=resamples,
    )
    audited = audit_file(table, config)
    index = write_report(audited, out, facts={"title": title} if title else {})
    _show(audited.audit)
    typer.echo(f"Report: {index}\nData:   {out / 'audit.json'}")


def _ages(text: str) -> tuple[float, ...]:
    try:
        edges = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        edges = (float("nan"),)
    if not all(0 < edge <= 130 for edge in edges) or list(edges) != sorted(set(edges)):
        raise UsageError(f"--age-edges wants rising ages such as 40,60; got '{text}'.")
    return edges


def _show(audit: "Audit") -> None:
    """Print what each arm reaches and its largest gap, each with its 95% interval below."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from evenhand_audit.words import UNKNOWN_FIGURE, attribute_name, finding_of, number

    shown = Table("arm, prompt", "patients", "mean Dice", "largest gap", "worst group")
    for arm in audit.arms:
        dice = arm.overall.metrics["dice"].mean
        found = finding_of(arm)
        gap, worst = UNKNOWN_FIGURE, UNKNOWN_FIGURE
        if found is not None:
            each = found.difference.gap
            gap = f"{number(each.value)}\n{number(each.low)} to {number(each.high)}"
            worst = f"{attribute_name(found.attribute)}: {found.difference.worst_group}"
        reached = f"{number(dice.value)}\n{number(dice.low)} to {number(dice.high)}"
        name = f"{arm.arm}\n{arm.prompt}"
        shown.add_row(escape(name), str(arm.overall.patients), reached, gap, escape(worst))
    for hidden in audit.withheld:
        name = f"{hidden.arm}\n{hidden.prompt}"
        shown.add_row(escape(name), f"under {audit.minimum_group}", "not shown")
    Console(highlight=False).print(shown)
