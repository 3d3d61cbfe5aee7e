"""`evenhand deidentify`."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evenhand.cli.tables import standard_output
from evenhand.errors import DataError, UsageError
from evenhand.progress import progress_bar

if TYPE_CHECKING:
    from evenhand.ingest.deid.folder import FolderReport

__all__ = ["register"]

_SHOWN_NUMBERS = 12
"""Numbers of files that were left out for one reason."""
_SHOWN_FINDINGS = 20
_NUMBERS = (
    "Numbers count the files of SOURCE in the order of `find SOURCE -type f | LC_ALL=C sort`; "
    "their names may hold identities."
)
_DEFAULT_OPTIONS = ("modified-dates", "patient-characteristics", "safe-private")


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the root."""
    app.command("deidentify")(_deidentify)


def _deidentify(
    *,
    source: Annotated[
        Path | None, typer.Argument(help="Folder of DICOM, NIfTI, PNG, JPEG and sidecars.")
    ] = None,
    into: Annotated[Path | None, typer.Option(help="Folder for what is clean.")] = None,
    key: Annotated[Path | None, typer.Option(help="The hospital's key file.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="Option of PS3.15 Annex E; may be repeated: modified-dates, "
            "patient-characteristics, safe-private (these three by default), device-identity, "
            "clean-pixels; or none."
        ),
    ] = None,
    new_key: Annotated[
        Path | None, typer.Option(help="Make the hospital's key file, once, and stop.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Search SOURCE for the identifiers in this file, one a line; write none."
        ),
    ] = None,
) -> None:
    """Remove identities after DICOM PS3.15 Annex E, or search a folder for some.

    The key stays at the hospital. Whoever has it can link pseudonyms to patients.

    Example: evenhand deidentify dicom --into clean --key hospital.key
    """
    if new_key is not None:
        _make_key(new_key)
    elif source is None:
        raise UsageError(
            "Give a folder to clean (SOURCE --into FOLDER --key FILE), or one to search "
            "(SOURCE --check FILE), or make a key (--new-key FILE)."
        )
    elif check is not None:
        _check(source, check)
    elif into is None or key is None:
        raise UsageError(
            "Where to, and under which key? Give --into FOLDER and --key FILE; "
            "`evenhand deidentify --new-key FILE` makes a key."
        )
    else:
        _clean(source, into, key, option)


def _make_key(path: Path) -> None:
    from evenhand.ingest.deid import HospitalKey

    made = HospitalKey.create(path)
    out = standard_output()
    out.print(f"The key is in '{path}' (fingerprint {made.fingerprint}).", markup=False)
    out.print(
        "Keep it at the hospital, apart from what it protects, with a backup: without it a "
        "patient's next study gets no place beside the earlier ones.",
        markup=False,
    )


def _clean(source: Path, into: Path, key: Path, option: list[str] | None) -> None:
    from evenhand.ingest.deid import HospitalKey, Pseudonymiser
    from evenhand.ingest.deid.folder import deidentify_folder
    from evenhand.ingest.deid.profile import parse_options

    wanted = _DEFAULT_OPTIONS if not option else [] if option == ["none"] else option
    options = parse_options(wanted)
    names = Pseudonymiser(HospitalKey.read(key))
    if into.resolve() in key.resolve().parents:
        raise UsageError(
            "The key lies in the folder that --into names, where it would travel with what it "
            "protects; move it elsewhere."
        )
    with progress_bar() as bar:
        task = bar.add_task("De-identifying", total=None)
        report = deidentify_folder(
            source,
            into,
            names,
            options=options,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _show(report, into)


def _show(report: "FolderReport", into: Path) -> None:
    out = standard_output()
    table = Table(title=f"{len(report.cases)} case(s)", title_justify="left")
    for column in ("kind", "files written", "left out"):
        table.add_column(column)
    refused = [refusal.kind for refusal in report.refusals]
    for kind in sorted({*report.written, *refused}):
        table.add_row(kind, str(report.written[kind]), str(refused.count(kind)))
    out.print(table)
    caught = sum(case.caught for case in report.cases.values())
    if caught:
        out.print(f"{caught} value(s) held an identifier where no rule expected one; replaced.")
    if report.review:
        out.print(
            f"{len(report.review)} region(s) may be burned-in text: look at them before the files "
            f"are used ('{into}/evidence/review.csv').",
            markup=False,
        )
    out.print(f"Evidence, a record a case: '{into}/evidence'.", markup=False)
    alike: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for refusal in report.refusals:
        alike[refusal.kind, refusal.reason].append(refusal.number)
    for (kind, reason), numbers in alike.items():
        shown = ", ".join(str(number) for number in numbers[:_SHOWN_NUMBERS])
        more = f" and {len(numbers) - _SHOWN_NUMBERS} more" if len(numbers) > _SHOWN_NUMBERS else ""
        out.print(f"- file {shown}{more} ({kind}): {reason}", markup=False, soft_wrap=True)
    if report.refusals:
        out.print(_NUMBERS, markup=False)
    if not report.written:
        raise DataError("Nothing in the folder could be de-identified; nothing was written.")


def _check(root: Path, identifiers: Path) -> None:
    from evenhand.ingest.deid.folder import files_of
    from evenhand.ingest.deid.scanner import NOT_SEARCHED, read_identifiers, scan_tree

    findings = scan_tree(root, read_identifiers(identifiers))
    out = standard_output()
    numbers = {path: number for number, path in enumerate(files_of(root), start=1)}
    for finding in findings[:_SHOWN_FINDINGS]:
        what = f"its {finding.where} holds line {finding.identifier} of the list"
        if finding.identifier == NOT_SEARCHED:
            what = "it is cut, locked or too large, and was not searched to its end"
        out.print(f"- file {numbers[finding.path]}: {what}", markup=False)
    if len(findings) > _SHOWN_FINDINGS:
        out.print(f"- and {len(findings) - _SHOWN_FINDINGS} more")
    if findings:
        out.print(_NUMBERS, markup=False)
    if findings:
        raise DataError(
            f"{len(findings)} place(s) hold an identifier of the list or could not be searched; "
            "the folder is not known to be clean."
        )
    out.print(f"None of the identifiers was found in '{root}'.", markup=False)
