"""What was decided goes to a PACS: the mask that stands, as DICOM SEG over STOW-RS."""

import hashlib
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom

from evenhand.dicomweb import Pacs
from evenhand.errors import ReviewError
from evenhand.review import ReviewStore
from evenhand_ui.dicom_out import write_reviewed_seg
from evenhand_ui.readings import Plan, review_case
from evenhand_ui.runs import ReviewRun

__all__ = ["send_seg"]


def send_seg(
    run: ReviewRun, store: ReviewStore, case_id: str, series: Sequence[Any], pacs: Pacs
) -> str:
    """Store a decided case's mask in an archive; return what was sent, in one line.

    Raises:
        ReviewError: nobody has decided for the mask; nothing is sent.
        ResourceError: the archive does not take it.
        EvenhandError: as `write_reviewed_seg`.
    """
    if review_case(run, store, Plan.of(run), case_id).standing.final is None:
        raise ReviewError("This case is not decided yet; nothing was sent.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seg.dcm"
        origin = write_reviewed_seg(run, store, case_id, series, path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        seg = pydicom.dcmread(path)
        pacs.store([seg])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return f"{case_id}: {origin}; sent to {pacs.host} at {now}: {seg.SOPInstanceUID} {sha256}"
