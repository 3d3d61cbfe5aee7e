"""Decisions about masks, and where they are kept."""
