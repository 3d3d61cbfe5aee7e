"""One case on the page: the viewer, its history, and masks as files.

Looking, painting and deciding happen in the viewer and go by the routes. This
script only opens the case, hands out a ticket, and turns to the next case when
the viewer says that it was decided.
"""

import time
from typing import Any

import numpy as np
import streamlit as st

from evenhand.errors import DataError, EvenhandError
from evenhand.review import COMMENT_LIMIT, Claim, Reason, State, claim_case, release_claim
from evenhand_ui.component import mount_viewer
from evenhand_ui.drafts import Box
from evenhand_ui.faults import told_plainly
from evenhand_ui.history import show_history
from evenhand_ui.masks import check_uploaded_mask, recorded_mask
from evenhand_ui.office import Office, Reading
from evenhand_ui.runs import days_between
from evenhand_ui.tickets import READ, WRITE
from evenhand_ui.volumes import grid_of, pack
from evenhand_ui.wording import reason_text, state_text, study_text
from evenhand_ui.worklist import WorkItem

__all__ = ["show_case"]


def show_case(office: Office, item: WorkItem, *, reader: str, following: str | None) -> None:
    """Draw one case.

    Args:
        office: the run under review.
        item: the case.
        reader: who reads.
        following: the case that comes after the decision; None: this is the last.
    """
    claim = claim_case(office.store, office.run.arm, item.case_id, reader, now_s=time.time())
    _header(office, item, claim, reader, following)
    reading = office.reading(item.case_id, reader)
    _start_from_recorded(office, item, reading)
    _viewer(office, item, reading, claim.reader != reader, following)
    if following is not None:
        office.prepare(following, reader)
    history, exchange = st.columns(2)
    with history:
        show_history(office, item, reading)
    if claim.reader == reader:
        with exchange:
            _exchange(office, item, reading)


def _header(
    office: Office, item: WorkItem, claim: Claim, reader: str, following: str | None
) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Worklist",
            icon=":material/arrow_back:",
            on_click=_turn_to,
            args=(office, item, reader, None),
        )
        st.markdown(f"**{item.case_id}**", width="content")
        st.text(f"{item.hospital} · {state_text(item.state)} · {reader}", width="content")
        if following is not None:
            st.button(
                "Skip to the next open case",
                type="tertiary",
                shortcut="S",
                on_click=_turn_to,
                args=(office, item, reader, following),
            )
    if claim.reader != reader:
        since = time.strftime("%H:%M", time.gmtime(claim.since_s))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Take the case over", on_click=_take_over, args=(office, item, reader))
            st.warning(
                f"{claim.reader} has had this case open since {since} UTC. You can look; "
                "to work on it, take it over. Their draft is kept."
            )


@st.fragment
def _viewer(
    office: Office, item: WorkItem, reading: Reading, readonly: bool, following: str | None
) -> None:
    with told_plainly():
        generation = st.session_state.get("generation", 0)
        key = f"viewer-{reading.place.name}-{generation}-{readonly}"
        result = mount_viewer(key, _viewer_data(office, reading, readonly))
        if result.decided:
            position = result.decided["position"]
            st.session_state["message"] = f"Recorded as decision {position}: {item.case_id}"
            st.session_state["open_case"] = following
            st.rerun()
        if result.lost:
            st.rerun()


def _viewer_data(office: Office, reading: Reading, readonly: bool) -> dict[str, Any]:
    canonical, sitting = reading.canonical, reading.sitting
    opaque = office.tickets.opaque(reading.case.case_id)
    action = READ if readonly else WRITE
    tumour = reading.proposal.voxels > 0
    return {
        "case": opaque,
        "ticket": office.tickets.issue(reading.reader, opaque, action, now_s=time.time()),
        "readerCookie": office.tickets.sign_reader(reading.reader),
        "draftKey": reading.place.name,
        "readonly": readonly,
        **grid_of(canonical),
        "others": [
            study_text(one.case_id, days_between(reading.case, one))
            for one in office.run.others(reading.case)
        ],
        "sliceAxis": canonical.slice_axis,
        "sequences": list(reading.case.sequences),
        "modality": reading.case.acquisition.get("modality", ""),
        "uncertainty": office.run.probability_path(reading.case.case_id).is_file(),
        "must": sorted(sitting.must_see),
        "missing": sitting.missing,
        "mustText": "slices with proposed tumour" if tumour else "slices (no tumour is proposed)",
        "lengthUnit": "mm" if office.run.units == "mm" else "units",
        "reasons": [[reason.value, reason_text(reason)] for reason in Reason],
        "commentLimit": COMMENT_LIMIT,
    }


def _start_from_recorded(office: Office, item: WorkItem, reading: Reading) -> None:
    """Who opens a corrected case again goes on from the mask that was recorded."""
    latest = item.latest
    if item.state is not State.CORRECTED or latest is None or not latest.decision.corrected_path:
        return
    if office.drafts.read(reading.place).revision == 0:
        mask = recorded_mask(office.run.database.parent, latest, reading.case)
        _keep_as_draft(office, reading, mask)


def _keep_as_draft(office: Office, reading: Reading, mask: np.ndarray[Any, Any]) -> None:
    turned = reading.canonical.turn(mask)
    box = Box.around(turned)
    with office.lock:
        draft = office.drafts.read(reading.place)
        office.drafts.save(
            reading.place,
            pack(turned[box.slices]),
            box,
            base=draft.revision,
            strokes=draft.strokes,
        )


def _exchange(office: Office, item: WorkItem, reading: Reading) -> None:
    """Offer masks and image as files, and take a mask that was drawn elsewhere."""
    with st.expander("Masks as files", icon=":material/swap_vert:"):
        name = item.case_id
        with st.container(horizontal=True):
            st.download_button(
                "Proposed mask",
                office.run.mask_path(name).read_bytes,
                file_name=f"{name}_proposed.nii.gz",
                mime="application/gzip",
                on_click="ignore",
            )
            sequence = next(iter(reading.case.sequences))
            st.download_button(
                f"Image ({sequence})",
                office.run.image_path(reading.case, sequence).read_bytes,
                file_name=f"{name}_{sequence}.nii.gz",
                mime="application/gzip",
                on_click="ignore",
            )
        st.caption(
            "A mask that was drawn in another program takes the place of yours in the viewer. "
            "It is recorded when you press Record correction."
        )
        upload = st.file_uploader(
            "Mask (.nii or .nii.gz, 0 and 1)", type=["nii", "gz"], key=f"upload-{item.case_id}"
        )
        taken = st.session_state.get("taken_upload")
        if upload is not None and upload.file_id != taken:
            try:
                mask = check_uploaded_mask(upload.getvalue(), reading.case, reading.proposed)
                _keep_as_draft(office, reading, mask)
            except DataError as error:
                st.error(str(error))
                return
            st.session_state["taken_upload"] = upload.file_id
            st.session_state["generation"] = st.session_state.get("generation", 0) + 1
            st.rerun()


def _turn_to(office: Office, item: WorkItem, reader: str, case_id: str | None) -> None:
    """Leave a case for another, or (None) for the worklist; its clock stops, its draft stays."""
    st.session_state["open_case"] = case_id
    with office.lock:
        office.reading(item.case_id, reader).sitting.leave()
    release_claim(office.store, office.run.arm, item.case_id, reader)


def _take_over(office: Office, item: WorkItem, reader: str) -> None:
    try:
        claim_case(
            office.store,
            office.run.arm,
            item.case_id,
            reader,
            now_s=time.time(),
            take_over=True,
        )
    except EvenhandError as error:
        st.session_state["message"] = str(error)
