"""`evenhand run`."""

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the root."""
