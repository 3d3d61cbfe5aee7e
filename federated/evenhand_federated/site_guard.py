"""What a hospital's SuperNode may start: only Evenhand's installed code, only approved studies.

Flower's SuperNode starts programs by name (`flwr-clientapp`, `flwr-agentapp`, ...). The node's
`PATH` begins with a folder of wrappers that `write_programs` makes: the one for `flwr-clientapp`
runs this module, the others refuse. Without it a hospital would run whatever Python a bundle
brings: its folder comes first on the path of modules.

A program starts warm where it can (`evenhand_federated.warm`), and is guarded the same.

It stands on a private seam of Flower 1.41, `run_clientapp.install_from_fab`; where that is not
found nothing is run. `tests/unit/test_site_guard.py` holds it.

A program has 30 s from its start to ask for its task, so what is heavy is imported after that.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from evenhand.errors import EvenhandError, FederationError
from evenhand_federated import warm_start
from evenhand_federated.bundle import bundle_fault

if TYPE_CHECKING:
    from evenhand_federated.hospital import HospitalFolder

__all__ = ["CLIENT_PROGRAM", "check_bundle", "main", "run", "write_programs"]

CLIENT_PROGRAM = "flwr-clientapp"
"""The one program that is let through, guarded."""

_FLOWER = "1.41."
"""Versions that somebody has looked at, as pinned in pyproject.toml."""

_REFUSED_PROGRAMS = (
    "flwr-agentapp",
    "flwr-connector",
    "flwr-model",
    "flwr-serverapp",
    "flwr-simulation",
)
"""What Flower's executor can start beside it (flwr 1.41, TASK_TYPE_TO_COMMAND)."""


def write_programs(folder: "HospitalFolder") -> Path:
    """Write the wrappers and return their folder."""
    folder.programs_path.mkdir(parents=True, exist_ok=True, mode=0o700)
    # -P: the folder in which a program is started must not be looked into for modules.
    cold = [sys.executable, "-P", "-m", "evenhand_federated.site_guard"]
    warm = [sys.executable, "-I", "-S", warm_start.__file__, str(folder.programs_path.resolve())]
    for name in (CLIENT_PROGRAM, *_REFUSED_PROGRAMS):
        path = folder.programs_path / name
        start = shlex.join([*(warm if name == CLIENT_PROGRAM else cold), name])
        path.write_text(f'#!/bin/sh\nexec {start} "$@"\n', encoding="utf-8")
        path.chmod(0o700)
    return folder.programs_path


def check_bundle(folder: "HospitalFolder", content: bytes) -> None:
    """Refuse, and write down, a bundle that is not that of an approved study.

    Raises:
        PermissionError: with a sentence that tells nothing of the hospital.
    """
    fault = bundle_fault(content, folder.approved_digests())
    if fault is not None:
        folder.messages().add("refused", what="bundle", bytes=len(content), why=fault)
        raise PermissionError("the hospital has not approved this bundle")


def main(arguments: list[str]) -> None:
    """Run `flwr-clientapp` under guard; refuse everything else."""
    program, *rest = arguments
    if program != CLIENT_PROGRAM:
        _refuse(program)
    from flwr import __version__ as flower  # what is loaded: pip may be replacing what is installed
    from flwr.supernode.cli import flwr_clientapp as command
    from flwr.supernode.runtime import run_clientapp

    install = getattr(run_clientapp, "install_from_fab", None)
    if install is None or not flower.startswith(_FLOWER):
        raise FederationError("This version of Flower cannot be guarded; install flwr 1.41.")

    def guarded(content: bytes, *args: Any, **options: Any) -> Any:
        from evenhand_federated.hospital import HospitalFolder

        check_bundle(HospitalFolder.of_environment(), content)
        return install(content, *args, **options)

    run_clientapp.install_from_fab = guarded
    sys.argv = [program, *rest]
    command()


def _refuse(program: str) -> NoReturn:
    from evenhand_federated.hospital import HospitalFolder

    folder = HospitalFolder.of_environment()
    folder.messages().add("refused", what="program", why=f"{program} is not run at a hospital")
    raise FederationError(f"{program} is not run at a hospital.")


def run(arguments: list[str]) -> None:
    """Be such a program: `main`, whose errors become a sentence and an exit code."""
    try:
        main(arguments)
    except EvenhandError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    run(sys.argv[1:])
