"""`evenhand weights list|get|verify`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evenhand.errors import WeightsError
from evenhand.model import weights
from evenhand.progress import console

__all__ = ["register"]

_group = typer.Typer(
    no_args_is_help=True,
    help="Checkpoints of the frozen backbones: what there is, fetch it, check it.",
)

Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder of checkpoints. Default: weights/ in $EVENHAND_CACHE, else the user's cache.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the root."""
    app.add_typer(_group, name="weights")


@_group.command("list")
def _list(cache: Cache = None) -> None:
    """Show all known checkpoints and which of them are here.

    Example: evenhand weights list
    """
    folder = weights.cache_folder(cache)
    table = Table("name", "size", "here", "licence", "trained on", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, entry in weights.REGISTRY.items():
        linked = f"[link={entry.home}]{name}[/link]"
        size = f"{entry.size / 1e6:,.0f} MB"
        here = _here(folder / entry.file, entry.size)
        table.add_row(linked, size, here, entry.licence, entry.trained_on)
    Console().print(table)
    console.print(f"Folder: {escape(str(folder))}", soft_wrap=True)


@_group.command("get")
def _get(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="From the list.")],
    cache: Cache = None,
) -> None:
    """Fetch checkpoints; one that is here and right is left alone. Prints the paths.

    A download that broke off goes on where it stopped when the command is given again.

    Example: evenhand weights get mobile-sam

    Example: evenhand weights get mobile-sam lite-medsam --cache shared/weights
    """
    for name in names:
        weights.find(name)  # a wrong name is told before anything is downloaded
    for name in names:
        typer.echo(str(weights.fetch(name, cache=cache)))


@_group.command("verify")
def _verify(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|FILE]...",
            help="Names or files; none: all that are here.",
            show_default=False,
        ),
    ] = None,
    cache: Cache = None,
) -> None:
    """Check checkpoints on disk against the published hashes.

    Example: evenhand weights verify

    Example: evenhand weights verify mobile-sam

    Example: evenhand weights verify downloads/medsam_vit_b.pth
    """
    chosen = targets or [
        name for name in weights.REGISTRY if weights.path_of(name, cache=cache).is_file()
    ]
    if not chosen:
        raise WeightsError(
            f"There is no checkpoint in '{weights.cache_folder(cache)}'; fetch one with "
            "`evenhand weights get NAME`."
        )
    wrong = []
    for target in chosen:
        try:
            entry = weights.verify(target, cache=cache)
        except WeightsError as error:
            wrong.append(str(error))
        else:
            typer.echo(f"{target}: right ({entry.file}, sha256 {entry.sha256})")
    if wrong:
        raise WeightsError("\n".join(wrong))


def _here(path: Path, size: int) -> str:
    if not path.is_file():
        return "no"
    return "yes" if path.stat().st_size == size else "[red]damaged[/]"
