"""One progress bar for all long work: what is done, how fast, how long it will take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["console", "progress_bar", "steps"]

console = Console(stderr=True, highlight=False)
"""Where people read; standard output stays free for results."""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yield a rich progress bar with the time that is left."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        yield bar


@contextmanager
def steps(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `step(done, total)`, which moves a bar that is named `what`."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
