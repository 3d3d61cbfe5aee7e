"""One case on the page: the viewer, its history, and masks as files.

Looking, painting and deciding happen in the viewer and go by the routes. This
script only opens the case, hands out a ticket, and turns to the next case when
the viewer says that it was decided.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st

from evenhand.errors import DataError, EvenhandError, ReviewError
from evenhand.review import (
    COMMENT_LIMIT,
    STAGE_OF,
    Claim,
    Entry,
    Reason,
    Role,
    claim_case,
    release_claim,
)
from evenhand_ui.access import Visitor, check_right
from evenhand_ui.answers import Answer
from evenhand_ui.component import mount_viewer
from evenhand_ui.deciding import keep_as_draft
from evenhand_ui.faults import told_plainly
from evenhand_ui.history import show_history
from evenhand_ui.masks import check_uploaded_mask, recorded_mask
from evenhand_ui.office import Office, Reading
from evenhand_ui.oidc import browser_of
from evenhand_ui.runs import days_between
from evenhand_ui.signing import ask_signature, meaning_at, sign_decision
from evenhand_ui.tickets import READ, WRITE
from evenhand_ui.volumes import grid_of
from evenhand_ui.wording import reason_text, state_text, study_text
from evenhand_ui.worklist import WorkItem

__all__ = ["show_case"]

_log = logging.getLogger(__name__)

_ANSWER_LOST = (
    "The answer to your decision was lost on its way. The case was loaded again: its history says "
    "whether the decision was recorded."
)


def show_case(
    office: Office, item: WorkItem, *, visitor: Visitor, role: Role, following: str | None
) -> None:
    """Draw one case.

    Args:
        office: the run under review.
        item: the case, as this person may know it.
        visitor: who reads.
        role: as what.
        following: the case that comes after the decision; None: this is the last.
    """
    reader = visitor.person_id
    claim = _claim(office, item, reader, role) if item.may_decide else None
    reading = office.reading(item.case_id, reader, role)
    _header(office, item, claim, reading, following)
    readonly = claim is None or claim.reader != reader
    if not readonly:
        _start_from_recorded(office, item, reading)
        _ask_for_signature(office, item, visitor, reading, following)
    _viewer(office, item, reading, readonly, following)
    if following is not None:
        office.prepare(following, reader, role, after=item.case_id)
    history, exchange = st.columns(2)
    with history:
        show_history(office, item, reading, visitor)
    if not readonly:
        with exchange:
            _exchange(office, item, reading)


def _claim(
    office: Office, item: WorkItem, reader: str, role: Role, *, take_over: bool = False
) -> Claim:
    return claim_case(
        office.store,
        office.run.arm,
        item.case_id,
        reader,
        now_s=time.time(),
        stage=STAGE_OF[role],
        take_over=take_over,
    )


def _header(
    office: Office, item: WorkItem, claim: Claim | None, reading: Reading, following: str | None
) -> None:
    reader = reading.reader
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Worklist",
            icon=":material/arrow_back:",
            on_click=_turn_to,
            args=(office, reading, None),
        )
        st.markdown(f"**{item.case_id}**", width="content")
        st.text(f"{item.hospital} · {state_text(item.state)} · {reader}", width="content")
        if following is not None:
            st.button(
                "Skip to the next open case",
                type="tertiary",
                shortcut="S",
                on_click=_turn_to,
                args=(office, reading, following),
            )
    if claim is None:
        st.info("You can look at this case; it is not yours to decide.")
    elif claim.reader != reader:
        since = time.strftime("%H:%M", time.gmtime(claim.since_s))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                "Take the case over", on_click=_take_over, args=(office, item, reader, reading.role)
            )
            st.warning(
                f"{claim.reader} has had this case open since {since} UTC. You can look; "
                "to work on it, take it over. Their draft is kept."
            )
    if reading.unaided:
        st.info(
            "First without the model. Draw the tumour and press Record correction; if there is "
            "none, look at all slices and press Accept. The proposal is shown after that.",
            icon=":material/visibility_off:",
        )
    if reading.role is Role.ADJUDICATOR and claim is not None and claim.reader == reader:
        _offer_readings(office, item, reading)


def _offer_readings(office: Office, item: WorkItem, reading: Reading) -> None:
    """Let the adjudicator start from either reader's mask."""
    standing = office.review(item.case_id).standing
    with st.container(horizontal=True, vertical_alignment="center"):
        dice = "" if standing.dice is None else f" Dice between the two: {standing.dice:.2f}."
        st.text(f"Two readings of this case are done; below is what they say.{dice}")
        for name, entry in (("first", standing.first), ("second", standing.second)):
            if entry is not None and entry.decision.corrected_path:
                st.button(
                    f"Start from the {name} reader's mask",
                    on_click=_start_from,
                    args=(office, reading, entry),
                )


def _start_from(office: Office, reading: Reading, entry: Entry) -> None:
    def work() -> None:
        mask = recorded_mask(office.run.database.parent, entry, reading.case)
        keep_as_draft(office, reading, mask)
        st.session_state["generation"] = st.session_state.get("generation", 0) + 1

    case_id = reading.case.case_id
    _clicked(office, reading.reader, reading.role, case_id, work, write=True)


def _clicked(
    office: Office,
    person_id: str,
    role: Role,
    case_id: str,
    work: Callable[[], object],
    *,
    write: bool,
) -> None:
    """Do what a button is for, if it may be done: it runs before the page asks who is there.

    Nothing is done for somebody who was away for too long, or may not do it any more; they
    are told why when the page is drawn.
    """
    if office.rules.verified and office.presence.away(person_id):
        st.session_state["message"] = "You were away for too long; press it again."
        return
    try:
        check_right(office, person_id, role, case_id, write=write)
        work()
    except ReviewError as error:
        st.session_state["message"] = str(error)
    except EvenhandError as error:
        _log.error("What a button was to do failed: %s", error)
        st.session_state["message"] = "This cannot be done now; the terminal says why."


@st.fragment
def _viewer(
    office: Office, item: WorkItem, reading: Reading, readonly: bool, following: str | None
) -> None:
    with told_plainly():
        generation = st.session_state.get("generation", 0)
        key = f"viewer-{reading.place.name}-{generation}-{readonly}"
        result = mount_viewer(key, _viewer_data(office, reading, readonly))
        if result.decided:
            _decided(office, item, reading, result.decided["position"], following)
            st.rerun()
        if result.again:  # what the viewer shows is loaded anew
            st.session_state["generation"] = generation + 1
            if result.again["why"] == "unknown":
                st.session_state["message"] = _ANSWER_LOST
            st.rerun()
        if result.lost:
            st.rerun()


def _decided(
    office: Office, item: WorkItem, reading: Reading, position: int | None, following: str | None
) -> None:
    """Turn to what comes after what the viewer has sent."""
    if position is None:
        st.session_state["to_sign"] = item.case_id
    elif reading.unaided and not office.unaided(item.case_id, reading.reader, reading.role):
        st.session_state["generation"] = st.session_state.get("generation", 0) + 1
        st.session_state["message"] = f"Recorded as {position}. Here is the proposal."
    else:
        _go_on(item, position, following)


def _go_on(item: WorkItem, position: int, following: str | None) -> None:
    st.session_state["message"] = f"Recorded as decision {position}: {item.case_id}"
    st.session_state["open_case"] = following


def _ask_for_signature(
    office: Office, item: WorkItem, visitor: Visitor, reading: Reading, following: str | None
) -> None:
    answer = _to_sign(office, reading)
    if answer is None:
        return

    def work(passphrase: str) -> None:
        entry = sign_decision(office, visitor, reading, answer, passphrase)
        st.session_state.pop("to_sign", None)
        _go_on(item, entry.position, following)

    def cancel() -> None:
        st.session_state.pop("to_sign", None)
        office.to_sign.pop(reading.place, None)

    meaning = meaning_at(office, reading, answer)
    ask_signature(visitor, meaning, item.case_id, work, cancel)


def _to_sign(office: Office, reading: Reading) -> Answer | None:
    """What this page asks to be signed; None: nothing."""
    here = st.session_state.get("to_sign") == reading.case.case_id
    return office.to_sign.get(reading.place) if here else None


def _viewer_data(office: Office, reading: Reading, readonly: bool) -> dict[str, Any]:
    canonical, sitting = reading.canonical, reading.sitting
    opaque = office.tickets.opaque(reading.case.case_id)
    action = READ if readonly else WRITE
    cookie = "" if office.rules.verified else office.tickets.sign_reader(reading.reader)
    tumour = reading.proposal.voxels > 0
    return {
        "case": opaque,
        "ticket": office.tickets.issue(
            reading.reader,
            opaque,
            action,
            now_s=time.time(),
            role=reading.role,
            browser=browser_of(st.context.cookies),
        ),
        "readerCookie": cookie,
        "draftKey": reading.place.name,
        "readonly": readonly,
        "signing": _to_sign(office, reading) is not None,
        **grid_of(canonical),
        "others": [
            study_text(one.case_id, days_between(reading.case, one))
            for one in office.run.others(reading.case)
        ],
        "sliceAxis": canonical.slice_axis,
        "sequences": list(reading.case.sequences),
        "modality": reading.case.acquisition.get("modality", ""),
        "uncertainty": not reading.unaided
        and office.run.probability_path(reading.case.case_id).is_file(),
        "must": sorted(sitting.must_see),
        "missing": sitting.missing,
        "mustText": "slices with proposed tumour" if tumour else "slices (no tumour is proposed)",
        "lengthUnit": "mm" if office.run.units == "mm" else "units",
        "reasons": [[reason.value, reason_text(reason)] for reason in Reason],
        "commentLimit": COMMENT_LIMIT,
    }


def _start_from_recorded(office: Office, item: WorkItem, reading: Reading) -> None:
    """Who opens a corrected case again goes on from the mask that was recorded."""
    if item.decided is None or not item.decided.decision.corrected_path:
        return
    if office.drafts.read(reading.place).revision == 0:
        mask = recorded_mask(office.run.database.parent, item.decided, reading.case)
        keep_as_draft(office, reading, mask)


def _exchange(office: Office, item: WorkItem, reading: Reading) -> None:
    """Offer masks and image as files, and take a mask that was drawn elsewhere."""
    with st.expander("Masks as files", icon=":material/swap_vert:"):
        name = item.case_id
        with st.container(horizontal=True):
            if not reading.unaided:
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
                partial(office.run.image_file, reading.case, sequence),
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
                keep_as_draft(office, reading, mask)
            except DataError as error:
                st.error(str(error))
                return
            st.session_state["taken_upload"] = upload.file_id
            st.session_state["generation"] = st.session_state.get("generation", 0) + 1
            st.rerun()


def _turn_to(office: Office, reading: Reading, case_id: str | None) -> None:
    """Leave a case for another, or (None) for the worklist; its clock stops, its draft stays."""
    st.session_state["open_case"] = case_id
    st.session_state.pop("to_sign", None)
    with reading.lock:
        reading.sitting.leave()
    if reading.role is Role.AUDITOR:
        return
    arm, left, reader = office.run.arm, reading.case.case_id, reading.reader

    def work() -> None:
        release_claim(office.store, arm, left, reader, stage=reading.stage)

    _clicked(office, reader, reading.role, left, work, write=False)


def _take_over(office: Office, item: WorkItem, reader: str, role: Role) -> None:
    work = partial(_claim, office, item, reader, role, take_over=True)
    _clicked(office, reader, role, item.case_id, work, write=True)
