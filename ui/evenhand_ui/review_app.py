"""The review page as `evenhand review` starts it: `streamlit run` wants a script with an app."""

from pathlib import Path

import streamlit as st

from evenhand_ui.serving import middleware, routes

# Streamlit finds the app by reading this file: it must be made here, in so many words.
app = st.App(Path(__file__).with_name("script.py"), routes=routes(), middleware=middleware())
