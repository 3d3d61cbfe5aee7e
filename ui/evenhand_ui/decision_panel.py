"""The decision about one case: accept, reject, correct with an uploaded mask, withdraw."""

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from evenhand.errors import DataError, EvenhandError, ReviewError
from evenhand.review import COMMENT_LIMIT, Decision, Reason, State, Verdict
from evenhand_ui.desk import Desk, leave_desk
from evenhand_ui.masks import check_uploaded_mask, keep_correction, name_correction
from evenhand_ui.wording import history_line, reason_text, size_text, slices_text

__all__ = ["show_decision_panel"]


def show_decision_panel(desk: Desk) -> None:
    """Draw what has been seen, the ways to decide, and the history of the case."""
    seen, needed = desk.sitting.must_see & desk.sitting.seen, desk.sitting.must_see
    what = "slices with proposed tumour" if desk.areas.any() else "slices (no tumour is proposed)"
    st.text(f"Proposed tumour: {size_text(desk.item.proposal, desk.run.units)}")
    st.progress(len(seen) / len(needed), text=f"Seen {len(seen)} of {len(needed)} {what}")
    missing = desk.sitting.missing
    # There is always a line here: if it came and went, the buttons would move under the pointer.
    st.caption(
        f"Accept opens when these were seen: {slices_text(missing)}"
        if missing
        else "All were seen: Accept is open."
    )
    if not desk.reader:
        st.info("Write your name under Reader at the left to decide.")
    reason = st.selectbox(
        "Reason, to correct or reject",
        list(Reason),
        index=None,
        format_func=reason_text,
        placeholder="None",
        key=desk.key("reason"),
    )
    comment = st.text_area(
        "Comment",
        key=desk.key("comment"),
        max_chars=COMMENT_LIMIT,
        height=80,
        placeholder="Optional. No names, no identifiers.",
    )
    with st.container(horizontal=True):
        accept = st.button(
            "Accept",
            type="primary",
            icon=":material/check:",
            key=desk.key("accept"),
            disabled=bool(missing) or not desk.reader,
        )
        reject = st.button(
            "Reject",
            icon=":material/close:",
            key=desk.key("reject"),
            disabled=not desk.reader,
        )
    answer = st.container()
    corrected = _correction_panel(desk)
    with answer:
        if accept:
            _decide(desk, Verdict.ACCEPT, reason, comment)
        elif reject:
            _decide(desk, Verdict.REJECT, reason, comment)
        elif corrected is not None:
            _decide(desk, Verdict.CORRECT, reason, comment, corrected)
    _show_history(desk)


def _correction_panel(desk: Desk) -> NDArray[np.uint8] | None:
    """Draw the way to correct a mask; return the corrected one when it is to be recorded."""
    with st.expander("Correct", icon=":material/edit:"):
        st.caption("Change the proposed mask in a tool of your own and upload the result.")
        name = desk.item.case_id
        with st.container(horizontal=True):
            st.download_button(
                "Proposed mask",
                desk.run.mask_path(name).read_bytes,
                file_name=f"{name}_proposed.nii.gz",
                mime="application/gzip",
                key=desk.key("download-mask"),
                on_click="ignore",
            )
            sequence = next(iter(desk.case.sequences))
            st.download_button(
                f"Image ({sequence})",
                desk.run.image_path(desk.case, sequence).read_bytes,
                file_name=f"{name}_{sequence}.nii.gz",
                mime="application/gzip",
                key=desk.key("download-image"),
                on_click="ignore",
            )
        upload = st.file_uploader(
            "Corrected mask (.nii or .nii.gz, 0 and 1)", type=["nii", "gz"], key=desk.key("upload")
        )
        if upload is None:
            desk.sitting.correction = None
        elif desk.sitting.correction is None or desk.sitting.correction[0] != upload.file_id:
            _take_upload(desk, upload.file_id, upload.getvalue())
        correction = desk.sitting.correction
        if correction is not None:
            st.text(
                f"{np.count_nonzero(correction[1])} voxels are tumour now, "
                f"{desk.item.proposal.voxels} were proposed. The blue outline shows them."
            )
        record = st.button(
            "Record correction",
            type="primary",
            key=desk.key("correct"),
            disabled=correction is None or not desk.reader,
        )
    return correction[1] if record and correction is not None else None


def _take_upload(desk: Desk, file_id: str, content: bytes) -> None:
    desk.sitting.correction = None
    try:
        mask = check_uploaded_mask(content, desk.case, desk.proposed)
    except DataError as error:
        st.error(str(error))
    else:
        desk.sitting.correction = (file_id, mask)


def _show_history(desk: Desk) -> None:
    entries = desk.store.entries(case_id=desk.item.case_id, arm=desk.run.arm)
    if not entries:
        return
    with st.expander(f"History ({len(entries)})", expanded=desk.item.state is not State.OPEN):
        if desk.item.state is not State.OPEN:
            st.caption("A new decision replaces the last one; none is ever deleted.")
            withdraw = st.button(
                "Withdraw the decision",
                icon=":material/undo:",
                key=desk.key("withdraw"),
                disabled=not desk.reader,
            )
            if withdraw:
                _decide(desk, Verdict.WITHDRAW, None, "")
        for entry in reversed(entries):
            # st.text: what readers wrote must not be read as markup.
            st.text(history_line(entry, desk.item.proposal.sha256))


def _decide(
    desk: Desk,
    verdict: Verdict,
    reason: Reason | None,
    comment: str,
    corrected: NDArray[np.uint8] | None = None,
) -> None:
    """Record a decision and go on to the next open case; on an error say it and stay."""
    try:
        if verdict is Verdict.ACCEPT and desk.sitting.missing:
            raise ReviewError("Look at all slices with proposed tumour before you accept.")
        if verdict is not Verdict.CORRECT and desk.sitting.correction is not None:
            raise ReviewError(
                "A corrected mask is uploaded: record the correction, or remove the file first."
            )
        path = sha256 = None
        if corrected is not None:
            path, sha256 = name_correction(desk.case, corrected)
        decision = Decision(
            case_id=desk.item.case_id,
            hospital=desk.item.hospital,
            arm=desk.run.arm,
            verdict=verdict,
            reader=desk.reader,
            proposed_sha256=desk.item.proposal.sha256,
            seconds=round(desk.sitting.seconds, 1),
            slices_seen=tuple(sorted(desk.view.voxel_slice(i) for i in desk.sitting.seen)),
            reason=reason,
            comment=comment.strip(),
            corrected_sha256=sha256,
            corrected_path=path,
        )
        if corrected is not None and path is not None:
            keep_correction(desk.run.database.parent / path, desk.case, corrected)
        entry = desk.store.append(decision)
    except EvenhandError as error:
        st.error(str(error))
        return
    leave_desk(desk.item, done=True)
    st.session_state["message"] = f"Recorded as decision {entry.position}: {desk.item.case_id}"
    if verdict is not Verdict.WITHDRAW:
        st.session_state["open_case"] = desk.following
    st.rerun()
