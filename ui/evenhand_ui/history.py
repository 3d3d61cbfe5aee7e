"""What was decided about a case, by whom, and the way to take it back."""

import time

import streamlit as st

from evenhand.cases.hashing import array_sha256
from evenhand.errors import EvenhandError, ReviewError
from evenhand.review import Decision, Entry, State, Verdict, claim_case
from evenhand_ui.deciding import corrected_mask
from evenhand_ui.office import Office, Reading
from evenhand_ui.wording import history_line
from evenhand_ui.worklist import WorkItem

__all__ = ["show_history"]


def show_history(office: Office, item: WorkItem, reading: Reading) -> None:
    """Draw the decisions about a case, the latest first."""
    entries = office.store.entries(case_id=item.case_id, arm=office.run.arm)
    if not entries:
        return
    with st.expander(f"History ({len(entries)})", expanded=item.state is not State.OPEN):
        if item.state is not State.OPEN:
            st.caption("A new decision replaces the last one; none is ever deleted.")
            if st.button("Withdraw the decision", icon=":material/undo:", key="withdraw"):
                _withdraw(office, item, reading)
        for entry in reversed(entries):
            # st.text: what readers wrote must not be read as markup.
            st.text(history_line(entry, item.proposal.sha256))


def _withdraw(office: Office, item: WorkItem, reading: Reading) -> None:
    try:
        with office.lock:
            entry = _record(office, item, reading)
            office.finish(reading)
    except EvenhandError as error:
        st.error(str(error))
        return
    st.session_state["generation"] = st.session_state.get("generation", 0) + 1
    st.session_state["message"] = f"Recorded as decision {entry.position}: {item.case_id}"
    st.rerun()


def _record(office: Office, item: WorkItem, reading: Reading) -> Entry:
    case_id, arm = item.case_id, office.run.arm
    holder = claim_case(office.store, arm, case_id, reading.reader, now_s=time.time())
    if holder.reader != reading.reader:
        raise ReviewError(f"{holder.reader} has this case open; nothing was withdrawn.")
    if _has_own_work(office, item, reading):
        raise ReviewError(
            "You have painted something that is not recorded, and withdrawing would drop it. "
            "Record it, or take it back with Undo, then withdraw."
        )
    decision = Decision(
        case_id=case_id,
        hospital=item.hospital,
        arm=arm,
        verdict=Verdict.WITHDRAW,
        reader=reading.reader,
        proposed_sha256=item.proposal.sha256,
        seconds=round(reading.sitting.seconds, 1),
        slices_seen=(),
    )
    return office.store.append(decision)


def _has_own_work(office: Office, item: WorkItem, reading: Reading) -> bool:
    """Whether the reader's draft is neither the proposal nor the correction that was recorded."""
    mask = corrected_mask(office, reading)
    if mask is None:
        return False
    recorded = item.latest.decision.corrected_sha256 if item.latest is not None else None
    return array_sha256(mask) != recorded
