"""What leaves for a PACS: the mask that stands as DICOM SEG, its measurements as a report."""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from evenhand.errors import DataError, ResourceError, ReviewError
from evenhand.export import MaskOrigin, write_dicom_seg, write_dicom_sr
from evenhand.metrics.lesion_sizes import measure_lesions
from evenhand.review import ReviewStore, State
from evenhand_ui.readings import Plan, review_case
from evenhand_ui.runs import ReviewRun
from evenhand_ui.trail_files import reviewed_mask

__all__ = ["write_report", "write_reviewed_seg"]

_ORIGINS = {State.ACCEPTED: MaskOrigin.ACCEPTED, State.CORRECTED: MaskOrigin.CORRECTED}
_NOT_FOR_IT = frozenset({State.REJECTED, State.NOT_JUDGED, State.DISPUTED, State.HALF_READ})


def write_reviewed_seg(
    run: ReviewRun, store: ReviewStore, case_id: str, series: Sequence[Any], out: Path
) -> MaskOrigin:
    """Write a case's mask as the review leaves it; return how it came about.

    Raises:
        ReviewError: what was decided is not for the mask; nothing is written.
        EvenhandError: as `write_dicom_seg`.
    """
    mask, state = reviewed_mask(run, store, case_id)
    if state in _NOT_FOR_IT:
        raise ReviewError(
            "The latest decision about this case is not for its mask, or its readers have not "
            "agreed yet; nothing was written."
        )
    origin = _ORIGINS.get(state, MaskOrigin.PROPOSED)
    write_dicom_seg(
        out,
        mask,
        run.case(case_id).affine,
        series,
        origin=origin,
        model=run.backbone,
        version=run.adapter_sha256,
    )
    return origin


def write_report(
    run: ReviewRun, store: ReviewStore, case_id: str, series: Sequence[Any], out: Path
) -> int:
    """Write CASE_mask.dcm and CASE_report.dcm of a decided case; return how many lesions.

    Without a report there is no new mask either.

    Raises:
        DataError: the mask holds no tumour.
        ReviewError: nobody has decided for the mask, or its spacings are not true millimetres.
        EvenhandError: as `write_dicom_seg` and `write_dicom_sr`.
    """
    final = review_case(run, store, Plan.of(run), case_id).standing.final
    if final is None:
        raise ReviewError("This case is not decided yet; a report is about what was decided.")
    if run.units != "mm":
        raise ReviewError("This run's spacings are not true millimetres; nothing can be measured.")
    mask, _ = reviewed_mask(run, store, case_id)
    lesions = measure_lesions(mask, run.case(case_id).affine)
    if not lesions:
        raise DataError("The mask holds no tumour: there is nothing to measure or to write.")
    signature = final.decision.signature
    observer = signature.name if signature is not None else f"{final.decision.reader} (unverified)"
    seg = out / f"{case_id}_mask.dcm"
    draft = seg.with_name(f".{seg.name}.{secrets.token_hex(4)}")
    try:
        write_reviewed_seg(run, store, case_id, series, draft)
        write_dicom_sr(out / f"{case_id}_report.dcm", draft, series, lesions, observer=observer)
        draft.replace(seg)
    except OSError as error:
        raise ResourceError(f"'{seg}' cannot be written: {error.strerror}.") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return len(lesions)
