"""`evenhand forget`."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.errors import DataError, UsageError

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
) -> None:
    """Delete one patient from stores, runs and a federation's node, with a proof.

    Embeddings, masks and places in splits go too. A node's embeddings go as a whole; its studies
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
    erased, case_ids = erase_patient(name, stores=store or (), runs=run or (), nodes=node or ())
    linked = [place.resolve() for each in run or () for place in each.glob("hospitals/*/store")]
    roots = (*(store or ()), *(run or ()), *(each / "studies" for each in node or ()), *linked)
    left = [path for root in roots for path in mentions(root, {name, *case_ids})]
    cases = sum(len(each.case_ids) for each in erased)
    if not any(each.files or each.rows for each in erased) and not left:
        raise DataError("Nobody of that name was found in these places; nothing was deleted.")
    write_proof(proof, name, erased, left)
    files = sum(each.files for each in erased)
    typer.echo(f"{cases} case(s), {files} file(s) deleted. The record is in '{proof}'.")
    for path in left:
        typer.echo(f"- still mentioned in '{path}'")
    if left:
        raise DataError(f"{len(left)} file(s) still mention the patient; see above.")


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
