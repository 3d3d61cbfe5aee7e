"""What was decided about a case, by whom, and the way to take it back."""

import time

import streamlit as st

from evenhand.cases.hashing import array_sha256
from evenhand.errors import EvenhandError, ReviewError
from evenhand.review import Decision, Entry, Role, Signature, Verdict, claim_case
from evenhand_ui.access import Visitor, check_right
from evenhand_ui.answers import MEANINGS
from evenhand_ui.deciding import corrected_mask, tidying_up
from evenhand_ui.office import Office, Reading
from evenhand_ui.signing import ask_signature, sign
from evenhand_ui.wording import history_line
from evenhand_ui.worklist import WorkItem

__all__ = ["show_history"]


def show_history(office: Office, item: WorkItem, reading: Reading, visitor: Visitor) -> None:
    """Draw the decisions about a case that a person may see, the latest first."""
    entries = office.review(item.case_id).visible_to(reading.reader, reading.role)
    if not entries:
        return
    own = item.decided is not None and item.may_decide
    with st.expander(f"History ({len(entries)})", expanded=own or reading.role is Role.ADJUDICATOR):
        if own:
            st.caption("A new decision replaces the last one; none is ever deleted.")
            if st.button("Withdraw the decision", icon=":material/undo:", key="withdraw"):
                _ask_to_withdraw(office, item, reading, visitor)
        for entry in reversed(entries):
            # st.text: what readers wrote must not be read as markup.
            st.text(history_line(entry, item.proposal.sha256))


def _ask_to_withdraw(office: Office, item: WorkItem, reading: Reading, visitor: Visitor) -> None:
    if office.rules.verified:

        def work(passphrase: str) -> None:
            signature = sign(office, visitor, MEANINGS[Verdict.WITHDRAW], passphrase)
            _withdraw(office, item, reading, signature)

        ask_signature(visitor, MEANINGS[Verdict.WITHDRAW], item.case_id, work, lambda: None)
        return
    try:
        _withdraw(office, item, reading, None)
    except EvenhandError as error:
        st.error(str(error))
        return
    st.rerun()


def _withdraw(
    office: Office, item: WorkItem, reading: Reading, signature: Signature | None
) -> None:
    with reading.lock:
        entry = _record(office, item, reading, signature)
        with tidying_up(entry):
            office.finish(reading)
    st.session_state["generation"] = st.session_state.get("generation", 0) + 1
    st.session_state["message"] = f"Recorded as decision {entry.position}: {item.case_id}"


def _record(office: Office, item: WorkItem, reading: Reading, signature: Signature | None) -> Entry:
    case_id, arm = item.case_id, office.run.arm
    check_right(office, reading.reader, reading.role, case_id, write=True)
    holder = claim_case(
        office.store, arm, case_id, reading.reader, now_s=time.time(), stage=reading.stage
    )
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
        stage=reading.stage,
        login=office.rules.login,
        signature=signature,
    )
    return office.store.append(decision)


def _has_own_work(office: Office, item: WorkItem, reading: Reading) -> bool:
    """Whether the reader's draft is neither the proposal nor the correction that was recorded."""
    mask = corrected_mask(office, reading)
    if mask is None:
        return False
    recorded = item.decided.decision.corrected_sha256 if item.decided is not None else None
    return array_sha256(mask) != recorded
