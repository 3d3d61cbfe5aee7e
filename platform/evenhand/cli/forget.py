"""`evenhand forget`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.errors import DataError, UsageError

if TYPE_CHECKING:
    from evenhand.review import MaskCopy

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the root."""
    app.command("forget")(_forget)


def _forget(
    *,
    patient: Annotated[
        str | None, typer.Argument(help="The patient's pseudonym; leave it out to give --key.")
    ] = None,
    store: Annotated[
        list[Path] | None, typer.Option(help="A hospital's store; may be repeated.")
    ] = None,
    run: Annotated[list[Path] | None, typer.Option(help="A run's folder; may be repeated.")] = None,
    node: Annotated[
        list[Path] | None,
        typer.Option(help="A hospital's folder of a federation; may be repeated."),
    ] = None,
    proof: Annotated[Path, typer.Option(help="File for the record of the deletion.")],
    key: Annotated[
        Path | None,
        typer.Option(help="The hospital's key: asks for the identifier, and finds the pseudonym."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            envvar="EVENHAND_REVIEW_DATABASE",
            show_envvar=False,
            help="URL of the review database, where the run was reviewed with one.",
        ),
    ] = None,
) -> None:
    """Delete one patient from stores, runs and a federation's node, with a proof.

    Embeddings, masks and places in splits go too, and what `evenhand review feedback` wrote of
    the runs, by what their trail says. A node's embeddings go as a whole; its studies
    compute them anew from the cases that stay.

    If it is cut off, give the same command again.

    Example: evenhand forget psg6x24p3fz2v4sld --store stores/north --run first --proof gone.json
    """
    from evenhand.cases.erase import erase_patient, mentions, write_proof

    if not store and not run and not node:
        raise UsageError("Where is the patient to be deleted? Give --store, --run or --node.")
    missing = next((each for each in run or () if not (each / "config.json").is_file()), None)
    if missing is not None:
        raise UsageError(f"'{missing}' is not a run (no config.json).")
    missing = next((each for each in node or () if not (each / "studies").is_dir()), None)
    if missing is not None:
        raise UsageError(f"'{missing}' is no folder of a federation's node (no studies in it).")
    name = _pseudonym(patient, key)
    written = _copies(run or (), database)
    folders = sorted({copy.folder for copy in written})
    copies = [folder for folder in folders if (folder / "corrections.json").is_file()]
    gone = [folder for folder in folders if folder not in copies]
    erased, case_ids = erase_patient(
        name, stores=store or (), runs=run or (), nodes=node or (), copies=copies
    )
    linked = {place.resolve() for each in run or () for place in each.glob("hospitals/*/store")}
    linked |= {copy.store for copy in written if copy.store is not None}
    roots = (*(store or ()), *(run or ()), *(each / "studies" for each in node or ()))
    # Whatever else lies in such a folder is not ours to search.
    roots += tuple(each / name for each in copies for name in ("corrections.json", "masks"))
    roots += tuple(sorted(linked - {each.resolve() for each in roots}))
    left = [path for root in roots for path in mentions(root, {name, *case_ids})]
    cases = sum(len(each.case_ids) for each in erased)
    if not any(each.files or each.rows for each in erased) and not left:
        raise DataError("Nobody of that name was found in these places; nothing was deleted.")
    write_proof(proof, name, erased, left, gone)
    files = sum(each.files for each in erased)
    typer.echo(f"{cases} case(s), {files} file(s) deleted. The record is in '{proof}'.")
    for path in gone:
        typer.echo(f"- '{path}' had masks from review and is not there: was it moved or copied?")
    for path in left:
        typer.echo(f"- still mentioned in '{path}', or it cannot be read")
    if left:
        raise DataError(f"{len(left)} file(s) still mention the patient; see above.")


def _copies(runs: Sequence[Path], database: str | None) -> "list[MaskCopy]":
    """Where masks were written out of the runs, by what their trails say."""
    from evenhand.experiment.layout import RunFolder
    from evenhand.review import ReviewStore, copies

    trails: list[Path | str] = [] if database is None else [database]
    for run in runs:
        path = RunFolder(run).review_path
        if path.is_file():
            trails.append(path)
        elif database is None and path.with_name("page.key").is_file():
            raise UsageError(
                f"'{run}' was reviewed with a database of its own; name its URL (--database), so "
                "that masks that were written out of the run are found."
            )
    found = []
    for trail in trails:
        with ReviewStore(trail) as opened:
            found += [link.record for link in copies(opened)]
    return found


def _pseudonym(patient: str | None, key: Path | None) -> str:
    if (patient is None) == (key is None):
        raise UsageError(
            "Give either the patient's pseudonym or --key FILE, which asks for the ID."
        )
    if patient is not None:
        return patient
    from evenhand.ingest.deid import HospitalKey, Pseudonymiser

    names = Pseudonymiser(HospitalKey.read(Path(str(key))))
    # Asked for, not given as an argument: those stay in the shell's history.
    return names.pseudonym(typer.prompt("Patient identifier", hide_input=True))
