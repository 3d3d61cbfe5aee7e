"""`evenhand run CONFIG.toml`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from evenhand.experiment.pipeline import Outcome

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `run` to the root."""
    app.command("run")(_run)


def _run(
    config: Annotated[Path, typer.Argument(help="The experiment, a TOML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one key; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/NAME.")] = None,
) -> None:
    """Run an experiment: cases in, adapters trained, audit written, masks ready for review.

    A stopped run goes on where it was: embeddings, finished rounds and finished arms are kept.

    Example: evenhand run configs/demo.toml --set training.epochs=4 --out runs/try
    """
    from evenhand.config_files import load_config
    from evenhand.experiment.pipeline import run_experiment
    from evenhand.progress import progress_bar

    experiment = load_config(config, overrides or [])
    folder = out if out is not None else Path("runs") / experiment.name
    with progress_bar() as bar:
        outcome = run_experiment(experiment, folder, bar)
    _summary(outcome)


def _summary(outcome: "Outcome") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Mean Dice per volume on the test patients", title_justify="left")
    for column in (
        "arm",
        "automatic",
        "box",
        "train n",
        "epsilon (largest)",
        "seconds",
        "MB moved",
    ):
        table.add_column(
            column, justify="left" if column == "arm" else "right", no_wrap=column == "arm"
        )
    for name, record in outcome.arms.items():
        table.add_row(
            name,
            _mean_dice(record, "automatic"),
            _mean_dice(record, "box"),
            str(record["train_patients"]),
            _largest_epsilon(record),
            f"{record['seconds']:.0f}",
            f"{record['bytes_moved'] / 1e6:.1f}",
        )
    console = Console()
    console.print()
    console.print(table)
    folder = outcome.run.path
    console.print(f"Report:  {outcome.report}", soft_wrap=True, markup=False)
    console.print(f"Review:  evenhand review {folder}", soft_wrap=True, markup=False)


def _mean_dice(record: dict[str, Any], prompt: str) -> str:
    values = [row["dice"] for row in record["rows"] if row["prompt"] == prompt]
    return f"{sum(values) / len(values):.3f} (n={len(values)})" if values else "-"


def _largest_epsilon(record: dict[str, Any]) -> str:
    by_hospital = record["epsilon"]
    if not by_hospital:
        return "-"
    return f"{max(spent['epsilon'] for spent in by_hospital.values()):.2f}"
