"""What was decided about a case, by whom, and the way to take it back."""

import streamlit as st

from evenhand.errors import EvenhandError
from evenhand.review import Decision, State, Verdict
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
    decision = Decision(
        case_id=item.case_id,
        hospital=item.hospital,
        arm=office.run.arm,
        verdict=Verdict.WITHDRAW,
        reader=reading.reader,
        proposed_sha256=item.proposal.sha256,
        seconds=round(reading.sitting.seconds, 1),
        slices_seen=(),
    )
    try:
        entry = office.store.append(decision)
    except EvenhandError as error:
        st.error(str(error))
        return
    office.finish(reading)
    st.session_state["generation"] = st.session_state.get("generation", 0) + 1
    st.session_state["message"] = f"Recorded as decision {entry.position}: {item.case_id}"
    st.rerun()
