"""How a decision is taken: what is asked of it, and what is recorded with it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import ReviewError
from evenhand.metrics import score_case
from evenhand.review import Decision, Entry, Reason, Verdict, claim_case, release_claim
from evenhand_ui.drafts import DraftConflictError
from evenhand_ui.masks import keep_correction, name_correction
from evenhand_ui.office import Office, Reading

__all__ = ["Answer", "corrected_mask", "decide"]

_NSD_TOLERANCE = 1.0
"""Not recorded; the metrics want one."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a reader has said. `revision` is the draft that was on the screen."""

    verdict: Verdict
    reason: Reason | None
    comment: str
    revision: int


def corrected_mask(office: Office, reading: Reading) -> NDArray[np.uint8] | None:
    """Return the painted mask (i, j, k); None where it does not differ from the proposal."""
    draft = office.drafts.read(reading.place)
    if draft.revision == 0:
        return None
    turned = office.drafts.mask(reading.place, draft, reading.canonical.turned_shape)
    mask = np.ascontiguousarray(reading.canonical.back(turned))
    return None if np.array_equal(mask, reading.proposed) else mask


def decide(office: Office, reading: Reading, answer: Answer, *, now_s: float) -> Entry:
    """Record a decision, with the corrected mask where there is one.

    Raises:
        ReviewError: it may not be taken so; one sentence for the reader. Nothing was recorded.
        ResourceError: the disk is full; nothing was recorded.
    """
    with office.lock:
        case_id = reading.case.case_id
        holder = claim_case(office.store, office.run.arm, case_id, reading.reader, now_s=now_s)
        if holder.reader != reading.reader:
            raise ReviewError(f"{holder.reader} has taken this case over; nothing was recorded.")
        draft = office.drafts.read(reading.place)
        if draft.revision != answer.revision:
            raise DraftConflictError(draft.revision)
        corrected = corrected_mask(office, reading)
        _check(reading, answer, corrected)
        decision = _decision(office, reading, answer, corrected, draft.strokes)
        if corrected is not None and decision.corrected_path is not None:
            path = office.run.database.parent / decision.corrected_path
            keep_correction(path, reading.case, corrected)
        entry = office.store.append(decision)
        office.finish(reading)
    release_claim(office.store, office.run.arm, case_id, reading.reader)
    return entry


def _check(reading: Reading, answer: Answer, corrected: NDArray[np.uint8] | None) -> None:
    if answer.verdict is Verdict.ACCEPT and reading.sitting.missing:
        raise ReviewError("Look at all slices with proposed tumour before you accept.")
    if answer.verdict is Verdict.CORRECT and corrected is None:
        raise ReviewError("Your mask equals the proposed one; accept it, or change it first.")
    if answer.verdict is not Verdict.CORRECT and corrected is not None:
        raise ReviewError(
            "You have changed the mask: record the correction, or go back to the proposal first."
        )


def _decision(
    office: Office,
    reading: Reading,
    answer: Answer,
    corrected: NDArray[np.uint8] | None,
    strokes: int,
) -> Decision:
    case, run, sitting = reading.case, office.run, reading.sitting
    path = sha256 = dice = hd95 = None
    if corrected is not None:
        path, sha256 = name_correction(case, corrected)
        spacing = case.affine if run.units == "mm" else (1.0, 1.0, 1.0)
        score = score_case(
            corrected, reading.proposed, spacing=spacing, nsd_tolerance=_NSD_TOLERANCE
        )
        dice, hd95 = score.dice, score.hd95
    return Decision(
        case_id=case.case_id,
        hospital=case.patient.hospital,
        arm=run.arm,
        verdict=answer.verdict,
        reader=reading.reader,
        proposed_sha256=reading.proposal.sha256,
        seconds=round(sitting.seconds, 1),
        slices_seen=tuple(sorted(reading.canonical.stored_slice(i) for i in sitting.seen)),
        reason=answer.reason,
        comment=answer.comment.strip(),
        corrected_sha256=sha256,
        corrected_path=path,
        strokes=strokes,
        dice=dice,
        hd95=hd95,
        backbone=run.backbone,
        adapter_sha256=run.adapter_sha256,
    )
