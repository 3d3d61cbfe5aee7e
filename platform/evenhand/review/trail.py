"""The whole trail of a review: decisions, sendings, changes of people, copies, and their checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evenhand.review.chain import ChainCheck, Link
from evenhand.review.copies import MaskCopy, copies, verify_copies
from evenhand.review.people_changes import PersonChange, people_changes, verify_people
from evenhand.review.records import Entry
from evenhand.review.sendings import Sending, sendings, verify_sendings
from evenhand.review.store import ReviewStore

__all__ = ["Trail", "TrailCheck", "check_trail", "read_trail"]


_ONE = {
    "decisions": "decision",
    "steps of sendings": "sending",
    "changes of people": "change",
    "copies for training": "copy",
}


@dataclass(frozen=True, kw_only=True)
class TrailCheck:
    """What a walk along each chain found."""

    decisions: ChainCheck
    sendings: ChainCheck
    people: ChainCheck
    copies: ChainCheck

    @property
    def named(self) -> dict[str, ChainCheck]:
        """The checks, by what their chain holds."""
        checks = (self.decisions, self.sendings, self.people, self.copies)
        return dict(zip(_ONE, checks, strict=True))

    @property
    def fault(self) -> str:
        """Say which chain is broken, and where; empty: none."""
        for what, check in self.named.items():
            if check.broken_at is not None:
                at = f"{_ONE[what]} {check.broken_at}"
                return f"{check.length} {what}, chain broken at {at}: {check.why}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Trail:
    """What is recorded, oldest first, and whether it is as it was written."""

    decisions: list[Entry]
    sendings: list[Link[Sending]]
    people: list[Link[PersonChange]]
    copies: list[Link[MaskCopy]]
    check: TrailCheck

    @property
    def links(self) -> dict[str, Sequence[Link[Any]]]:
        """What is no decision, by the name of its table (`LINK_COLUMNS`)."""
        return {"sendings": self.sendings, "people": self.people, "copies": self.copies}

    @property
    def signed_with(self) -> dict[str, int]:
        """Of each unaided reading's hash, the first signed decision that covers it."""
        found: dict[str, int] = {}
        for entry in self.decisions:
            covered = entry.decision.unaided_sha256
            if covered is not None and entry.decision.signature is not None:
                found.setdefault(covered, entry.position)
        return found


def check_trail(store: ReviewStore) -> TrailCheck:
    """Walk all chains."""
    return TrailCheck(
        decisions=store.verify(),
        sendings=verify_sendings(store),
        people=verify_people(store),
        copies=verify_copies(store),
    )


def read_trail(store: ReviewStore, *, arm: str) -> Trail:
    """Read what belongs to an arm, and check the chains as a whole.

    Raises:
        ReviewError: a row was damaged so that it cannot be read.
    """
    return Trail(
        decisions=store.entries(arm=arm),
        sendings=sendings(store, arm=arm),
        people=people_changes(store),
        copies=copies(store, arm=arm),
        check=check_trail(store),
    )
