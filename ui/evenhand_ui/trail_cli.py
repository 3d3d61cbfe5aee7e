"""`evenhand review verify`, `export` and `seg`: what becomes of decisions, without the page."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.errors import ReviewError
from evenhand_ui.cli import DatabaseOption

__all__ = ["register_trail"]

_RunArgument = Annotated[Path, typer.Argument(help="Folder that `evenhand run` wrote.")]
_ArmOption = Annotated[str | None, typer.Option(help="Arm; default as for the page.")]


def register_trail(group: typer.Typer) -> None:
    """Add the commands to `evenhand review`."""
    group.command("verify")(_verify)
    group.command("export")(_export)
    group.command("seg")(_seg)


def _verify(run: _RunArgument, database: DatabaseOption = None) -> None:
    """Check that no decision and no corrected mask was changed after it was recorded.

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
    """Write all decisions as CSV and HTML, and the masks that stand as NIfTI.

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
    from evenhand.export import MaskOrigin, read_source_series, write_dicom_seg
    from evenhand.review import State
    from evenhand_ui.runs import ReviewRun
    from evenhand_ui.trail_files import open_store, reviewed_mask

    opened = ReviewRun.open(run, arm)
    with open_store(opened, database) as store:
        mask, state = reviewed_mask(opened, store, case)
    origins = {State.ACCEPTED: MaskOrigin.ACCEPTED, State.CORRECTED: MaskOrigin.CORRECTED}
    if state in {State.REJECTED, State.NOT_JUDGED, State.DISPUTED, State.HALF_READ}:
        raise ReviewError(
            "The latest decision about this case is not for its mask, or its readers have not "
            "agreed yet; nothing was written."
        )
    origin = origins.get(state, MaskOrigin.PROPOSED)
    write_dicom_seg(
        out,
        mask,
        opened.case(case).affine,
        read_source_series(series),
        origin=origin,
        model=opened.backbone,
        version=opened.adapter_sha256,
    )
    typer.echo(f"{out}: {origin}")
