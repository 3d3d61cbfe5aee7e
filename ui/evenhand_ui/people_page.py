"""The administrator's page: who may do what. It shows no case."""

from collections.abc import Callable

import streamlit as st

from evenhand.errors import EvenhandError
from evenhand.review import (
    Author,
    Person,
    Role,
    Way,
    clear_passphrase,
    people,
    put_person,
    remove_person,
)
from evenhand_ui.office import Office
from evenhand_ui.who import Who
from evenhand_ui.wording import role_text

__all__ = ["show_people"]


def show_people(office: Office, who: Who) -> None:
    """Draw who there is, and a form to add or change one."""
    st.markdown("### People")
    by = Author(name=who.person_id, way=Way.PAGE)
    known = people(office.store)
    st.dataframe(
        {
            "Id": [one.person_id for one in known],
            "Printed name": [one.name for one in known],
            "Login": [one.login for one in known],
            "Roles": [", ".join(role_text(role) for role in sorted(one.roles)) for one in known],
            "Passphrase": ["chosen" if one.has_passphrase else "not yet" for one in known],
        },
        hide_index=True,
    )
    left, right = st.columns(2)
    with left, st.form("person", clear_on_submit=True):
        st.markdown("**Add a person, or change one**")
        person_id = st.text_input("Id, a pseudonym: all that readers and files see", key="new_id")
        login = st.text_input("Login, as the proxy or OIDC says it", key="new_login")
        name = st.text_input("Printed name, for signatures", key="new_name")
        roles = st.multiselect("Roles", list(Role), format_func=role_text, key="new_roles")
        if st.form_submit_button("Keep", type="primary"):
            may = frozenset(roles)
            _try(
                lambda: put_person(
                    office.store,
                    Person(person_id=person_id, login=login.strip(), name=name, roles=may),
                    by=by,
                )
            )
    with right, st.container(border=True):
        chosen = st.selectbox("Person", [one.person_id for one in known], key="one_of_all")
        st.caption("What they decided stays in the trail. So does each change here, with your id.")
        if st.button("Let them choose a new passphrase", key="clear") and chosen:
            _try(lambda: clear_passphrase(office.store, chosen, by=by))
        if st.button("Take all rights away", key="remove") and chosen:
            _try(lambda: remove_person(office.store, chosen, by=by))


def _try(work: Callable[[], None]) -> None:
    try:
        work()
    except EvenhandError as error:
        st.error(str(error))
        return
    st.rerun()
