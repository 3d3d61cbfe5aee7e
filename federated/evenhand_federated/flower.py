"""Flower's programs, called so that they neither call home nor install anything."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evenhand.errors import FederationError, ResourceError

__all__ = ["QUICK", "QUIET", "environment", "operate", "program", "write_connection"]

QUIET: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "PYTHONUNBUFFERED": "1",
}
"""What every process of Flower is started with."""

QUICK: Mapping[str, str] = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
"""Seconds between two looks for a message to start a program for, on this machine; Flower's 1."""

_CONNECTION = "evenhand"
_OPERATION_LIMIT_S = 120.0


def program(name: str) -> str:
    """Path of one of Flower's programs, that of this environment first.

    Raises:
        ResourceError: it is not installed.
    """
    own = Path(sys.executable).parent / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise ResourceError(f"The program {name} is not installed. Reinstall: make install")
    return found


def environment(
    home: Path, more: Mapping[str, str], *, first: Path | None = None
) -> dict[str, str]:
    """The environment of a process of Flower.

    Args:
        home: Flower's own folder.
        more: further variables.
        first: folder that goes before all others in `PATH`.
    """
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    folders = [str(Path(sys.executable).parent), own.get("PATH", os.defpath)]
    if first is not None:
        folders.insert(0, str(first))
    return {**own, **QUIET, "FLWR_HOME": str(home), "PATH": os.pathsep.join(folders), **more}


def write_connection(home: Path, address: str, authority: Path) -> None:
    """Tell Flower's command line where the SuperLink is."""
    home.mkdir(parents=True, exist_ok=True)
    text = (
        f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
        f"address = {json.dumps(address)}\nroot-certificates = {json.dumps(str(authority))}\n"
    )
    (home / "config.toml").write_text(text, encoding="utf-8")


def operate(home: Path, *arguments: str) -> dict[str, Any]:
    """Give the SuperLink an operator's command: `flwr ARGUMENTS`; return what it says.

    Raises:
        FederationError: it refuses, does not answer, or says something else than JSON.
    """
    command = [program("flwr"), *arguments, "--format", "json"]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell
            command,
            env=environment(home, {}),
            cwd=home,
            capture_output=True,
            text=True,
            timeout=_OPERATION_LIMIT_S,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except (subprocess.TimeoutExpired, ValueError):
        raise FederationError(
            f"The SuperLink did not answer `flwr {arguments[0]}`; see its log."
        ) from None
    if not answer.get("success", True):
        reason = str(answer.get("error-message", "no reason given")).strip()
        raise FederationError(f"The SuperLink refused `flwr {' '.join(arguments[:2])}`: {reason}")
    return answer
