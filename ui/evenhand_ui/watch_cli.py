"""`evenhand watch`: the coordinator's page in the browser."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from evenhand_ui.options import COORDINATOR_VARIABLE, STREAMLIT_OPTIONS

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `watch` to the root command."""
    app.command("watch")(_watch)


def _watch(
    *,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="The coordinator's folder. Default: coordinator in $EVENHAND_HOME.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 8502,
) -> None:
    """Watch a federation in the browser: rounds, hospitals, losses, epsilon, bytes, time left.

    Example: evenhand watch --port 8503
    """
    from evenhand import plugins

    plugins.load("evenhand.views", "federation")(folder)  # refused here where there is none
    environment = dict(os.environ)
    if folder is not None:
        environment[COORDINATOR_VARIABLE] = str(folder.absolute())
    options = {**STREAMLIT_OPTIONS, "server.port": port}
    command = [sys.executable, "-m", "streamlit", "run"]
    command.append(str(Path(__file__).with_name("federation_script.py")))
    command += [f"--{name}={str(value).lower()}" for name, value in options.items()]
    typer.echo(f"http://127.0.0.1:{port}")
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own interpreter and script
