"""What Streamlit runs for `evenhand watch`."""

from evenhand_ui.federation_page import main

main()
