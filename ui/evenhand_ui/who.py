"""Who is at the page: a name in a demo, else what proxy or OIDC say; and the lock after a pause.

Streamlit and the viewer learn a person's pseudonym and their own printed name, no more.
"""

import time
from dataclasses import dataclass

import streamlit as st

from evenhand.errors import ReviewError
from evenhand.review import PASSPHRASE_MIN, Role, check_passphrase, set_passphrase
from evenhand_ui.access import DEMO_ROLES, Visitor, visitor_by_id, visitor_by_login
from evenhand_ui.gate import LOGIN_HEADER
from evenhand_ui.office import Office
from evenhand_ui.oidc import is_over, login_from
from evenhand_ui.wording import role_text

__all__ = ["Who", "arrive"]

_LOOK_EVERY_S = 20


@dataclass(frozen=True)
class Who:
    """Who is at the page (None: a demo without a name yet), and as what."""

    visitor: Visitor | None
    role: Role

    @property
    def person_id(self) -> str:
        """Pseudonym; empty: nobody yet."""
        return self.visitor.person_id if self.visitor is not None else ""


def arrive(office: Office) -> Who | None:
    """Draw what a person is asked before they may go on; None: they may not yet."""
    if not office.rules.verified:
        return _demo(office)
    visitor = _known(office)
    if visitor is None:
        return None
    if not visitor.has_passphrase:
        _choose_passphrase(office, visitor)
        return None
    if office.presence.away(visitor.person_id):
        _locked(office, visitor)
        return None
    office.presence.touch(visitor.person_id)
    _lock_in_time(office, visitor.person_id)
    with st.sidebar:
        st.markdown("## Evenhand review")
        st.text(f"{visitor.name} ({visitor.person_id})")
        st.caption("Research software. Not for clinical use.")
        role = _role(visitor.roles)
        _log_out(office)
    return Who(visitor, role)


def _demo(office: Office) -> Who:
    with st.sidebar:
        st.markdown("## Evenhand review")
        st.markdown(
            ":orange-badge[Research demo] No login: the name below is not verified. "
            "Not for clinical use."
        )
        st.session_state.setdefault("reader", st.session_state.get("reader_name", ""))
        reader = st.text_input("Reader", key="reader", max_chars=100, placeholder="Your name")
        st.session_state["reader_name"] = reader.strip()
        twice = office.rules.second_share > 0
        role = _role(DEMO_ROLES if twice else frozenset({Role.READER, Role.AUDITOR}))
    return Who(visitor_by_id(office, reader), role)


def _role(roles: frozenset[Role]) -> Role:
    choices = [role for role in Role if role in roles]
    if len(choices) == 1:
        return choices[0]
    role = st.selectbox(
        "Act as", choices, key="role", format_func=role_text, persist_state="session"
    )
    if st.session_state.get("role_before", role) is not role:
        st.session_state["open_case"] = None
    st.session_state["role_before"] = role
    return role


def _known(office: Office) -> Visitor | None:
    if office.rules.login == "proxy":
        login = office.tickets.login_of(st.context.headers.get(LOGIN_HEADER, ""))
    else:
        if not st.user.is_logged_in:
            st.title("Evenhand review")
            st.button("Log in", type="primary", on_click=st.login)
            return None
        if is_over(st.user, hours=office.rules.login_hours, now_s=time.time()):
            st.title("Evenhand review")
            st.markdown("Your login is too old. Nothing is lost: what you painted is a draft.")
            st.button("Log in again", type="primary", on_click=st.login)
            return None
        login = login_from(st.user, office.rules.oidc_claim)
    visitor = visitor_by_login(office, login)
    if visitor is None:
        st.error(
            "You are logged in, but not on the list of people who may work here. "
            "Ask an administrator of this page."
        )
        _log_out(office)
    return visitor


def _log_out(office: Office) -> None:
    """Offer a way out where this page's own cookie is the login; a proxy has its own."""
    if office.rules.login == "oidc":
        st.button("Log out", on_click=st.logout)


def _choose_passphrase(office: Office, visitor: Visitor) -> None:
    st.title("Choose a passphrase")
    st.markdown(
        "You sign each decision with it, and it opens the page again after a pause. Nobody else "
        "may know it; it is kept as a hash that cannot be turned back."
    )
    with st.form("passphrase"):
        first = st.text_input(f"Passphrase ({PASSPHRASE_MIN} characters or more)", type="password")
        second = st.text_input("The same again", type="password")
        if st.form_submit_button("Keep it", type="primary"):
            if first != second:
                st.error("The two are not the same.")
                return
            try:
                set_passphrase(office.store, visitor.person_id, first)
            except ReviewError as error:
                st.error(str(error))
                return
            office.presence.touch(visitor.person_id)
            st.rerun()


def _locked(office: Office, visitor: Visitor) -> None:
    st.title("Locked after a pause")
    st.markdown("Nothing is lost: what you painted is kept as a draft.")
    with st.form("locked"):
        passphrase = st.text_input(f"Passphrase of {visitor.name}", type="password")
        if st.form_submit_button("Go on", type="primary"):
            try:
                check_passphrase(office.store, visitor.person_id, passphrase, now_s=time.time())
            except ReviewError as error:
                st.error(str(error))
                return
            office.presence.touch(visitor.person_id)
            st.rerun()


@st.fragment(run_every=_LOOK_EVERY_S)
def _lock_in_time(office: Office, person_id: str) -> None:
    """No image stays on the screen of somebody who has left."""
    if office.presence.away(person_id):
        st.rerun()
