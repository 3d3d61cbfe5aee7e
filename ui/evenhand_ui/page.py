"""The page: who is there, and the pages that their role may see.

State lies where it lasts: decisions in the database, drafts and slices seen on
disk. `st.session_state` only knows which case is open; the address knows it too,
under the case's opaque name, so that a reload comes back to it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from evenhand_ui.faults import told_plainly
from evenhand_ui.navigation import PAGES, Entrance
from evenhand_ui.office import Office, office_of
from evenhand_ui.options import ARM_VARIABLE, DATABASE_VARIABLE, RUN_VARIABLE
from evenhand_ui.tickets import TicketError
from evenhand_ui.who import Who, arrive

__all__ = ["current_office", "main"]

_ROOM = (
    ".stMainBlockContainer {padding: 0.8rem 1rem 1rem 1rem}"
    ".stAppHeader {background: transparent; height: 2rem; min-height: 2rem; pointer-events: none}"
    # Streamlit's "Connection error", the only dialog with a Close: whoever paints must be able to
    # go on without a server, and the viewer itself says that it does not answer.
    ".stDialog:has(button[aria-label='Close']) {display: none}"
)


def main() -> None:
    """Draw the page that is wanted, of those that this person may see."""
    # No page icon: Streamlit fetches the material ones from a server of Google's.
    st.set_page_config(page_title="Evenhand review", layout="wide")
    # The pictures need the room that Streamlit leaves around a page.
    st.html(f"<style>{_ROOM}</style>")
    with told_plainly():
        _show()


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
    _recall(office)
    who = arrive(office)
    if who is None:
        # Nothing of any page is there for somebody who may not go on.
        st.navigation([st.Page(_nothing, title="Evenhand review")], position="hidden")
        return
    message = st.session_state.pop("message", None)
    if message:
        st.toast(message)
    pages = [
        st.Page(
            _drawn(entrance, office, who),
            title=entrance.title,
            url_path=entrance.path,
            default=number == 0,
        )
        for number, entrance in enumerate(one for one in PAGES if who.role in one.roles)
    ]
    st.session_state["review_page"] = pages[0]
    st.navigation(pages, position="sidebar" if len(pages) > 1 else "hidden").run()


def _drawn(entrance: Entrance, office: Office, who: Who) -> Callable[[], None]:
    def draw() -> None:
        with told_plainly():
            entrance.draw(office, who)

    draw.__name__ = entrance.path or "review"
    return draw


def _nothing() -> None:
    """Stand for the pages that are not there."""


def _recall(office: Office) -> None:
    """After a reload: who reads (from a signed cookie), and which case was open (address)."""
    if "open_case" in st.session_state:
        return
    if not office.rules.verified:
        cookie = st.context.cookies.get("evenhand_reader", "")
        st.session_state["reader_name"] = office.tickets.reader_of(cookie)
    try:
        opaque = st.query_params.get("case", "")
        st.session_state["open_case"] = office.case_id(opaque) if opaque else None
    except TicketError:
        st.session_state["open_case"] = None
