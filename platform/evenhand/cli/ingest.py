"""`evenhand ingest`: a source of any kind into case stores."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from evenhand.cli.tables import new_table, standard_output
from evenhand.errors import DataError, ResourceError, UsageError
from evenhand.progress import steps

if TYPE_CHECKING:
    from evenhand.ingest.admit import AdmitReport
    from evenhand.ingest.bids import IngestPlan, IngestReport
    from evenhand.ingest.faces.guard import FacePolicy
    from evenhand.ingest.faces.judge import BodyPart
    from evenhand.ingest.recipes import Finding, SourcePlan
    from evenhand.ingest.workers import Workers

__all__ = ["register"]

_WORKERS_WANT = ("evenhand.ingest.dicom.headers", "evenhand.ingest.admit")
"""Modules that processes import while this one still looks at the source."""
_ALIKE = 5
"""Findings that differ only in their number are counted from this many on."""


def register(app: typer.Typer) -> None:
    """Add the command of this module to the root."""
    app.command("ingest")(_ingest)


def _ingest(
    *,
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, zip or JSON file to take in, or an archive (PACS) over DICOMweb: "
            "https://HOST/dicom-web/studies/UID."
        ),
    ],
    into: Annotated[Path, typer.Option(help="Stores are made under it, one folder a hospital.")],
    hospital: Annotated[
        list[str] | None,
        typer.Option(help="Whose cases they are (BIDS: take only this hospital's rows; repeat)."),
    ] = None,
    sequence: Annotated[
        list[str] | None,
        typer.Option(
            help="Sequence each case must have, such as FLAIR; the first gives the grid. "
            "Default: all it has."
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="auto, bids, dicom, nnunet, datalist (also MSD) or png.")
    ] = "auto",
    key: Annotated[
        Path | None, typer.Option(help="The hospital's key file: patients get pseudonyms by it.")
    ] = None,
    keep_names: Annotated[
        bool, typer.Option("--keep-names", help="Keep names of cases (published data; no DICOM).")
    ] = False,
    tumour: Annotated[
        list[str] | None,
        typer.Option(help="Label that is the tumour: name, pattern or number; repeat to merge."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="nnU-Net, datalist: label to keep apart, by name; two or more."),
    ] = None,
    masks_from: Annotated[str, typer.Option(help="DICOM: any, seg or rtstruct.")] = "any",
    series_names: Annotated[
        Path | None, typer.Option(help="DICOM: TOML that names series by their description.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="nnU-Net, datalist: table with columns case and patient.")
    ] = None,
    patient_column: Annotated[
        str | None, typer.Option(help="PNG: column that says whose a picture is.")
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(help="PNG: column to compare patients by later, such as Pathology; repeat."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="PNG: take only rows that hold this; repeat."),
    ] = None,
    pixel_mm: Annotated[
        float | None, typer.Option(min=1e-4, help="PNG: size of a pixel in mm.")
    ] = None,
    site_column: Annotated[
        str, typer.Option(help="BIDS: column of participants.tsv that names the hospital.")
    ] = "site",
    deface: Annotated[
        bool, typer.Option("--deface", help="Remove faces from heads (needs the part 'deface').")
    ] = False,
    keep_faces: Annotated[
        str, typer.Option(help="Why faces may stay; the reason is stored with each case.")
    ] = "",
    body_part: Annotated[
        str, typer.Option(help="What is shown, if you know: head, brain (skull-stripped), other.")
    ] = "",
    look_for_text: Annotated[
        bool,
        typer.Option(
            "--look-for-text",
            help="Refuse cases whose pictures show text (needs the part 'ocr'; not for BIDS).",
        ),
    ] = False,
    encrypt: Annotated[
        bool,
        typer.Option("--encrypt", help="Make the store encrypted; its key lies in EVENHAND_HOME."),
    ] = False,
    masks_required: Annotated[bool, typer.Option(help="Refuse cases without a mask.")] = True,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes to work with; default: one a core.")
    ] = None,
    studies: Annotated[
        Path | None,
        typer.Option(
            help="PACS: text with a Study Instance UID a line, instead of one studies/UID."
        ),
    ] = None,
    pacs_login: Annotated[
        Path | None,
        typer.Option(help="PACS: TOML with user and password, or token. Default: EVENHAND_PACS_*."),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(help="Write what the numbers of files and cases stand for: identifiers!"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, show what was judged and why, write nothing.")
    ] = False,
) -> None:
    """Check a source and store its cases, one store a hospital.

    The kind is guessed: a BIDS tree, DICOM (folders, zips), nnU-Net, MSD or a
    MONAI datalist, PNG with a CSV. Run again after a stop: cases that are stored
    and unchanged are reused.

    Example: evenhand ingest dicom-folder --into stores --hospital north --key hospital.key

    Example: evenhand ingest https://pacs/dicom-web/studies/1.2.3 --into stores --hospital north
    --key hospital.key
    """
    from evenhand.cases.records import is_name
    from evenhand.cases.store_header import is_sealed
    from evenhand.cli.from_pacs import at_hand, kind_of
    from evenhand.ingest.sources import Choices, SourceKind, plan_source, pseudonymiser
    from evenhand.ingest.workers import Workers, cores

    faces = _face_policy(body_part, deface, keep_faces)
    found = kind_of(source, kind)
    if found is SourceKind.BIDS:
        if look_for_text or studies or pacs_login:
            raise UsageError("--look-for-text, --studies and --pacs-login are not for BIDS.")
        _bids(
            Path(source),
            into,
            hospital=hospital,
            sequence=sequence,
            site_column=site_column,
            masks_required=masks_required,
            key=key,
            faces=faces,
            sealed=encrypt,
            dry_run=dry_run,
        )
        return
    if not hospital or len(hospital) != 1:
        raise UsageError("Say whose cases these are: one --hospital NAME.")
    if not is_name(hospital[0]):
        raise UsageError(
            "A hospital's name is 1 to 64 letters, digits, '-' or '_', and starts with a letter or "
            "digit; --hospital has another."
        )
    with Workers(
        jobs or cores(), modules=_WORKERS_WANT if found is SourceKind.DICOM else ()
    ) as own:
        choices = Choices(
            hospital=hospital[0],
            key=key,
            keep_names=keep_names,
            sequences=tuple(sequence or ()),
            tumour=tuple(tumour or ()),
            apart=tuple(label or ()),
            masks_from=masks_from,
            masks_required=masks_required,
            series_names=series_names,
            patients=patients,
            patient_column=patient_column,
            attributes=tuple(attribute or ()),
            only=tuple(only or ()),
            pixel_mm=pixel_mm,
            workers=own,
        )
        pseudonymiser(found, choices)  # a missing key is said before anything is fetched or read
        sealed = encrypt or is_sealed(into / hospital[0])
        with at_hand(source, into, studies, pacs_login, keep=dry_run, sealed=sealed) as local:
            with steps("Looking") as step:
                plan = plan_source(local, found, choices, step)
            if mapping is not None:
                _write_mapping(mapping, plan)
            _show_source(plan)
            if dry_run:
                _end_dry_run(plan)
            else:
                _admit(
                    plan,
                    into / hospital[0],
                    hospital[0],
                    own,
                    faces,
                    text=look_for_text,
                    sealed=encrypt,
                )


def _end_dry_run(plan: "SourcePlan") -> None:
    standard_output().print("Nothing was written (--dry-run).")
    if not plan.recipes:
        raise DataError("No case can be taken in; the reasons are above.")
    if refused := _refused(plan):
        raise DataError(f"{refused} case(s) cannot be taken in (reasons above).")


def _face_policy(body_part: str, deface: bool, keep_faces: str) -> "FacePolicy":
    from evenhand.ingest.faces.guard import FacePolicy
    from evenhand.ingest.faces.judge import BodyPart

    if body_part not in get_args(BodyPart):
        raise UsageError("--body-part takes head, brain or other.")
    if deface and keep_faces:
        raise UsageError("--deface removes faces and --keep-faces keeps them; give one of them.")
    part = cast("BodyPart", body_part)
    return FacePolicy(body_part=part, deface=deface, keep_because=keep_faces.strip())


def _admit(
    plan: "SourcePlan",
    path: Path,
    hospital: str,
    workers: "Workers",
    faces: "FacePolicy",
    *,
    text: bool,
    sealed: bool,
) -> None:
    from evenhand.ingest.admit import admit

    if not plan.recipes:
        raise DataError("No case can be taken in; the reasons are above. Nothing was written.")
    with steps("Ingesting") as step:
        report = admit(
            plan.recipes,
            path,
            hospital,
            faces=faces,
            look_for_text=text,
            sealed=sealed,
            workers=workers,
            progress=step,
        )
    _show_admitted(report)
    if refused := report.count("refused") + _refused(plan):
        raise DataError(
            f"{refused} case(s) could not be taken in (reasons above); the others are stored. Mend "
            "them and run again."
        )


def _refused(plan: "SourcePlan") -> int:
    """Count the cases that planning refused."""
    return sum(
        not finding.taken and finding.what.startswith(("case", "row")) for finding in plan.findings
    )


def _bids(
    source: Path,
    into: Path,
    *,
    hospital: list[str] | None,
    sequence: list[str] | None,
    site_column: str,
    masks_required: bool,
    key: Path | None,
    faces: "FacePolicy",
    sealed: bool,
    dry_run: bool,
) -> None:
    from evenhand.ingest.bids import ingest_bids, plan_bids
    from evenhand.ingest.deid import HospitalKey, Pseudonymiser

    names = Pseudonymiser(HospitalKey.read(key)) if key else None

    with steps("Checking" if dry_run else "Ingesting") as step:
        if dry_run:
            plan = plan_bids(
                source,
                into,
                hospitals=hospital,
                sequences=sequence,
                site_column=site_column,
                masks_required=masks_required,
                names=names,
                faces=faces,
                progress=step,
            )
        else:
            report = ingest_bids(
                source,
                into,
                hospitals=hospital,
                sequences=sequence,
                site_column=site_column,
                masks_required=masks_required,
                names=names,
                faces=faces,
                sealed=sealed,
                progress=step,
            )
    if dry_run:
        _show_plan(plan)
    else:
        _show_report(report)


def _write_mapping(path: Path, plan: "SourcePlan") -> None:
    """Write the mapping, for its owner's eyes only."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o600)
            json.dump(dict(plan.names), file, indent=1, ensure_ascii=False)
    except OSError as error:
        raise ResourceError(f"Could not write the mapping: {error.strerror}.") from None


def _show_source(plan: "SourcePlan") -> None:
    out = standard_output()
    masks = sum(recipe.has_mask for recipe in plan.recipes)
    out.print(f"Kind: {plan.kind}. {len(plan.recipes)} case(s), {masks} with a mask.")
    for note in plan.notes:
        out.print(f"- {note}", markup=False, soft_wrap=True)
    if plan.findings:
        table = new_table("what", "taken", "why")
        for what, taken, why in _summed(plan.findings):
            table.add_row(what, "yes" if taken else "no", why)
        out.print(table)


def _summed(findings: "Sequence[Finding]") -> Iterator[tuple[str, bool, str]]:
    """Findings in order; files that were passed over for one reason are counted together."""
    files: defaultdict[str, list[str]] = defaultdict(list)
    for finding in findings:
        if finding.what.startswith("file"):
            files[finding.why].append(finding.what)
    for why, alike in files.items():
        if len(alike) < _ALIKE:
            yield from ((what, False, why) for what in alike)
        else:
            yield f"{alike[0]} and {len(alike) - 1} more", False, why
    for finding in findings:
        if not finding.what.startswith("file"):
            yield finding.what, finding.taken, finding.why


def _show_admitted(report: "AdmitReport") -> None:
    out = standard_output()
    refused = [outcome for outcome in report.outcomes if outcome.status == "refused"]
    if refused:
        table = new_table("case", "refused because")
        for outcome in refused:
            table.add_row(outcome.label, outcome.why)
        out.print(table)
    counts = Counter(outcome.status for outcome in report.outcomes)
    out.print(
        f"Hospital {report.hospital}: {counts['written']} cases written, {counts['reused']} reused "
        f"unchanged, {counts['refused']} refused. Store: {report.store}",
        soft_wrap=True,
    )


def _show_plan(plan: "IngestPlan") -> None:
    out = standard_output()
    table = new_table("hospital", "would write", "unchanged", "store")
    for hospital, path in plan.stores.items():
        cases = plan.of(hospital)
        stored = sum(case.stored for case in cases)
        table.add_row(hospital, str(len(cases) - stored), str(stored), str(path))
    out.print(table)
    for finding in plan.findings:
        out.print(f"- {finding}", markup=False, soft_wrap=True)
    if plan.findings:
        raise DataError(
            f"{len(plan.findings)} case(s) cannot be taken in (listed above); nothing was "
            "written. Mend them and run again."
        )
    out.print("No problem was found. Nothing was written (--dry-run).")


def _show_report(report: "IngestReport") -> None:
    out = standard_output()
    table = new_table("hospital", "written", "reused", "without mask", "from elsewhere", "store")
    for own in report.hospitals:
        counts = (own.written, own.reused, own.without_mask, own.not_in_source)
        table.add_row(own.hospital, *map(str, counts), str(own.store))
    out.print(table)
    out.print(f"{report.written} cases written, {report.reused} reused unchanged.")
