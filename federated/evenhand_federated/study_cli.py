"""`evenhand study create|sign|show`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.errors import UsageError
from evenhand.progress import console

if TYPE_CHECKING:
    from evenhand_federated.study import StudyTerms

__all__ = ["register"]

_group = typer.Typer(
    no_args_is_help=True,
    help="Studies: what hospitals and a coordinator agree on, in one signed file.",
)

Folder = Annotated[
    Path | None,
    typer.Option(
        help="The coordinator's folder. Default: coordinator in $EVENHAND_HOME.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add `study` to the root command."""
    app.add_typer(_group, name="study")


@_group.command("create")
def _create(
    config: Annotated[Path, typer.Argument(help="The experiment, a TOML file.")],
    *,
    hospital: Annotated[
        list[str], typer.Option("--hospital", help="Who takes part; may be repeated.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the draft goes.")],
    arm: Annotated[
        str, typer.Option(help="federated, or federated-private with a guarantee for patients.")
    ] = "federated-private",
    patients: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training patients of all hospitals together; for privacy.trust secure-sum.",
            show_default=False,
        ),
    ] = None,
    purpose: Annotated[str, typer.Option(help="In words, for whoever approves it.")] = "",
    folder: Folder = None,
) -> None:
    """Write a draft of a study, to be read by all and then signed.

    Of the config it takes the model, training, federation and privacy; no path and no data.

    Example: evenhand study create my.toml --hospital north --hospital east --out study.toml
    """
    from evenhand.config import PRIVATE_ARM
    from evenhand.config_files import load_config
    from evenhand.model.weights import find
    from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator
    from evenhand_federated.study import StudyTerms, write_draft

    if arm not in ("federated", PRIVATE_ARM):
        raise UsageError(f"--arm is federated or federated-private, not '{arm}'.")
    experiment = load_config(config)
    own = CoordinatorFolder(folder or default_coordinator())
    terms = StudyTerms.of(
        experiment,
        arm=arm,
        hospitals=tuple(hospital),
        coordinator=own.identity(),
        keys={name: member.public_key for name, member in own.members().items()},
        weights_sha256=find(experiment.model.backbone).sha256,
        purpose=purpose,
        patients=patients,
    )
    write_draft(out, terms)
    typer.echo(f"Draft: {out}")
    console.print(f"Next: read it, then sign it: evenhand study sign {out}")


@_group.command("sign")
def _sign(
    study: Annotated[Path, typer.Argument(help="A draft.")], *, folder: Folder = None
) -> None:
    """Sign a draft with the coordinator's key, in its place.

    Example: evenhand study sign study.toml
    """
    from evenhand_federated.coordinator import CoordinatorFolder, default_coordinator
    from evenhand_federated.study import sign_study

    own = CoordinatorFolder(folder or default_coordinator())
    own.settings()
    signed = sign_study(study, own.key())
    typer.echo(f"Hash: {signed.digest}")
    console.print(
        f"Next: give '{study}' to the hospitals, and the hash by another way (telephone). Each "
        "approves it: evenhand federation approve STUDY.toml --hash HASH"
    )


@_group.command("show")
def _show(study: Annotated[Path, typer.Argument(help="A draft or a signed study.")]) -> None:
    """Show what a study asks for, who signed it, and whether it is as it was signed.

    Example: evenhand study show study.toml
    """
    from evenhand.privacy.keys import fingerprint_of
    from evenhand_federated.study import read_draft, read_study

    terms = read_draft(study)
    for name, value in _rows(terms):
        typer.echo(f"{name + ':':22}{value}")
    typer.echo(f"{'key:':22}{fingerprint_of(terms.coordinator.public_key)}")
    signed = read_study(study)
    typer.echo(f"{'signature:':22}right\n{'hash:':22}{signed.digest}")


def _rows(terms: "StudyTerms") -> list[tuple[str, str]]:
    from evenhand.config import PRIVATE_ARM
    from evenhand_federated.certificates import key_name_of
    from evenhand_federated.orders import precision_of

    private = terms.arm == PRIVATE_ARM
    model = terms.model
    phantoms = terms.warm_start.phantoms if terms.warm_start.starts(terms.arm) else 0
    promise = (
        f"epsilon {terms.privacy.epsilon:g} for each patient, over all rounds"
        if private
        else "none: updates leave without noise"
    )
    return [
        ("study", terms.name),
        ("purpose", terms.purpose or "not said"),
        ("made on", f"{terms.created}, for Evenhand {terms.evenhand}"),
        ("coordinator", terms.coordinator.name),
        ("hospitals", ", ".join(terms.hospitals)),
        ("at least", f"{terms.federation.minimum_hospitals} of them in each round"),
        ("model", f"{model.backbone}, head {model.head}, {model.image_size} pixels"),
        ("weights", terms.weights_sha256),
        ("starts", f"from {phantoms} phantoms" if phantoms else "at random"),
        ("rounds", f"{terms.rounds}, each at most {terms.federation.round_timeout_s:g} s"),
        ("put together by", terms.federation.strategy),
        ("numbers travel in", precision_of(terms.config(), terms.arm)),
        ("coordinator sees", "only sums" if terms.is_hidden else "each hospital's update"),
        ("promise to patients", promise),
        *((f"key of {name}", key_name_of(key)) for name, key in (terms.keys or {}).items()),
    ]
