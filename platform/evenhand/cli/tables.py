"""Tables on standard output: as wide as the terminal, wide enough where there is none."""

import sys

from rich.console import Console
from rich.table import Table

__all__ = ["new_table", "standard_output"]

_PIPE_WIDTH = 160
"""Columns of a table that no terminal shows."""


def new_table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table whose cells are folded where they are too long."""
    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def standard_output() -> Console:
    """Return standard output, wide enough for tables where no terminal limits it."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
