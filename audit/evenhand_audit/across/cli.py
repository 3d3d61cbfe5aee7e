"""`evenhand audit sums` and `evenhand audit pool`: an audit across hospitals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.errors import UsageError

if TYPE_CHECKING:
    from evenhand.config import AuditConfig
    from evenhand_audit.across.pool import Pooled

__all__ = ["POOL_HELP", "SUMS_HELP", "pool", "sums"]

SUMS_HELP = (
    "Sum up one hospital's results, so that no row has to leave it.\n\n"
    "Writes numbers of patients and sums of metrics by group as JSON; groups under the minimum are "
    "told together with others only. `evenhand audit pool` puts several hospitals together.\n\n"
    "With --epsilon the sums are noised instead and charged to the hospital's privacy ledger "
    "(`evenhand ledger grant` first). Groups must then be named beforehand: --groups.\n\n"
    "Example: evenhand audit sums predictions.csv --out north.json --hospital north"
)

POOL_HELP = (
    "Put the sums of several hospitals together: the audit across hospitals.\n\n"
    "Means, intervals and tests of normal theory are those that all rows in one place would "
    "give. Of noised sums the intervals are wider by what the noise adds.\n\n"
    "Example: evenhand audit pool north.json south.json --out pooled"
)


def sums(
    given: Annotated[Path, typer.Argument(metavar="INPUT", help="Folder of a run, or a table.")],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="What leaves the hospital.")],
    hospital: Annotated[str, typer.Option(help="Whose rows, where there are several.")] = "",
    attributes: Annotated[
        str, typer.Option(help="Compared, separated by commas; the hospital comes by itself.")
    ] = "sex,age_group",
    minimum_group: Annotated[
        int, typer.Option(min=2, help="Groups with fewer patients are not told one by one.")
    ] = 5,
    age_edges: Annotated[
        str, typer.Option(help="Ages at which age groups are cut, separated by commas.")
    ] = "50",
    together: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTRIBUTE=GROUP+GROUP",
            help="Groups that all hospitals agreed to join; repeatable.",
        ),
    ] = None,
    register: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Remembers what was told before.")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Pairs of attributes too, such as women over 60.")
    ] = False,
    epsilon: Annotated[
        float | None,
        typer.Option(min=0.01, help="Noise the sums; what this spends of each patient's budget."),
    ] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTRIBUTE=GROUP+GROUP",
            help="With --epsilon: all groups of an attribute, said beforehand; repeatable.",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="With --epsilon: the case store, so that the ledger knows patients by their "
            "images; of a run with --hospital its own.",
        ),
    ] = None,
) -> None:
    """Heavy libraries are imported here, so that `evenhand --help` stays quick."""
    from evenhand.config import AuditConfig
    from evenhand_audit.across.sums import sums_of, write_sums
    from evenhand_audit.cli import ages, words
    from evenhand_audit.intake_plan import run_table

    config = AuditConfig(
        attributes=words(attributes),
        age_edges=ages(age_edges),
        minimum_group=minimum_group,
        register_file=register,
    )
    table = run_table(given) if given.is_dir() else given
    if epsilon is not None:
        if together or register:
            raise UsageError(
                "--together and --register are for exact sums: noise hides small groups, and the "
                "ledger remembers. Leave them out, or leave out --epsilon."
            )
        named = {name: each for text in groups or [] for name, each in [_named(text, "--groups")]}
        own = given / "hospitals" / hospital / "store"
        store = store or (own if hospital and own.is_dir() else None)
        _noised(
            table, config, out, epsilon=epsilon, groups=named, hospital=hospital, pairs=pairs,
            store=store,
        )  # fmt: skip
        return
    if groups or store:
        raise UsageError(
            "--groups and --store are for noised sums; add --epsilon, or leave them out."
        )
    told, known = sums_of(table, config, hospital, _joined(together or []), pairs=pairs)
    write_sums(told, out, known)
    rows = sum(len(arm.rows) for arm in told.arms)
    typer.echo(f"{told.hospital}: {len(told.arms)} arms, {rows} rows of sums.")
    typer.echo(f"Sums: {out} (look at it before you send it)")


def _noised(
    table: Path,
    config: "AuditConfig",
    out: Path,
    *,
    epsilon: float,
    groups: Mapping[str, Sequence[str]],
    hospital: str,
    pairs: bool,
    store: Path | None,
) -> None:
    from evenhand_audit.across.noised import noised_sums, write_noised

    told = noised_sums(
        table, config, epsilon=epsilon, groups=groups, hospital=hospital, pairs=pairs, store=store
    )
    write_noised(told, out)
    deviation = told.privacy["deviation"]
    typer.echo(
        f"{told.hospital}: epsilon {epsilon:g} at delta {told.privacy['delta']:.2g} is charged to "
        f"the ledger. Each number has noise of deviation {deviation:.1f} patients."
    )
    typer.echo(f"Sums: {out}")


def _joined(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """By attribute: the joint name of each group that is joined."""
    joined: dict[str, dict[str, str]] = {}
    for text in texts:
        attribute, groups = _named(text, "--together")
        joined.setdefault(attribute, {}).update(dict.fromkeys(groups, " + ".join(groups)))
    return joined


def _named(text: str, option: str) -> tuple[str, list[str]]:
    """Attribute and two different groups or more of ATTRIBUTE=GROUP+GROUP."""
    attribute, _, names = text.partition("=")
    groups = [name.strip() for name in names.split("+")]
    if not (attribute and all(groups) and len({*groups}) == len(groups) > 1):
        raise UsageError(
            f"{option} wants ATTRIBUTE=GROUP+GROUP, each group once, such as race=black+asian; "
            f"got '{text}'."
        )
    return attribute, groups


def pool(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.json...", help="One a hospital.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the report.")],
) -> None:
    """Imports as above."""
    from evenhand_audit.across.files import pool_files
    from evenhand_audit.across.page import write_pooled

    found = pool_files(files)
    index = write_pooled(found, files, out)
    _show(found)
    typer.echo(f"Report: {index}\nData:   {out / 'pooled.json'}")


def _show(found: "Pooled") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from evenhand_audit.records import number
    from evenhand_audit.words import attribute_name

    shown = Table("arm, prompt", "patients", "mean Dice", "attribute", "largest gap", "worst group")
    for arm in found.arms:
        dice = arm.overall.means["dice"]
        head = (f"{arm.arm}\n{arm.prompt}", str(arm.overall.patients),
                f"{number(dice.value)}\n{number(dice.low)} to {number(dice.high)}")  # fmt: skip
        for each in arm.attributes:
            gap = each.gaps.get("dice")
            cells = (
                ("\N{EN DASH}", "\N{EN DASH}")
                if gap is None
                else (
                    f"{number(gap.gap.value)}\n{number(gap.gap.low)} to {number(gap.gap.high)}",
                    f"{gap.worst_group}{' (beyond chance)' if gap.beyond_chance else ''}",
                )
            )
            shown.add_row(
                *(escape(cell) for cell in (*head, attribute_name(each.attribute), *cells))
            )
            head = ("", "", "")
    Console(highlight=False).print(shown)
    for arm in found.arms:
        for each in arm.attributes:
            if each.too_noisy:
                typer.echo(
                    f"Not shown of {attribute_name(each.attribute)}: {', '.join(each.too_noisy)}. "
                    "Noise alone could have made these groups."
                )
        break  # numbers of patients are those of every arm
    for name in found.left_out:
        typer.echo(f"Left out: {name}, which not every hospital has.")
