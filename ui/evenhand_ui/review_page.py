"""The page where cases are read: the worklist of a role, or the case that is open."""

import time
from collections.abc import Mapping, Sequence

import streamlit as st

from evenhand.review import STAGE_OF, Claim, Role, State, active_claims
from evenhand_ui.case_page import show_case
from evenhand_ui.office import Office
from evenhand_ui.who import Who
from evenhand_ui.wording import size_text, state_text
from evenhand_ui.worklist import WorkItem, build_worklist, count_states, next_open, select

__all__ = ["show_review"]

ROWS_PER_PAGE = 15
"""Cases on one page of the worklist."""

_TITLES = ("Case", "Hospital", "State", "Slices", "Proposed size", "Last reader", "When (UTC)", "")
_WIDTHS = (3, 2, 2, 1, 2, 2, 2, 1.2)

_NEVER_ALONE = frozenset({State.HALF_READ, State.DISPUTED})
"""States that only runs with second readings have; elsewhere their counts would be noise."""


def show_review(office: Office, who: Who) -> None:
    """Draw the open case, or the worklist."""
    reviews = office.reviews()
    items = build_worklist(office.run, reviews, person_id=who.person_id, role=who.role)
    open_case = st.session_state.get("open_case")
    item = next((one for one in items if one.case_id == open_case), None)
    if item is not None and who.visitor is not None:
        st.query_params["case"] = office.tickets.opaque(item.case_id)
        # What comes next is looked for in the filtered list first, then in the whole one.
        wanted = [one for one in items if one.case_id in st.session_state.get("wanted", ())]
        following = next_open(wanted, item.case_id) or next_open(items, item.case_id)
        show_case(office, item, visitor=who.visitor, role=who.role, following=following)
        return
    if item is not None:
        st.info("Write your name at the left to open the case.")
    else:
        st.query_params.clear()
    _show_worklist(office, items, _sidebar(office, items), who)


def _sidebar(office: Office, items: Sequence[WorkItem]) -> list[WorkItem]:
    done = sum(1 for item in items if item.decided is not None or item.state is not State.OPEN)
    with st.sidebar:
        if items:
            st.progress(done / len(items), text=f"{done} of {len(items)} cases decided")
        st.caption(f"Masks of arm: {office.run.arm}")
        st.divider()
        states = st.multiselect(
            "State",
            _states(office),
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


def _states(office: Office) -> list[State]:
    twice = office.rules.second_share > 0
    return [state for state in State if twice or state not in _NEVER_ALONE]


def _show_worklist(
    office: Office, items: Sequence[WorkItem], wanted: Sequence[WorkItem], who: Who
) -> None:
    st.markdown("### Worklist")
    counts = count_states(items)
    states = _states(office)
    for column, state in zip(st.columns(len(states)), states, strict=True):
        column.metric(state_text(state), counts[state])
    _next(office, items, wanted, who)
    if any(item.doubt > 0 for item in items):
        st.caption(
            "Where the models are unsure or differ comes first; hospitals, sexes and ages take "
            "turns, so that none is reviewed more than another."
        )
    if not wanted:
        st.info("No case fits the filters." if items else "There is no case for this role now.")
        return
    for column, title in zip(st.columns(_WIDTHS), _TITLES, strict=True):
        column.caption(title)
    pages = -(-len(wanted) // ROWS_PER_PAGE)
    table = st.container()
    page = st.pagination(pages, key=f"page-of-{pages}", persist_state="session") if pages > 1 else 1
    stage = STAGE_OF[who.role]
    claims = active_claims(office.store, office.run.arm, now_s=time.time(), stage=stage)
    with table:
        for item in wanted[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE]:
            _show_row(office, item, claims, who)


def _next(office: Office, items: Sequence[WorkItem], wanted: Sequence[WorkItem], who: Who) -> None:
    """Offer what is to be done next, or say that nothing is."""
    if who.role is Role.AUDITOR:
        return
    reader = who.person_id
    first = next_open(wanted)
    if first is not None:
        if reader:
            office.prepare(first, reader, who.role)
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
    elif items and next_open(items) is None:
        st.success("All cases are decided.")


def _show_row(office: Office, item: WorkItem, claims: Mapping[str, Claim], who: Who) -> None:
    when = f"{item.latest.decided_at_utc:%d %b %H:%M}" if item.latest is not None else ""
    claim = claims.get(item.case_id)
    busy = f" · {claim.reader} reads it now" if claim and claim.reader != who.person_id else ""
    unsure = "" if item.uncertainty is None else f" · uncertainty {item.uncertainty:.2f}"
    size = size_text(item.proposal, office.run.units) + unsure
    texts = (
        item.case_id,
        item.hospital,
        state_text(item.state) + busy,
        "" if item.unaided else str(item.proposal.tumour_slices),
        "shown after your own" if item.unaided else size,
        item.reader,
        when,
    )
    *cells, last = st.columns(_WIDTHS, vertical_alignment="center")
    for cell, text in zip(cells, texts, strict=True):
        cell.text(text)
    last.button(
        "Open",
        key=f"open-{item.case_id}",
        disabled=who.visitor is None,
        on_click=_open_case,
        args=(item.case_id,),
    )


def _open_case(case_id: str) -> None:
    st.session_state["open_case"] = case_id
