"""The review page for clinicians (Streamlit)."""
