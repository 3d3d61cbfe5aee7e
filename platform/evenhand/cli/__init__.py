"""`evenhand ...`: the commands of the core, and those the other rooms announce.

A room adds commands with an entry point in the group `evenhand.commands`: an
object `register(app: typer.Typer) -> None`.
"""

import sys

import typer
from rich.markup import escape

from evenhand import __version__, plugins
from evenhand.cli import (
    cases,
    deidentify,
    forget,
    ledger,
    plan_privacy,
    predict,
    quality,
    run,
    weights,
)
from evenhand.errors import EvenhandError
from evenhand.progress import console

__all__ = ["app", "main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of the signal."""

app = typer.Typer(
    name="evenhand",
    help="Private, federated adapters for tumour segmentation, audited and reviewed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Private, federated adapters for tumour segmentation, audited and reviewed."""


for _module in (weights, cases, quality, deidentify, forget, ledger, plan_privacy, run, predict):
    _module.register(app)
for _point in plugins.announced("evenhand.commands"):
    _point.load()(app)


def main() -> None:
    """Run the command line; an expected error is one sentence and its exit code."""
    try:
        app()
    except EvenhandError as error:
        console.print(f"[bold red]Error:[/] {escape(str(error))}")
        sys.exit(error.exit_code)
    except SystemExit as ending:
        if ending.code == INTERRUPTED:  # what typer makes of Ctrl-C
            console.print("Stopped. Finished work is kept; the same command goes on from there.")
        raise
