"""What was decided goes to a PACS: the mask that stands, as DICOM SEG over STOW-RS.

The trail knows of it before the object leaves, and again when the archive has answered.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom

from evenhand.dicomweb import Pacs
from evenhand.errors import ResourceError, ReviewError
from evenhand.review import Author, Entry, ReviewStore, Sending, SendingStep, append_sending
from evenhand_ui.dicom_out import write_reviewed_seg
from evenhand_ui.readings import Plan, review_case
from evenhand_ui.runs import ReviewRun

__all__ = ["send_seg"]


def send_seg(
    run: ReviewRun, store: ReviewStore, case_id: str, series: Sequence[Any], pacs: Pacs
) -> str:
    """Store a decided case's mask in an archive; return what was sent, in one line.

    Raises:
        ReviewError: nobody has decided for the mask, or the trail cannot be written; nothing is
            sent.
        ResourceError: the archive does not take it.
        EvenhandError: as `write_reviewed_seg`.
    """
    final = _final(run, store, case_id)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seg.dcm"
        origin = write_reviewed_seg(run, store, case_id, series, path)
        if _final(run, store, case_id) != final:
            raise ReviewError("This case was decided anew meanwhile; nothing was sent. Send again.")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        seg = pydicom.dcmread(path)
        decision = final.decision
        begun = Sending(
            step=SendingStep.BEGUN,
            case_id=case_id,
            arm=run.arm,
            sender=Author.of_account().name,
            object_uid=str(seg.SOPInstanceUID),
            host=pacs.host,
            mask_sha256=decision.corrected_sha256 or decision.proposed_sha256,
            decision_sha256=final.sha256,
        )
        append_sending(store, begun)
        try:
            pacs.store([seg])
        except ResourceError:
            append_sending(store, replace(begun, step=SendingStep.FAILED))
            raise
        append_sending(store, replace(begun, step=SendingStep.STORED))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return f"{case_id}: {origin}; sent to {pacs.host} at {now}: {seg.SOPInstanceUID} {sha256}"


def _final(run: ReviewRun, store: ReviewStore, case_id: str) -> Entry:
    final = review_case(run, store, Plan.of(run), case_id).standing.final
    if final is None:
        raise ReviewError("This case is not decided yet; nothing was sent.")
    return final
