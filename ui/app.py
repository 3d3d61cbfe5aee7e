"""The review page for `streamlit run ui/app.py`; EVENHAND_REVIEW_RUN names the run folder."""

from evenhand_ui.page import main

main()
