"""What a reader says about a case, before it is checked and recorded."""

from dataclasses import dataclass

from evenhand.review import Reason, Verdict

__all__ = ["MEANINGS", "Answer"]

MEANINGS = {
    Verdict.ACCEPT: "I have looked at the slices that had to be seen and accept the proposed mask.",
    Verdict.CORRECT: "I have corrected the proposed mask; the recorded mask is my reading.",
    Verdict.REJECT: "I reject the proposed mask.",
    Verdict.CANNOT_JUDGE: "I cannot judge the proposed mask.",
    Verdict.WITHDRAW: "I take the decision before this one back.",
}
"""What a signature under each verdict means; it is recorded with it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a reader has said. `revision` is the draft that was on the screen."""

    verdict: Verdict
    reason: Reason | None
    comment: str
    revision: int
