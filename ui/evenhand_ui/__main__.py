"""The review page as `evenhand review` starts it: `streamlit run` wants a script."""

from evenhand_ui.page import main

main()
