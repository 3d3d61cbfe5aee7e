"""`evenhand review verify`, `export`, `seg`, `send`, `feedback`: what becomes of decisions."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand_ui.cli import DatabaseOption

__all__ = ["register_trail"]

_RunArgument = Annotated[Path, typer.Argument(help="Folder that `evenhand run` wrote.")]
_ArmOption = Annotated[str | None, typer.Option(help="Arm; default as for the page.")]


def register_trail(group: typer.Typer) -> None:
    """Add the commands to `evenhand review`."""
    group.command("verify")(_verify)
    group.command("export")(_export)
    group.command("seg")(_seg)
    group.command("send")(_send)
    group.command("report")(_report)
    group.command("feedback")(_feedback)


def _verify(run: _RunArgument, database: DatabaseOption = None) -> None:
    """Check that no decision, corrected mask or sending was changed after it was recorded.

    Example: evenhand review verify runs/demo
    """
    from evenhand_ui.trail_files import verify_trail

    typer.echo(verify_trail(run, database))


def _export(
    run: _RunArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write into.")],
    arm: _ArmOption = None,
    database: DatabaseOption = None,
) -> None:
    """Write all decisions and sendings as CSV and HTML, and the masks that stand as NIfTI.

    Example: evenhand review export runs/demo --out reviewed
    """
    from evenhand_ui.trail_files import export_run

    typer.echo(export_run(run, out, arm, database))


def _seg(  # noqa: PLR0917 (typer reads a command's options from its parameters)
    run: _RunArgument,
    case: Annotated[str, typer.Argument(help="Case id, as on the worklist.")],
    series: Annotated[
        Path, typer.Option(metavar="DIR", help="DICOM series that the case was made from.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="DICOM SEG to write.")],
    arm: _ArmOption = None,
    database: DatabaseOption = None,
) -> None:
    """Write a case's mask as DICOM SEG, which says whether a person has changed it.

    Example: evenhand review seg runs/demo north001 --series dicom/north001 --out north001.dcm
    """
    from evenhand.export import read_source_series
    from evenhand_ui.dicom_out import write_reviewed_seg
    from evenhand_ui.runs import ReviewRun
    from evenhand_ui.trail_files import open_store

    opened = ReviewRun.open(run, arm)
    with open_store(opened, database) as store:
        origin = write_reviewed_seg(opened, store, case, read_source_series(series), out)
    typer.echo(f"{out}: {origin}")


def _send(  # noqa: PLR0917 (typer reads a command's options from its parameters)
    run: _RunArgument,
    case: Annotated[str, typer.Argument(help="Case id, as on the worklist.")],
    series: Annotated[
        Path, typer.Option(metavar="DIR", help="DICOM series that the case was made from.")
    ],
    to: Annotated[str, typer.Option(metavar="URL", help="Root of the PACS's DICOMweb.")],
    pacs_login: Annotated[
        Path | None,
        typer.Option(help="TOML with user and password, or token. Default: EVENHAND_PACS_*."),
    ] = None,
    arm: _ArmOption = None,
    database: DatabaseOption = None,
) -> None:
    """Send a decided case's mask to a PACS as DICOM SEG; each sending is a new object.

    The trail keeps who sent what, when, and where to.

    Example: evenhand review send runs/demo n1 --series dicom/n1 --to https://pacs/dicom-web
    """
    from evenhand.dicomweb import Pacs, read_login
    from evenhand.export import read_source_series
    from evenhand_ui.runs import ReviewRun
    from evenhand_ui.sending import send_seg
    from evenhand_ui.trail_files import open_store

    pacs = Pacs(to, read_login(pacs_login))
    opened = ReviewRun.open(run, arm)
    with open_store(opened, database) as store:
        typer.echo(send_seg(opened, store, case, read_source_series(series), pacs))


def _report(  # noqa: PLR0917 (typer reads a command's options from its parameters)
    run: _RunArgument,
    case: Annotated[str, typer.Argument(help="Case id, as on the worklist.")],
    series: Annotated[
        Path, typer.Option(metavar="DIR", help="DICOM series that the case was made from.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for CASE_report.dcm and CASE_mask.dcm.")
    ],
    arm: _ArmOption = None,
    database: DatabaseOption = None,
) -> None:
    """Write a structured report of a case's tumours (TID 1500), and the mask that it is about.

    Example: evenhand review report runs/demo north001 --series dicom/north001 --out reports
    """
    from evenhand.export import read_source_series
    from evenhand_ui.dicom_out import write_report
    from evenhand_ui.runs import ReviewRun
    from evenhand_ui.trail_files import open_store

    opened = ReviewRun.open(run, arm)
    with open_store(opened, database) as store:
        count = write_report(opened, store, case, read_source_series(series), out)
    typer.echo(f"{out}: {count} lesions")


def _feedback(  # noqa: PLR0917 (typer reads a command's options from its parameters)
    run: _RunArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the reviewed masks.")],
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A case store that gets them at once.")
    ] = None,
    accepted: Annotated[
        bool, typer.Option("--accepted", help="Proposals that were accepted unchanged, too.")
    ] = False,
    arm: _ArmOption = None,
    database: DatabaseOption = None,
) -> None:
    """Turn corrections that stand into training masks; each says who decided, and where.

    Name the folder in the next experiment: `--set data.corrections=DIR`.

    Example: evenhand review feedback runs/demo --out corrections
    """
    from evenhand_ui.feedback import write_feedback

    said = write_feedback(run, out, arm=arm, database=database, accepted=accepted, store=store)
    typer.echo(said)
