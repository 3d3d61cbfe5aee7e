"""How the page speaks of errors: a sentence in the browser, the particulars in the terminal."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from evenhand.errors import EvenhandError

__all__ = ["told_plainly"]

_log = logging.getLogger(__name__)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Show an expected error as one sentence without paths, and log its own in the terminal.

    A page and each of its fragments need their own: Streamlit runs a fragment
    again without the code around it.
    """
    try:
        yield
    except EvenhandError as error:
        _log.error("The review page cannot go on: %s", error)
        st.error(
            "This cannot be shown: a file of the run is missing, damaged or does not fit. "
            "Nothing was recorded. The terminal that runs the page says which file."
        )
