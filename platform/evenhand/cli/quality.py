"""`evenhand quality`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.errors import DataError, ResourceError, UsageError
from evenhand.progress import progress_bar

if TYPE_CHECKING:
    from evenhand.ingest.quality.assess import StoreQuality

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command of this module to the root."""
    app.command("quality")(_quality)


def _quality(
    *,
    store: Annotated[list[Path] | None, typer.Argument(help="Stores to check.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("quality"),
    reference: Annotated[
        Path | None,
        typer.Option(help="CSV of wanted shares: attribute, value, share (0 to 1)."),
    ] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Set cases with an error aside.")
    ] = False,
    release: Annotated[
        list[str] | None, typer.Option(help="Put this case back into its store, and stop.")
    ] = None,
    prints: Annotated[
        Path | None,
        typer.Option(help="Also write keyed digests, to find patients who are at two hospitals."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="With --prints: the key that the study's hospitals share.")
    ] = None,
    compare: Annotated[
        list[Path] | None, typer.Option(help="Compare files of --prints (repeat), and stop.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes to work with; default: one a core.")
    ] = None,
) -> None:
    """Check the cases of stores, and say who is in them.

    Writes quality.html (it names cases: for the hospital), diversity.json and
    datasheet.md (counts alone).

    Example: evenhand quality stores/north --out quality --quarantine
    """
    if compare:
        _compare(compare)
        return
    if not store:
        raise UsageError("Which stores? Give their folders, or files of prints with --compare.")
    if release:
        _release(store, release)
        return
    if (prints is None) != (key is None):
        raise UsageError("--prints FILE and --key STUDY.KEY belong together.")
    if prints is not None and len(store) != 1:
        raise UsageError("--prints is for one store: each hospital writes its own.")
    found = _assess(store, out, reference, jobs)
    if prints is not None and key is not None:
        _write_prints(found[0], prints, key)
    bad = sum(bool(result.errors) for each in found for result in each.results)
    if not bad:
        return
    if not quarantine:
        raise DataError(
            f"{bad} case(s) have an error (see the report); --quarantine sets them aside, where "
            "training does not see them."
        )
    from evenhand.ingest.quality.assess import set_aside

    moved = sum(set_aside(each) for each in found)
    typer.echo(f"{moved} case(s) were set aside; --release CASE puts one back.")


def _assess(
    paths: list[Path], out: Path, reference: Path | None, jobs: int | None
) -> "list[StoreQuality]":
    from evenhand.ingest.quality.assess import assess
    from evenhand.ingest.quality.diversity import read_reference
    from evenhand.ingest.quality.report import write_report

    wanted = read_reference(reference) if reference else {}
    with progress_bar() as bar:
        task = bar.add_task("Checking", total=None)
        found = assess(
            paths,
            jobs=jobs,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_report(found, wanted, out)
    cases = sum(len(each.results) for each in found)
    looked = sum(bool(result.findings) for each in found for result in each.results)
    typer.echo(f"{cases} cases checked; {looked} have findings. Report: {out / 'quality.html'}")
    return found


def _write_prints(found: "StoreQuality", path: Path, key: Path) -> None:
    from evenhand.ingest.deid import HospitalKey
    from evenhand.ingest.quality.prints import Prints

    bits = [result.bits for result in found.results if result.bits is not None]
    try:
        Prints.of(found.hospital, bits, HospitalKey.read(key)).write(path)
    except OSError as error:
        raise ResourceError(f"Could not write '{path}': {error.strerror}.") from None
    typer.echo(f"Digests of {len(bits)} cases are in '{path}'; they may leave, the key may not.")


def _compare(paths: list[Path]) -> None:
    from evenhand.ingest.quality.prints import BANDS, Prints, compare_prints

    files = [Prints.read(path) for path in paths]
    if len({each.hospital for each in files}) < 2:
        raise UsageError("Give files of two hospitals or more: --compare A --compare B.")
    pairs = compare_prints(files)
    for one, first, other, second, shared in pairs:
        typer.echo(
            f"- case {first} of {one} is nearly case {second} of {other}: {shared} of {BANDS} bands"
        )
    typer.echo(f"{len(pairs)} pair(s) of near-duplicates between hospitals.")


def _release(stores: list[Path], cases: list[str]) -> None:
    from evenhand.cases.quarantine import release
    from evenhand.cases.store import CaseStore

    if len(stores) != 1:
        raise UsageError("--release is for one store.")
    opened = CaseStore(stores[0])
    with opened.locked():
        for case_id in cases:
            release(opened, case_id)
    typer.echo(f"{len(cases)} case(s) are back in '{stores[0]}'.")
