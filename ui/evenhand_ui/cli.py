"""`evenhand review`: start the review page over a run; the trail has `trail_cli`."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated
from urllib.error import URLError

import click
import typer
from typer.core import TyperGroup

from evenhand.errors import ResourceError, UsageError
from evenhand.progress import console
from evenhand_ui.options import (
    ARM_VARIABLE,
    DATABASE_VARIABLE,
    RUN_VARIABLE,
    STREAMLIT_OPTIONS,
)

if TYPE_CHECKING:
    from evenhand_ui.rules import Rules
    from evenhand_ui.runs import ReviewRun

__all__ = ["DatabaseOption", "ReviewGroup", "check_port_is_free", "register"]

DEFAULT_PORT = 8501
"""Streamlit's own."""

_EVERYWHERE = "0.0.0.0"  # noqa: S104 - only with a login

START_LIMIT_S = 60.0
"""How long the page may take to answer."""

STOP_LIMIT_S = 10.0
"""How long the page may take to end before it is killed."""


GROUP_HELP = (
    "Review proposed masks in the browser; check and export what was decided.\n\n"
    "[bold]evenhand review RUN[/] is short for [bold]evenhand review open RUN[/].\n\n"
    "Example: [bold]evenhand review runs/demo --arm pooled[/]"
)

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        envvar=DATABASE_VARIABLE,
        show_envvar=False,
        help="URL of the review database, such as postgresql://... ; default: a file in the run. "
        f"The variable {DATABASE_VARIABLE} keeps it out of the list of processes.",
    ),
]


class ReviewGroup(TyperGroup):
    """The subcommands of `evenhand review`; what is none of them is a run to open."""

    default_command = "open"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the default command first, where none is given."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add `evenhand review` to the root."""
    from evenhand_ui.people_cli import register_people
    from evenhand_ui.trail_cli import register_trail

    group = typer.Typer(cls=ReviewGroup, help=GROUP_HELP, no_args_is_help=True)
    group.command("open")(_review)
    register_trail(group)
    register_people(group)
    app.add_typer(group, name="review")


def _review(  # noqa: PLR0917 (typer reads a command's options from its parameters)
    run: Annotated[Path, typer.Argument(help="Folder that `evenhand run` wrote.")],
    arm: Annotated[
        str | None,
        typer.Option(help="Arm whose masks are reviewed; default: federated, if it has masks."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = (
        DEFAULT_PORT
    ),
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the URL.")] = False,
    rules: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="How people log in, who reads twice, who reads unaided (TOML); kept in the run.",
        ),
    ] = None,
    address: Annotated[
        str,
        typer.Option(help="Address to listen at; another than this machine's needs a login."),
    ] = "127.0.0.1",
    database: DatabaseOption = None,
) -> None:
    """Review a run's proposed masks in the browser: accept, correct, reject.

    Example: evenhand review open runs/demo --arm pooled
    """
    from evenhand_ui.oidc import check_settings
    from evenhand_ui.runs import ReviewRun

    opened = ReviewRun.open(run, arm)
    count = len(opened.hospital_of)
    kept = _rules(opened, rules, database)
    if kept.login == "oidc":
        check_settings()
    if address != "127.0.0.1" and not kept.verified:
        raise UsageError(
            "A demo checks nobody's name, so it is reached from this machine only. Name rules "
            "with a login (--rules FILE), or leave --address out."
        )
    check_port_is_free(port, run)
    host = "127.0.0.1" if address == _EVERYWHERE else address
    url = f"http://{host}:{port}"
    try:
        with _ended_by_signals(), _page(opened, address, port, database) as child:
            _wait_until_up(child, url)
            console.print(f"Reviewing {count} cases of arm [bold]{opened.arm}[/]. Ctrl-C ends it.")
            # On standard output, so that a script can read it.
            typer.echo(url)
            if not no_browser:
                webbrowser.open(url)
            child.wait()
    except KeyboardInterrupt:
        # The usual end, whenever it comes.
        where = "the review database" if database else opened.database
        console.print(f"Review page closed. Decisions are in {where}.")
        return
    raise ResourceError("The review page ended by itself; its last messages are above.")


def _rules(run: "ReviewRun", given: Path | None, database: str | None) -> "Rules":
    """Return the rules that hold, the given ones after they are kept."""
    from evenhand.review import ReviewStore
    from evenhand_ui.rules import keep_rules, rules_of

    own = run.database.parent
    if given is None:
        return rules_of(own)
    decided = False
    if database or run.database.is_file():
        with ReviewStore(database or run.database) as store:
            decided = bool(store.entries())
    return keep_rules(given, own, decided=decided)


def check_port_is_free(port: int, run: Path) -> None:
    """Refuse a port that something else listens on.

    Raises:
        ResourceError: it is taken, or not ours to take; says how to choose another.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server does: a port that was just given up is free, one that is listened on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            other = port + 1 if 1024 <= port < 65535 else DEFAULT_PORT
            raise ResourceError(
                f"Port {port} cannot be used ({error.strerror}); choose another: "
                f"evenhand review {run} --port {other}"
            ) from None


@contextmanager
def _page(
    run: "ReviewRun", address: str, port: int, database: str | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run Streamlit in a child process; it has ended when the block is left."""
    options = {**STREAMLIT_OPTIONS, "server.address": address, "server.port": port}
    script = Path(__file__).with_name("review_app.py")
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += [f"--{name}={str(value).lower()}" for name, value in options.items()]
    environment = {**os.environ, RUN_VARIABLE: str(run.folder.absolute()), ARM_VARIABLE: run.arm}
    if database:
        environment[DATABASE_VARIABLE] = database
    # A session of its own: Ctrl-C reaches this process only, which then ends the child in order.
    child = subprocess.Popen(  # noqa: S603 - our own interpreter and script
        command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a polite kill and a closed terminal end the page as Ctrl-C does."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    watched = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_until_up(child: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + START_LIMIT_S
    # No proxy from the environment may stand between this process and its own child.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < until:
        if child.poll() is not None:
            raise ResourceError(
                "The review page could not start; Streamlit's message is above. "
                "If the port was taken meanwhile, choose another with --port."
            )
        try:
            with opener.open(f"{url}/_stcore/health", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise ResourceError(
        f"The review page did not answer within {START_LIMIT_S:.0f} s. "
        "Try again when the machine is less busy."
    )
