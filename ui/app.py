"""The review page for `streamlit run ui/app.py`; EVENHAND_REVIEW_RUN names the run folder."""

from pathlib import Path

import streamlit as st

import evenhand_ui
from evenhand_ui.serving import middleware, routes

# Streamlit finds the app by reading this file: it must be made here, in so many words.
app = st.App(
    Path(evenhand_ui.__file__).with_name("script.py"), routes=routes(), middleware=middleware()
)
