"""Decisions about proposed masks, and the append-only, hash-chained store they are kept in."""

from evenhand.review.claims import (
    CLAIM_S,
    Claim,
    active_claims,
    claim_case,
    release_claim,
)
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
from evenhand.review.trail import TRAIL_COLUMNS, trail_csv, trail_html

__all__ = [
    "CLAIM_S",
    "COMMENT_LIMIT",
    "GENESIS_SHA256",
    "TRAIL_COLUMNS",
    "ChainCheck",
    "Claim",
    "Decision",
    "Entry",
    "Reason",
    "ReviewStore",
    "State",
    "Verdict",
    "active_claims",
    "claim_case",
    "release_claim",
    "state_of",
    "trail_csv",
    "trail_html",
]
