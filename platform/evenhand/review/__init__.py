"""Decisions about proposed masks, and the append-only, hash-chained store they are kept in."""

from evenhand.review.records import (
    COMMENT_LIMIT,
    Decision,
    Entry,
    Reason,
    State,
    Verdict,
    state_of,
)
from evenhand.review.store import GENESIS_SHA256, ChainCheck, ReviewStore

__all__ = [
    "COMMENT_LIMIT",
    "GENESIS_SHA256",
    "ChainCheck",
    "Decision",
    "Entry",
    "Reason",
    "ReviewStore",
    "State",
    "Verdict",
    "state_of",
]
