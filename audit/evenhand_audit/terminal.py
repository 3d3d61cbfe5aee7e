"""Tables on the screen."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["print_table"]


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under heads; nothing in a cell is taken for markup."""
    shown = Table(*heads)
    for row in rows:
        shown.add_row(*(escape(cell) for cell in row))
    Console(highlight=False).print(shown)
