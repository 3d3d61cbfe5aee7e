"""The review page: who reads, what is to be read, one case at a time.

State lives in three places on purpose: decisions in the database, what a reader
has looked at in `st.session_state`, volumes in a cache keyed by content hash,
so that nothing of one reader's session can reach another's.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from evenhand.review import ReviewStore, State
from evenhand_ui.case_page import show_case
from evenhand_ui.faults import told_plainly
from evenhand_ui.options import ARM_VARIABLE, RUN_VARIABLE
from evenhand_ui.runs import ReviewRun
from evenhand_ui.wording import size_text, state_text
from evenhand_ui.worklist import WorkItem, build_worklist, count_states, next_open, select

__all__ = ["main"]

ROWS_PER_PAGE = 15
"""Cases on one page of the worklist."""

_TITLES = ("Case", "Hospital", "State", "Slices", "Proposed size", "Last reader", "When (UTC)", "")
_WIDTHS = (3, 2, 2, 1, 2, 2, 2, 1.2)


def main() -> None:
    """Draw the page: the open case, or the worklist."""
    # No page icon: Streamlit fetches the material ones from a server of Google's.
    st.set_page_config(page_title="Evenhand review", layout="wide")
    # The picture needs the room that Streamlit leaves around a page.
    st.html("<style>.stMainBlockContainer {padding: 4rem 2rem 1rem 2rem}</style>")
    with told_plainly():
        _show()


def _show() -> None:
    folder = os.environ.get(RUN_VARIABLE)
    if not folder:
        st.error(
            f"No run to review. Start this page with `evenhand review RUN`, or set {RUN_VARIABLE}."
        )
        return
    run = ReviewRun.open(Path(folder), os.environ.get(ARM_VARIABLE) or None)
    store = _open_store(str(run.database))
    items = build_worklist(run, store)
    reader, wanted = _sidebar(run, items)
    message = st.session_state.pop("message", None)
    if message:
        st.toast(message)
    case_id = st.session_state.get("open_case")
    item = next((item for item in items if item.case_id == case_id), None)
    if item is None:
        _show_worklist(run, items, wanted)
    else:
        # What comes next is looked for in the filtered list first, then in the whole one.
        following = next_open(wanted, item.case_id) or next_open(items, item.case_id)
        show_case(run, store, item, reader=reader, following=following)


@st.cache_resource(show_spinner=False)
def _open_store(database: str) -> ReviewStore:
    return ReviewStore(Path(database))


def _sidebar(run: ReviewRun, items: Sequence[WorkItem]) -> tuple[str, list[WorkItem]]:
    counts = count_states(items)
    done = len(items) - counts[State.OPEN]
    with st.sidebar:
        st.markdown("## Evenhand review")
        st.markdown(
            ":orange-badge[Research demo] No login yet: the name below is not verified. "
            "Not for clinical use."
        )
        reader = st.text_input(
            "Reader",
            key="reader",
            max_chars=100,
            placeholder="Your name",
        )
        st.progress(done / len(items), text=f"{done} of {len(items)} cases decided")
        st.caption(f"Masks of arm: {run.arm}")
        st.divider()
        states = st.multiselect(
            "State", list(State), key="states", format_func=state_text, placeholder="All states"
        )
        hospitals = st.multiselect(
            "Hospital",
            sorted({item.hospital for item in items}),
            key="hospitals",
            placeholder="All hospitals",
        )
    return reader.strip(), select(items, states=states, hospitals=hospitals)


def _show_worklist(run: ReviewRun, items: Sequence[WorkItem], wanted: Sequence[WorkItem]) -> None:
    st.markdown("### Worklist")
    for column, (state, count) in zip(
        st.columns(len(State)), count_states(items).items(), strict=True
    ):
        column.metric(state_text(state), count)
    first = next_open(wanted)
    if first is not None:
        st.button("Open the next open case", type="primary", on_click=_open_case, args=(first,))
    elif all(item.state is not State.OPEN for item in items):
        st.success("All cases are decided.")
    if not wanted:
        st.info("No case fits the filters.")
        return
    for column, title in zip(st.columns(_WIDTHS), _TITLES, strict=True):
        column.caption(title)
    pages = -(-len(wanted) // ROWS_PER_PAGE)
    table = st.container()
    page = st.pagination(pages, key=f"page-of-{pages}", persist_state="session") if pages > 1 else 1
    with table:
        for item in wanted[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE]:
            _show_row(run, item)


def _show_row(run: ReviewRun, item: WorkItem) -> None:
    entry = item.latest
    reader = when = ""
    if entry is not None:
        reader, when = entry.decision.reader, f"{entry.decided_at_utc:%d %b %H:%M}"
    texts = (
        item.case_id,
        item.hospital,
        state_text(item.state),
        str(item.proposal.tumour_slices),
        size_text(item.proposal, run.units),
        reader,
        when,
    )
    *cells, last = st.columns(_WIDTHS, vertical_alignment="center")
    for cell, text in zip(cells, texts, strict=True):
        cell.text(text)
    last.button("Open", key=f"open-{item.case_id}", on_click=_open_case, args=(item.case_id,))


def _open_case(case_id: str) -> None:
    st.session_state["open_case"] = case_id
