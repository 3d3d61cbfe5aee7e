"""What a reader says about a case, before it is checked and recorded."""

from dataclasses import dataclass
from datetime import datetime

from evenhand.review import Reason, Verdict

__all__ = ["MEANINGS", "Answer", "meaning_of"]

MEANINGS = {
    Verdict.ACCEPT: "I have looked at the slices that had to be seen and accept the proposed mask.",
    Verdict.CORRECT: "I have corrected the proposed mask; the recorded mask is my reading.",
    Verdict.REJECT: "I reject the proposed mask.",
    Verdict.CANNOT_JUDGE: "I cannot judge the proposed mask.",
    Verdict.WITHDRAW: "I take the decision before this one back.",
}
"""What a signature under each verdict means; it is recorded with it."""


def meaning_of(verdict: Verdict, *, unaided_at: datetime | None = None) -> str:
    """Return what a signature means; `unaided_at` is when the reading it covers was given (UTC)."""
    if unaided_at is None:
        return MEANINGS[verdict]
    return (
        f"{MEANINGS[verdict]} I also sign my first reading, which I gave without the proposal "
        f"({unaided_at:%Y-%m-%d %H:%M} UTC)."
    )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a reader has said.

    `revision` is the draft that was on the screen, `shown` the reading: the name of its place,
    which tells the proposal, and whether it was hidden (`Reading.demand`).
    """

    verdict: Verdict
    reason: Reason | None
    comment: str
    revision: int
    shown: str
