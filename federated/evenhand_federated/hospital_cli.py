"""The hospital's commands of `evenhand federation`: join, approve, node, log."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.errors import FederationError
from evenhand.progress import console

if TYPE_CHECKING:
    from evenhand_federated.hospital import HospitalFolder

__all__ = ["folder_of", "register"]

NodeFolder = Annotated[
    Path | None,
    typer.Option(
        help="The node's folder. Default: in the hospital's place in $EVENHAND_HOME.",
        show_default=False,
    ),
]
Hospital = Annotated[str, typer.Argument(help="The hospital's name.")]


def register(group: typer.Typer) -> None:
    """Add the commands of this module to `federation`."""
    group.command("join")(_join)
    group.command("approve")(_approve)
    group.command("node")(_node)
    group.command("log")(_log)
    group.command("adapter")(_adapter)


def _join(
    invitation: Annotated[Path, typer.Argument(help="What the coordinator sent.")],
    *,
    store: Annotated[Path, typer.Option(help="The hospital's case store.")],
    folder: NodeFolder = None,
) -> None:
    """Make this hospital's node: its key pair, its settings, a service for systemd.

    The private key is made here and never leaves. What goes back is answer.toml.

    Example: evenhand federation join north-invitation.toml --store stores/north
    """
    from evenhand.config_files import load_section
    from evenhand.privacy.keys import fingerprint_of
    from evenhand_federated.certificates import key_name_of, node_key_of
    from evenhand_federated.enrolment import Invitation
    from evenhand_federated.hospital import HospitalFolder, default_hospital
    from evenhand_federated.node_service import write_unit

    file = load_section(invitation, Invitation)
    path = folder or default_hospital(file.hospital)
    own = HospitalFolder.join(path, file, store)
    unit = write_unit(own)
    typer.echo(f"Node: {path}\nKey: {key_name_of(node_key_of(own.key_path))}")
    console.print(
        f"The coordinator {file.coordinator.name} has the key "
        f"{fingerprint_of(file.coordinator.public_key)}: compare it by telephone.\n"
        f"Next: 1. send '{own.answer_path}' to the coordinator\n"
        f"      2. approve a study: evenhand federation approve STUDY.toml {file.hospital} "
        "--hash HASH\n"
        f"      3. start the node: evenhand federation node {file.hospital}, or as a service "
        f"with '{unit}' (its first lines say how)"
    )


def _approve(
    study: Annotated[Path, typer.Argument(help="A signed study.")],
    hospital: Hospital,
    *,
    digest: Annotated[
        str, typer.Option("--hash", help="What the coordinator told you by another way.")
    ],
    folder: NodeFolder = None,
) -> None:
    """Approve a study by its hash. The node runs approved studies and nothing else.

    The site policy and the hospital's cases are checked, and what training reads is computed.

    Example: evenhand federation approve study.toml north --hash 5f2a08c1d9e377b4
    """
    from evenhand_federated.certificates import key_name_of
    from evenhand_federated.hospital import prepare
    from evenhand_federated.study import read_study

    own = folder_of(hospital, folder)
    try:
        signed = read_study(study)
        own.approve(signed, digest)
    except FederationError as error:
        own.messages().add("refused", what="study to approve", why=str(error)[:300])
        raise
    slices = prepare(own, signed)
    typer.echo(f"Approved: {signed.terms.name} ({signed.digest})")
    for name, key in (signed.terms.keys or {}).items() if signed.terms.is_hidden else ():
        typer.echo(f"{f'key of {name}:':22}{key_name_of(key)}")
    if signed.terms.is_hidden:
        console.print(
            "Compare these keys with the hospitals, by telephone and not through the coordinator: "
            "one that made a hospital up would see through the sum."
        )
    patients = len(own.train_patients(signed))
    console.print(
        f"{patients} patients train; {slices} slices were prepared. To take it back, delete "
        f"'{own.path / 'approved' / (signed.digest + '.toml')}'.\n"
        f"Next: evenhand federation node {hospital}"
    )


def _node(hospital: Hospital, *, folder: NodeFolder = None) -> None:
    """Run this hospital's node until it is stopped; a service starts it again.

    Example: evenhand federation node north
    """
    from evenhand_federated.node_service import run_node

    run_node(folder_of(hospital, folder))


def _log(
    hospital: Hospital,
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check that no line was changed.")
    ] = False,
    folder: NodeFolder = None,
) -> None:
    """Show what came to this hospital, what left it, and what was refused.

    Example: evenhand federation log north
    """
    log = folder_of(hospital, folder).messages()
    faults = log.faults()
    if faults:
        raise FederationError(f"The log '{log.path}' was changed: {faults[0]}")
    entries = log.entries()
    for entry in entries if not verify else ():
        facts = ", ".join(f"{name} {value}" for name, value in sorted(entry.body().items()))
        typer.echo(f"{entry.position:5} {entry.at} {entry.kind:9} {facts}")
    console.print(f"{len(entries)} lines, all as they were written.")


def _adapter(
    adapter: Annotated[Path, typer.Argument(help="The study's adapter, from the coordinator.")],
    hospital: Hospital,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where this hospital's goes.")],
    folder: NodeFolder = None,
) -> None:
    """Join a study's adapter with the part that stayed at this hospital; predict with the result.

    For studies with federation.local_parts. What is written holds the hospital's own part: it
    stays here.

    Example: evenhand federation adapter adapter.safetensors north --out north.safetensors
    """
    from evenhand_federated.hospital import join_adapter

    join_adapter(folder_of(hospital, folder), adapter, out)
    console.print(f"Written: {out}. It holds this hospital's own part: keep it here.")


def folder_of(hospital: str, folder: Path | None) -> "HospitalFolder":
    """The node of a hospital.

    Raises:
        ConfigError: there is none.
        UsageError: the folder is another hospital's.
    """
    from evenhand.errors import UsageError
    from evenhand_federated.hospital import HospitalFolder, default_hospital

    own = HospitalFolder(folder or default_hospital(hospital))
    found = own.settings().hospital
    if found != hospital:
        raise UsageError(f"'{own.path}' is the node of {found}, not of {hospital}.")
    return own
