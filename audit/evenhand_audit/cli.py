"""`evenhand audit`: judge a model from its results, whoever made it; compare; hand over."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from typer.core import TyperGroup

from evenhand.config import AuditConfig
from evenhand.errors import UsageError

if TYPE_CHECKING:
    from evenhand_audit.records import Audit

__all__ = ["AuditGroup", "ages", "register", "words"]

DEFAULTS = AuditConfig()
DEFAULT_ATTRIBUTES = ",".join(DEFAULTS.attributes)
DEFAULT_AGE_EDGES = ",".join(f"{edge:g}" for edge in DEFAULTS.age_edges)

GROUP_HELP = (
    "Judge a model by subgroup, compare two audits, hand over what is known.\n\n"
    "[bold]evenhand audit INPUT --out DIR[/] is short for [bold]evenhand audit report[/]. "
    "[bold]evenhand audit --federated[/] is short for [bold]sums[/] at a hospital (a table or run) "
    "and for [bold]pool[/] in one place (files of sums).\n\n"
    "Example: [bold]evenhand audit runs/demo --out report[/]"
)

REPORT_HELP = (
    "Judge a model by subgroup.\n\n"
    "INPUT is the folder of a run, a table with one row per case (CSV, TSV, Parquet), or a TOML "
    "file that describes somebody else's table or folders of masks. Writes DIR/index.html "
    "(self-contained, prints well) and DIR/audit.json; where the input had to be scored or mapped, "
    "also a table of the cases beside DIR, which is patient data.\n\n"
    "Example: evenhand audit report runs/demo/predictions.csv --out report --age-edges 40,60"
)

COMPARE_HELP = (
    "Compare two tables: two versions of a model, or two months.\n\n"
    "Patients who are in both are compared with themselves. Tables whose metrics are defined "
    "differently are refused. A model that is called differently in the two is named with "
    "--pair OLD=NEW.\n\n"
    "Example: evenhand audit compare spring.csv autumn.csv --out drift"
)

CARDS_HELP = (
    "Write what is handed over: model card, datasheet, CLAIM, FUTURE-AI and Annex IV tables.\n\n"
    "REPORT is a folder that `evenhand audit` made. Only what is known is filled in; the rest says "
    "who has to. What the report cannot know is told by --facts FACTS.toml.\n\n"
    "Example: evenhand audit cards report --out handover"
)

FRONTIER_HELP = (
    "Draw fairness against privacy: the worst group's Dice and the gap over epsilon.\n\n"
    "REPORTs are folders of reports of a sweep of runs, each with an arm that has an epsilon. The "
    "figure is an SVG; its numbers lie beside it as CSV.\n\n"
    "Example: evenhand audit frontier runs/e1/report runs/e8/report --by sex --out frontier.svg"
)


class AuditGroup(TyperGroup):
    """The subcommands of `evenhand audit`; what is none of them is the input of a report."""

    default_command = "report"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the default command first, where none is given."""
        if "--federated" in args:
            args = _federated([each for each in args if each != "--federated"])
        if args and args[0] not in {*self.commands, "--help"}:
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


def _federated(args: list[str]) -> list[str]:
    """Say which command is meant: files of sums are pooled, anything else is summed up."""
    inputs = list(takewhile(lambda each: not each.startswith("-"), args))
    if not inputs:
        raise UsageError(
            "Across hospitals takes two steps. At each hospital: evenhand audit --federated "
            "predictions.csv --out north.json (short for evenhand audit sums). Then, in one place: "
            "evenhand audit --federated north.json south.json --out pooled (evenhand audit pool)."
        )
    pooled = all(each.endswith(".json") for each in inputs)
    return ["pool" if pooled else "sums", *args]


def register(app: typer.Typer) -> None:
    """Add `audit` to the root command."""
    from evenhand_audit.across import cli as across
    from evenhand_audit.explain import cli as explain

    group = typer.Typer(cls=AuditGroup, help=GROUP_HELP, no_args_is_help=True)
    group.command("report", help=REPORT_HELP)(_report)
    group.command("compare", help=COMPARE_HELP)(_compare)
    group.command("cards", help=CARDS_HELP)(_cards)
    group.command("why", help=explain.WHY_HELP)(explain.why)
    group.command("cohort", help=explain.COHORT_HELP)(explain.cohort)
    group.command("frontier", help=FRONTIER_HELP)(_frontier)
    group.command("sums", help=across.SUMS_HELP)(across.sums)
    group.command("pool", help=across.POOL_HELP)(across.pool)
    app.add_typer(group, name="audit")


def _report(  # noqa: PLR0917 (typer reads a command's options from its parameters)
    given: Annotated[Path, typer.Argument(metavar="INPUT", help="Run, table, or config.toml.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the report.")],
    attributes: Annotated[
        str | None,
        typer.Option(help="Compared, separated by commas.", show_default=DEFAULT_ATTRIBUTES),
    ] = None,
    minimum_group: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Groups with fewer patients are not shown one by one.",
            show_default=str(DEFAULTS.minimum_group),
        ),
    ] = None,
    resamples: Annotated[
        int | None,
        typer.Option(
            min=100,
            help="Bootstrap resamples of the patients.",
            show_default=str(DEFAULTS.resamples),
        ),
    ] = None,
    age_edges: Annotated[
        str | None,
        typer.Option(
            help="Ages at which age groups are cut, separated by commas.",
            show_default=DEFAULT_AGE_EDGES,
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "",
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="What the table calls a column; repeatable."),
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=VALUE", help="A column's value for all rows; repeatable."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that score masks; default: one a core.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as audit.resamples."),
    ] = None,
) -> None:
    """Heavy libraries are imported here, so that `evenhand --help` stays quick."""
    from evenhand_audit.intake_plan import plan_input, ready_table
    from evenhand_audit.report import audit_file, write_report

    options = {
        "attributes": None if attributes is None else words(attributes),
        "age_edges": None if age_edges is None else ages(age_edges),
        "minimum_group": minimum_group,
        "resamples": resamples,
    }
    plan = plan_input(
        given,
        options={key: value for key, value in options.items() if value is not None},
        columns=_pairs(column or [], "--column"),
        constants=_pairs(constant or [], "--constant"),
        overrides=set_ or [],
    )
    with _steps("Scoring cases") as step:
        table = ready_table(plan, out, workers=workers, progress=step)
    audited = audit_file(table.path, plan.audit)
    facts: dict[str, Any] = {"notes": list(table.findings)} if table.findings else {}
    if title or plan.title:
        facts["title"] = title or plan.title
    index = write_report(audited, out, facts=facts)
    _show(audited.audit)
    for finding in table.findings:
        typer.echo(f"Note: {finding}")
    typer.echo(f"Report: {index}\nData:   {out / 'audit.json'}")
    if table.is_new:
        typer.echo(f"Cases:  {table.path} (patient data: it stays with you)")


def _compare(  # noqa: PLR0917 (as above)
    before: Annotated[Path, typer.Argument(metavar="A", help="Run or table: before.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Run or table: after.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the comparison.")],
    pair: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Arms to compare, where names differ; repeatable."),
    ] = None,
    attributes: Annotated[
        str, typer.Option(help="Compared, separated by commas.")
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
    register_file: Annotated[
        Path | None,
        typer.Option("--register", metavar="FILE", help="Remembers what was shown before."),
    ] = None,
) -> None:
    from evenhand_audit.compare import compare_files
    from evenhand_audit.compare_report import print_comparison, write_comparison
    from evenhand_audit.register import Register

    config = AuditConfig(
        attributes=words(attributes),
        age_edges=ages(age_edges),
        minimum_group=minimum_group,
        resamples=resamples,
    )
    known = Register(register_file) if register_file else None
    named = _pairs(pair or [], "--pair")
    compared = compare_files(before, after, config, pairs=named, register=known)
    index = write_comparison(compared, out, known)
    print_comparison(compared)
    typer.echo(f"Report: {index}\nData:   {out / 'compare.json'}")


def _cards(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="Folder with audit.json.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the documents.")],
    facts: Annotated[
        Path | None, typer.Option(metavar="FACTS.toml", help="What you know and the audit cannot.")
    ] = None,
    arm: Annotated[
        str, typer.Option(help="The model that the documents are about; default: the leading one.")
    ] = "",
) -> None:
    from evenhand_audit.cards import write_cards

    for path in write_cards(report, out, facts=facts, arm=arm):
        typer.echo(str(path))


def _frontier(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Folders of reports.")],
    *,
    by: Annotated[str, typer.Option(help="Attribute whose groups are followed.")],
    out: Annotated[Path, typer.Option(metavar="FILE.svg", help="The figure.")],
    prompt: Annotated[str, typer.Option(help="Of the arms that are drawn.")] = "automatic",
) -> None:
    from evenhand_audit.frontier import points_of, write_frontier

    if out.suffix.lower() != ".svg":
        raise UsageError(f"--out wants a file that ends in .svg; got '{out.name}'.")
    points = points_of(reports, by, prompt)
    table = write_frontier(points, by, out)
    typer.echo(f"Figure: {out} ({len(points)} points)\nTable:  {table}")


def words(text: str) -> tuple[str, ...]:
    """Names of an option such as sex,age_group."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def ages(text: str) -> tuple[float, ...]:
    """Rising ages of an option such as 40,60.

    Raises:
        UsageError: they are none.
    """
    try:
        edges = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        edges = (float("nan"),)
    if not all(0 < edge <= 130 for edge in edges) or list(edges) != sorted(set(edges)):
        raise UsageError(f"--age-edges wants rising ages such as 40,60; got '{text}'.")
    return edges


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not (key and separator and value):
            raise UsageError(f"{option} wants NAME=NAME, such as dice=DSC; got '{text}'.")
        if key in pairs:
            raise UsageError(f"{option} names '{key}' twice; once is enough.")
        pairs[key] = value
    return pairs


def _steps(what: str) -> Any:
    """A progress bar that appears with the first step and not before."""
    from evenhand_audit.intake_plan import lazy_progress

    return lazy_progress(what)


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
        shown.add_row(escape(name), "", f"not shown: {hidden.reason}")
    Console(highlight=False).print(shown)
