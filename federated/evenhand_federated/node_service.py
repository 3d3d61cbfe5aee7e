"""A hospital's SuperNode: the command it is, and the service that keeps it running."""

import os
import shlex
import socket
import ssl
import sys
from pathlib import Path
from typing import NoReturn

from evenhand.artifacts import write_atomically
from evenhand.errors import FederationError
from evenhand.home import HOME_VARIABLE
from evenhand.privacy.site import POLICY_VARIABLE
from evenhand_federated.certificates import node_key_of
from evenhand_federated.flower import QUICK, environment, program
from evenhand_federated.hospital import NODE_VARIABLE, HospitalFolder
from evenhand_federated.site_guard import write_programs
from evenhand_federated.warm import keep_warm

__all__ = ["node_command", "node_environment", "run_node", "write_unit"]

_PROBE_S = 10.0
"""How long the coordinator may take to show its certificate."""

_UNIT = """\
# Evenhand's node of hospital {hospital}. To install it for this user:
#   mkdir -p ~/.config/systemd/user && cp {path} ~/.config/systemd/user/
#   systemctl --user enable --now {name} && loginctl enable-linger
[Unit]
Description=Evenhand node of {hospital}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={command}
Environment="{home_variable}={home}"
{policy}# After a crash the coordinator needs up to a minute until it takes the node back.
Restart=always
RestartSec=15
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths={home} {folder}
UMask=0077

[Install]
WantedBy=default.target
"""


def node_command(folder: HospitalFolder, port: int) -> list[str]:
    """What starts the SuperNode.

    Args:
        folder: of the hospital.
        port: on loopback, where its own programs find it.
    """
    settings = folder.settings()
    return [
        program("flower-supernode"),
        *("--root-certificates", str(folder.authority_path)),
        *("--superlink", settings.address),
        *("--auth-supernode-private-key", str(folder.key_path)),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]


def node_environment(folder: HospitalFolder) -> dict[str, str]:
    """What it is started with: guarded programs first in `PATH`, no telemetry."""
    named = _named_policy()
    return environment(
        folder.path / "flower",
        {
            **QUICK,
            NODE_VARIABLE: str(folder.path.resolve()),
            HOME_VARIABLE: str(folder.settings().home),
            **({POLICY_VARIABLE: str(named)} if named else {}),
        },
        first=write_programs(folder),
    )


def run_node(folder: HospitalFolder) -> NoReturn:
    """Become the SuperNode.

    Raises:
        FederationError: a file of the node is missing or not right, or somebody else answers in
            the coordinator's place.
        PolicyError: the site policy that the environment names is missing.
    """
    from evenhand_federated.serve import free_port

    folder.site().policy()
    node_key_of(folder.key_path)
    if not folder.authority_path.is_file():
        raise FederationError(
            f"The coordinator's certificate '{folder.authority_path}' is missing. It is in the "
            "invitation: take it from there."
        )
    _refuse_foreign(folder)
    (folder.path / "flower").mkdir(exist_ok=True)
    os.chdir(folder.path / "flower")
    command, own = node_command(folder, free_port()), node_environment(folder)
    keep_warm(folder.programs_path, own)
    os.execve(command[0], command, own)  # noqa: S606 - no shell


def _refuse_foreign(folder: HospitalFolder) -> None:
    """Write down and refuse a certificate that is not the coordinator's.

    The SuperNode refuses it, too, but leaves no line that a person finds. Where nobody answers it
    is started all the same: it tries again.
    """
    address = folder.settings().address
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(folder.authority_path))
    try:
        with (
            socket.create_connection((host, int(port)), timeout=_PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        why = f"the certificate at {address} is not the coordinator's: {error.verify_message}"
        folder.messages().add("refused", what="connection", why=why)
        raise FederationError(
            f"Somebody else answers at {address}: {error.verify_message}. Nothing was sent. Ask "
            "the coordinator whether its certificate or its address has changed."
        ) from None
    except OSError:
        return


def write_unit(folder: HospitalFolder) -> Path:
    """Write a unit for systemd, with retries, and return its path.

    Raises:
        PolicyError: the site policy that the environment names is missing.
    """
    settings, named = folder.settings(), _named_policy()
    folder.site().policy()
    name = f"evenhand-{settings.hospital}.service"
    path = folder.path / name
    evenhand = Path(sys.executable).parent / "evenhand"
    command = f"{evenhand} federation node {settings.hospital} --folder {folder.path.resolve()}"
    text = _UNIT.format(
        hospital=settings.hospital,
        path=shlex.quote(str(path.resolve())),
        name=name,
        command=command,
        home_variable=HOME_VARIABLE,
        home=settings.home,
        # A service has an environment of its own: without this line no policy would hold in it.
        policy=f'Environment="{POLICY_VARIABLE}={named}"\n' if named else "",
        folder=folder.path.resolve(),
    )
    write_atomically(path, text.encode())
    return path


def _named_policy() -> Path | None:
    """The site policy that the environment names, wherever a node is started from."""
    named = os.environ.get(POLICY_VARIABLE)
    return Path(named).resolve() if named else None
