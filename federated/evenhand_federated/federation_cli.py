"""`evenhand federation ...`: the coordinator's commands and the hospital's."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.errors import UsageError
from evenhand.progress import console

__all__ = ["register"]

_group = typer.Typer(
    no_args_is_help=True,
    help="Hospitals training together over a network: set up, serve, submit, watch.",
)

Folder = Annotated[
    Path | None,
    typer.Option(
        help="The coordinator's folder. Default: coordinator in $EVENHAND_HOME.",
        show_default=False,
    ),
]
Hospital = Annotated[str, typer.Argument(help="The hospital's name.")]


def register(app: typer.Typer) -> None:
    """Add `federation` to the root command."""
    from evenhand_federated import hospital_cli

    hospital_cli.register(_group)
    app.add_typer(_group, name="federation")
    app.command("doctor")(_doctor)


def _doctor(
    hospital: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOSPITAL]",
            help="A hospital's node; none: the coordinator.",
            show_default=False,
        ),
    ] = None,
    *,
    folder: Annotated[
        Path | None,
        typer.Option(help="The node's or the coordinator's folder.", show_default=False),
    ] = None,
) -> None:
    """Look at what a federation stands on, before the first round; name what to do.

    Key, versions, disk, certificates, the way to the coordinator, clock, cases, policy, weights and
    approved studies. Exit status 1 where something is to be done.

    Example: evenhand doctor north
    """
    from rich.console import Console
    from rich.table import Table

    from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator
    from evenhand_federated.doctor import examine_coordinator, examine_hospital
    from evenhand_federated.hospital_cli import folder_of

    if hospital is None:
        findings = examine_coordinator(CoordinatorFolder(folder or default_coordinator()))
    else:
        findings = examine_hospital(folder_of(hospital, folder))
    table, wrong = Table("what", "found", "to do"), 0
    for one in findings:
        table.add_row(one.name, one.said, one.fix or "nothing")
        wrong += bool(one.fix)
    out = Console()
    (out if out.is_terminal else Console(width=200)).print(table)
    if wrong:
        raise typer.Exit(1)


@_group.command("init")
def _init(
    *,
    name: Annotated[str, typer.Option(help="Who leads, in words.")],
    host: Annotated[str, typer.Option(help="Name or address that hospitals reach it by.")],
    listen: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port for hospitals.")] = 9400,
    folder: Folder = None,
) -> None:
    """Make a coordinator: its authority, its certificate, its signing key.

    Example: evenhand federation init --name "Trial centre" --host fed.example.org
    """
    from evenhand.privacy.keys import fingerprint_of
    from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator

    path = folder or default_coordinator()
    own = CoordinatorFolder.make(path, name=name, host=host, listen=listen, port=port)
    typer.echo(f"Coordinator: {path}\nKey: {fingerprint_of(own.key().public)}")
    console.print(
        "Keep a copy of ca.key and signing.key apart from this machine. Tell the hospitals the "
        "key's groups by telephone.\nNext: evenhand federation invite HOSPITAL --out FILE"
    )


@_group.command("invite")
def _invite(
    hospital: Hospital,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the invitation goes.")],
    folder: Folder = None,
) -> None:
    """Write an invitation: how a hospital reaches this coordinator, and knows it. No secret.

    Example: evenhand federation invite north --out north-invitation.toml
    """
    import tomli_w

    from evenhand.artifacts import write_atomically
    from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator

    own = CoordinatorFolder(folder or default_coordinator())
    content = tomli_w.dumps(own.invitation(hospital).model_dump())
    write_atomically(out, content.encode())
    typer.echo(f"Invitation: {out}")
    console.print(
        f"Next: send it to {hospital}. There: evenhand federation join {out.name} --store STORE. "
        "Then take their answer: evenhand federation admit FILE"
    )


@_group.command("admit")
def _admit(
    answer: Annotated[Path, typer.Argument(help="The hospital's answer.toml.")],
    *,
    folder: Folder = None,
) -> None:
    """Admit a hospital by the public key in its answer.

    Example: evenhand federation admit north-answer.toml
    """
    from evenhand.config_files import load_section
    from evenhand_federated.certificates import key_name_of
    from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator
    from evenhand_federated.enrolment import EnrolmentAnswer

    own = CoordinatorFolder(folder or default_coordinator())
    own.settings()
    member = own.admit(load_section(answer, EnrolmentAnswer))
    typer.echo(f"Admitted: {member.hospital} ({key_name_of(member.public_key)})")
    console.print(
        "Compare these groups with the hospital by telephone.\n"
        "Next: evenhand federation serve, if it does not run yet"
    )


@_group.command("serve")
def _serve(*, folder: Folder = None) -> None:
    """Open the door to admitted hospitals and run submitted studies, until Ctrl-C.

    Example: evenhand federation serve
    """
    import signal

    from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator
    from evenhand_federated.serve import serve

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        serve(CoordinatorFolder(folder or default_coordinator()), console.print)
    except KeyboardInterrupt:
        console.print("Closed. Studies go on from their last finished round when served again.")


@_group.command("submit")
def _submit(
    study: Annotated[Path, typer.Argument(help="A signed study.")], *, folder: Folder = None
) -> None:
    """Hand a signed study to the coordinator; a stopped or failed one goes on.

    Example: evenhand federation submit study.toml
    """
    from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator
    from evenhand_federated.study import read_study

    own = CoordinatorFolder(folder or default_coordinator())
    signed = read_study(study)
    own.submit(signed)
    typer.echo(f"Submitted: {signed.terms.name} ({signed.digest[:16]})")
    console.print("Next: evenhand federation status --follow")


@_group.command("status")
def _status(
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Until all studies have ended.")] = False,
    folder: Folder = None,
) -> None:
    """Show hospitals and studies: rounds, who was missing, losses, epsilon, bytes, time left.

    Example: evenhand federation status
    """
    from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator
    from evenhand_federated.status import show

    show(CoordinatorFolder(folder or default_coordinator()), follow=follow)


@_group.command("stop")
def _stop(
    study: Annotated[str, typer.Argument(help="A study's name, or the start of its hash.")],
    *,
    folder: Folder = None,
) -> None:
    """Stop a study after what it is doing; `submit` goes on from its last finished round.

    Example: evenhand federation stop glioma
    """
    from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator

    own = CoordinatorFolder(folder or default_coordinator())
    own.settings()
    digest = own.find(study)
    if own.state(digest).status == "finished":
        raise UsageError(f"The study {study} has finished; there is nothing to stop.")
    own.change_state(digest, status="stopped", reason="stopped by the coordinator")
    typer.echo(f"Stopped: {study}")
    console.print("Next: to go on, evenhand federation submit STUDY.toml")
