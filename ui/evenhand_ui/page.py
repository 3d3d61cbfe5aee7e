"""The review page: who reads, what is to be read, one case at a time.

State lies where it lasts: decisions in the database, drafts and slices seen on
disk. `st.session_state` only knows which case is open; the address knows it too,
under the case's opaque name, so that a reload comes back to it.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st

from evenhand.review import Claim, State, active_claims
from evenhand_ui.case_page import show_case
from evenhand_ui.faults import told_plainly
from evenhand_ui.federation_page import show_federation
from evenhand_ui.office import Office, office_of
from evenhand_ui.options import ARM_VARIABLE, DATABASE_VARIABLE, RUN_VARIABLE
from evenhand_ui.tickets import TicketError
from evenhand_ui.wording import size_text, state_text
from evenhand_ui.worklist import WorkItem, build_worklist, count_states, next_open, select

__all__ = ["current_office", "main"]

ROWS_PER_PAGE = 15
"""Cases on one page of the worklist."""

_ROOM = (
    ".stMainBlockContainer {padding: 0.8rem 1rem 1rem 1rem}"
    ".stAppHeader {background: transparent; height: 2rem; min-height: 2rem; pointer-events: none}"
)

_TITLES = ("Case", "Hospital", "State", "Slices", "Proposed size", "Last reader", "When (UTC)", "")
_WIDTHS = (3, 2, 2, 1, 2, 2, 2, 1.2)


def main() -> None:
    """Draw the page: the open case, or the worklist."""
    # No page icon: Streamlit fetches the material ones from a server of Google's.
    st.set_page_config(page_title="Evenhand review", layout="wide")
    # The pictures need the room that Streamlit leaves around a page.
    st.html(f"<style>{_ROOM}</style>")
    with told_plainly():
        show_federation() if st.query_params.get("page") == "federation" else _show()


def current_office() -> Office | None:
    """Return the run that this process reviews; None: nobody has named one."""
    folder = os.environ.get(RUN_VARIABLE)
    if not folder:
        return None
    database = os.environ.get(DATABASE_VARIABLE) or None
    return office_of(Path(folder), os.environ.get(ARM_VARIABLE) or None, database)


def _show() -> None:
    office = current_office()
    if office is None:
        st.error(
            f"No run to review. Start this page with `evenhand review RUN`, or set {RUN_VARIABLE}."
        )
        return
    items = build_worklist(office.run, office.store)
    _recall(office)
    message = st.session_state.pop("message", None)
    if message:
        st.toast(message)
    reader = st.session_state.get("reader_name", "")
    item = next((one for one in items if one.case_id == st.session_state["open_case"]), None)
    if item is not None and reader:
        st.query_params["case"] = office.tickets.opaque(item.case_id)
        # What comes next is looked for in the filtered list first, then in the whole one.
        wanted = [one for one in items if one.case_id in st.session_state.get("wanted", ())]
        following = next_open(wanted, item.case_id) or next_open(items, item.case_id)
        show_case(office, item, reader=reader, following=following)
        return
    if item is not None:
        st.info("Write your name at the left to open the case.")
    else:
        st.query_params.clear()
    _show_worklist(office, items, _sidebar(office, items))


def _recall(office: Office) -> None:
    """After a reload: who reads (from a signed cookie), and which case was open (address)."""
    if "open_case" in st.session_state:
        return
    cookie = st.context.cookies.get("evenhand_reader", "")
    st.session_state["reader_name"] = office.tickets.reader_of(cookie)
    try:
        opaque = st.query_params.get("case", "")
        st.session_state["open_case"] = office.case_id(opaque) if opaque else None
    except TicketError:
        st.session_state["open_case"] = None


def _sidebar(office: Office, items: Sequence[WorkItem]) -> list[WorkItem]:
    counts = count_states(items)
    done = len(items) - counts[State.OPEN]
    with st.sidebar:
        st.markdown("## Evenhand review")
        st.markdown(
            ":orange-badge[Research demo] No login yet: the name below is not verified. "
            "Not for clinical use."
        )
        st.session_state.setdefault("reader", st.session_state.get("reader_name", ""))
        reader = st.text_input("Reader", key="reader", max_chars=100, placeholder="Your name")
        st.session_state["reader_name"] = reader.strip()
        st.progress(done / len(items), text=f"{done} of {len(items)} cases decided")
        st.caption(f"Masks of arm: {office.run.arm}")
        st.divider()
        states = st.multiselect(
            "State",
            list(State),
            key="states",
            format_func=state_text,
            placeholder="All states",
            persist_state="session",
        )
        hospitals = st.multiselect(
            "Hospital",
            sorted({item.hospital for item in items}),
            key="hospitals",
            placeholder="All hospitals",
            persist_state="session",
        )
        readers = st.multiselect(
            "Last reader",
            sorted({item.reader for item in items if item.reader}),
            key="readers",
            placeholder="All readers",
            persist_state="session",
        )
    wanted = select(items, states=states, hospitals=hospitals, readers=readers)
    st.session_state["wanted"] = [item.case_id for item in wanted]
    return wanted


def _show_worklist(office: Office, items: Sequence[WorkItem], wanted: Sequence[WorkItem]) -> None:
    st.markdown("### Worklist")
    for column, (state, count) in zip(
        st.columns(len(State)), count_states(items).items(), strict=True
    ):
        column.metric(state_text(state), count)
    reader = st.session_state["reader_name"]
    first = next_open(wanted)
    if first is not None:
        if reader:
            office.prepare(first, reader)
        st.button(
            "Open the next open case",
            type="primary",
            shortcut="N",
            disabled=not reader,
            on_click=_open_case,
            args=(first,),
        )
        if not reader:
            st.info("Write your name under Reader at the left to begin.")
    elif all(item.state is not State.OPEN for item in items):
        st.success("All cases are decided.")
    if any(item.uncertainty is not None for item in items):
        st.caption("The most uncertain proposals come first.")
    if not wanted:
        st.info("No case fits the filters.")
        return
    for column, title in zip(st.columns(_WIDTHS), _TITLES, strict=True):
        column.caption(title)
    pages = -(-len(wanted) // ROWS_PER_PAGE)
    table = st.container()
    page = st.pagination(pages, key=f"page-of-{pages}", persist_state="session") if pages > 1 else 1
    claims = active_claims(office.store, office.run.arm, now_s=time.time())
    with table:
        for item in wanted[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE]:
            _show_row(office, item, claims, reader)


def _show_row(office: Office, item: WorkItem, claims: Mapping[str, Claim], reader: str) -> None:
    when = f"{item.latest.decided_at_utc:%d %b %H:%M}" if item.latest is not None else ""
    claim = claims.get(item.case_id)
    busy = f" · {claim.reader} reads it now" if claim and claim.reader != reader else ""
    unsure = "" if item.uncertainty is None else f" · uncertainty {item.uncertainty:.2f}"
    texts = (
        item.case_id,
        item.hospital,
        state_text(item.state) + busy,
        str(item.proposal.tumour_slices),
        size_text(item.proposal, office.run.units) + unsure,
        item.reader,
        when,
    )
    *cells, last = st.columns(_WIDTHS, vertical_alignment="center")
    for cell, text in zip(cells, texts, strict=True):
        cell.text(text)
    last.button(
        "Open",
        key=f"open-{item.case_id}",
        disabled=not reader,
        on_click=_open_case,
        args=(item.case_id,),
    )


def _open_case(case_id: str) -> None:
    st.session_state["open_case"] = case_id
