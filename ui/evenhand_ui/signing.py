"""Signing: who decides says once more who they are, under a sentence that says what it means."""

import time
from collections.abc import Callable

import streamlit as st

from evenhand.errors import EvenhandError, ReviewError
from evenhand.review import Entry, Signature, check_passphrase
from evenhand_ui.access import Visitor
from evenhand_ui.answers import Answer, meaning_of
from evenhand_ui.deciding import decide
from evenhand_ui.office import Office, Reading

__all__ = ["ask_signature", "meaning_at", "sign", "sign_decision"]

_METHOD = "passphrase"


def meaning_at(office: Office, reading: Reading, answer: Answer) -> str:
    """Return what a signature under an answer means; it covers the reader's unaided reading."""
    unaided = office.review(reading.case.case_id).unaided_of(reading.reader, reading.role)
    return meaning_of(
        answer.verdict, unaided_at=None if unaided is None else unaided.decided_at_utc
    )


def sign(office: Office, visitor: Visitor, meaning: str, passphrase: str) -> Signature:
    """Return a person's signature under a sentence that says what it means.

    Raises:
        ReviewError: the passphrase is not theirs; nothing was signed.
    """
    check_passphrase(office.store, visitor.person_id, passphrase, now_s=time.time())
    return Signature(name=visitor.name, meaning=meaning, method=_METHOD)


def sign_decision(
    office: Office, visitor: Visitor, reading: Reading, answer: Answer, passphrase: str
) -> Entry:
    """Sign and record what a reader has said about a case.

    Args:
        office: the run under review.
        visitor: who signs.
        reading: their work on the case.
        answer: what was shown to them to sign; nothing else is.
        passphrase: theirs.

    Raises:
        EvenhandError: not their passphrase, or it may not be decided so any more.
    """
    signature = sign(office, visitor, meaning_at(office, reading, answer), passphrase)
    with reading.lock:
        if office.to_sign.get(reading.place) != answer:
            raise ReviewError(
                "This is not what waits for your signature any more, perhaps because of another "
                "window. Nothing was recorded: press Cancel, look at the case, and decide again."
            )
        return decide(office, reading, answer, now_s=time.time(), signature=signature)


@st.dialog("Sign", dismissible=False)
def ask_signature(
    visitor: Visitor,
    meaning: str,
    case_id: str,
    work: Callable[[str], None],
    cancel: Callable[[], None],
) -> None:
    """Ask for the passphrase.

    Args:
        visitor: who signs; their printed name is shown.
        meaning: the sentence that they sign.
        case_id: about which case.
        work: takes the passphrase, records, and turns the page.
        cancel: takes the question back.
    """
    st.markdown(f"**{visitor.name}**")
    st.text(f"Case {case_id}, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC")
    st.text(meaning)
    with st.form("sign", border=False):
        passphrase = st.text_input("Passphrase", type="password", key="sign_passphrase")
        signed = st.form_submit_button("Sign", type="primary")
    if signed:
        try:
            work(passphrase)
        except EvenhandError as error:
            st.error(str(error))
            return
        st.rerun()
    if st.button("Cancel", key="sign_cancel"):
        cancel()
        st.rerun()
