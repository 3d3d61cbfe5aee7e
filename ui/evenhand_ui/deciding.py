"""How a decision is taken: what is asked of it, and what is recorded with it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError, EvenhandError, ReviewError
from evenhand.metrics import score_case
from evenhand.metrics.lesion_sizes import lesion_figures
from evenhand.review import (
    Decision,
    Entry,
    Lesion,
    Signature,
    Verdict,
    claim_case,
    release_claim,
)
from evenhand_ui.access import check_right
from evenhand_ui.answers import Answer
from evenhand_ui.drafts import Box, DraftConflictError
from evenhand_ui.masks import keep_correction, name_correction
from evenhand_ui.office import Office, Reading
from evenhand_ui.volumes import pack

__all__ = [
    "Answer",
    "corrected_mask",
    "decide",
    "keep_as_draft",
    "keep_for_signature",
    "tidying_up",
]

_log = logging.getLogger(__name__)

_NSD_TOLERANCE = 1.0
"""Not recorded; the metrics want one."""


def corrected_mask(office: Office, reading: Reading) -> NDArray[np.uint8] | None:
    """Return the painted mask (i, j, k); None where it does not differ from what was shown."""
    draft = office.drafts.read(reading.place)
    if draft.revision == 0:
        return None
    turned = office.drafts.mask(reading.place, draft, reading.canonical.turned_shape)
    mask = np.ascontiguousarray(reading.canonical.back(turned))
    return None if np.array_equal(mask, reading.proposed) else mask


def keep_as_draft(office: Office, reading: Reading, mask: NDArray[np.uint8]) -> None:
    """Make a mask (i, j, k) the reader's draft."""
    turned = reading.canonical.turn(mask)
    box = Box.around(turned)
    with reading.lock:
        draft = office.drafts.read(reading.place)
        office.drafts.save(
            reading.place,
            pack(turned[box.slices]),
            box,
            base=draft.revision,
            strokes=draft.strokes,
        )


def decide(
    office: Office,
    reading: Reading,
    answer: Answer,
    *,
    now_s: float,
    signature: Signature | None = None,
) -> Entry:
    """Record a decision, with the corrected mask where there is one.

    What is said before the proposal was shown is recorded as an unaided reading, and the
    drawing becomes the draft that the reader goes on with; it decides nothing yet.

    Raises:
        ReviewError: it may not be taken so; one sentence for the reader. Nothing was recorded.
        ResourceError: the disk is full; nothing was recorded.
    """
    _measure_early(office, reading)
    with reading.lock:
        decision, mask = _prepared(office, reading, answer, signature, now_s=now_s)
        if mask is not None and decision.corrected_path is not None:
            path = office.run.database.parent / decision.corrected_path
            keep_correction(path, reading.case, mask)
        entry = office.store.append(decision)
        with tidying_up(entry):
            office.finish(reading)
    arm, case_id = office.run.arm, reading.case.case_id
    with tidying_up(entry):
        if decision.verdict is not Verdict.UNAIDED:
            release_claim(office.store, arm, case_id, reading.reader, stage=reading.stage)
        elif mask is not None and mask.any():
            after = office.reading(case_id, reading.reader, reading.role)
            keep_as_draft(office, after, mask)
    return entry


@contextmanager
def tidying_up(entry: Entry) -> Iterator[None]:
    """Log what fails once a decision is recorded: nobody may be told that it is not."""
    try:
        yield
    except EvenhandError as error:
        _log.error("Decision %d is recorded; what came after it failed: %s", entry.position, error)


def keep_for_signature(office: Office, reading: Reading, answer: Answer, *, now_s: float) -> None:
    """Check a decision as if it were recorded, and keep it until it is signed.

    Raises:
        ReviewError: it may not be taken so; nothing was kept.
    """
    _measure_early(office, reading)
    with reading.lock:
        _prepared(office, reading, answer, None, now_s=now_s)
        office.to_sign[reading.place] = answer


def _measure_early(office: Office, reading: Reading) -> None:
    """Measure the mask before the lock is taken: nothing at the case waits for it."""
    with suppress(DataError):  # it is told where it matters
        mask = corrected_mask(office, reading)
        if mask is None and not reading.unaided:
            _lesions(office, reading, reading.proposed, reading.proposal.sha256)
        if mask is None:
            return
        sha256 = name_correction(reading.case, mask)[1]
        _to_proposal(office, reading, mask, sha256)
        _lesions(office, reading, mask, sha256)


def _to_proposal(
    office: Office, reading: Reading, mask: NDArray[np.uint8], sha256: str
) -> tuple[float, float]:
    """Return Dice and HD95 of a mask (i, j, k) to the true proposal; worked out once."""
    case = reading.case
    key = (case.case_id, reading.proposal.sha256, sha256)
    found = office.scores.get(key)
    if found is None:
        spacing = case.affine if office.run.units == "mm" else (1.0, 1.0, 1.0)
        proposed = office.proposed(case.case_id)
        score = score_case(mask, proposed, spacing=spacing, nsd_tolerance=_NSD_TOLERANCE)
        found = office.scores[key] = (score.dice, score.hd95)
    return found


def _lesions(
    office: Office, reading: Reading, mask: NDArray[np.uint8], sha256: str
) -> tuple[Lesion, ...] | None:
    """Return the figures of a mask's (i, j, k) lesions; None where the units are not known."""
    if office.run.units != "mm":
        return None
    case = reading.case
    found = office.lesions.get((case.case_id, sha256))
    if found is None:
        found = tuple(
            Lesion(
                volume_ml=one["volume_ml"],
                longest_diameter_mm=one["longest_diameter_mm"],
                perpendicular_diameter_mm=one["perpendicular_diameter_mm"],
                slice=int(one["slice"]),
            )
            for one in lesion_figures(mask, case.affine)
        )
        office.lesions[case.case_id, sha256] = found
    return found


def _prepared(
    office: Office, reading: Reading, answer: Answer, signature: Signature | None, *, now_s: float
) -> tuple[Decision, NDArray[np.uint8] | None]:
    """Check what was said; return what would be recorded."""
    arm, case_id = office.run.arm, reading.case.case_id
    check_right(office, reading.reader, reading.role, case_id, write=True)
    holder = claim_case(
        office.store, arm, case_id, reading.reader, now_s=now_s, stage=reading.stage
    )
    if holder.reader != reading.reader:
        raise ReviewError(f"{holder.reader} has taken this case over; nothing was recorded.")
    reading.demand(answer.shown)
    draft = office.drafts.read(reading.place)
    if draft.revision != answer.revision:
        raise DraftConflictError(draft.revision)
    mask = corrected_mask(office, reading)
    _check(reading, answer, mask)
    verdict = answer.verdict
    if reading.unaided and verdict is not Verdict.CANNOT_JUDGE:
        verdict = Verdict.UNAIDED
        mask = np.zeros_like(reading.proposed) if mask is None else mask
    answer = replace(answer, verdict=verdict)
    decision = _decision(office, reading, answer, mask, strokes=draft.strokes, signature=signature)
    return decision, mask


def _check(reading: Reading, answer: Answer, corrected: NDArray[np.uint8] | None) -> None:
    if reading.unaided and answer.verdict is Verdict.REJECT:
        raise ReviewError(
            "No proposal was shown yet, so there is none to reject: draw the tumour and press "
            "Record correction, or press Accept when you have looked and there is none."
        )
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
    mask: NDArray[np.uint8] | None,
    *,
    strokes: int,
    signature: Signature | None,
) -> Decision:
    case, run, sitting = reading.case, office.run, reading.sitting
    path = sha256 = dice = hd95 = lesions = None
    if mask is not None:
        path, sha256 = name_correction(case, mask)
        dice, hd95 = _to_proposal(office, reading, mask, sha256)
        lesions = _lesions(office, reading, mask, sha256)
    elif answer.verdict is Verdict.ACCEPT:
        lesions = _lesions(office, reading, reading.proposed, reading.proposal.sha256)
    unaided = office.review(case.case_id).unaided_of(reading.reader, reading.role)
    return Decision(
        case_id=case.case_id,
        hospital=case.patient.hospital,
        arm=run.arm,
        verdict=answer.verdict,
        reader=reading.reader,
        proposed_sha256=reading.proposal.sha256,
        seconds=round(sitting.seconds, 1),
        slices_seen=tuple(sorted(reading.canonical.stored_slice(i) for i in sitting.seen)),
        reason=None if answer.verdict is Verdict.UNAIDED else answer.reason,
        comment=answer.comment.strip(),
        corrected_sha256=sha256,
        corrected_path=path,
        strokes=strokes,
        dice=dice,
        hd95=hd95,
        backbone=run.backbone,
        adapter_sha256=run.adapter_sha256,
        stage=reading.stage,
        login=office.rules.login,
        signature=signature,
        unaided_sha256=None if unaided is None else unaided.sha256,
        lesions=lesions,
    )
