"""What Streamlit runs at each interaction."""

from evenhand_ui.page import main

main()
