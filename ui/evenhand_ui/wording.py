"""Words for people where the records have codes."""

from typing import Literal

from evenhand.review import Entry, Reason, Role, Stage, State, Verdict
from evenhand_ui.masks import MaskSummary

__all__ = ["history_line", "reason_text", "role_text", "size_text", "state_text", "study_text"]

# The sign says the state where colour cannot.
_STATES = {
    State.OPEN: "○ Open",
    State.ACCEPTED: "✓ Accepted",
    State.CORRECTED: "✎ Corrected",
    State.REJECTED: "✕ Rejected",
    State.NOT_JUDGED: "? Not judged",
    State.HALF_READ: "◐ Read once of twice",
    State.DISPUTED: "≠ Disputed",
}

_ROLES = {
    Role.READER: "Reader",
    Role.SECOND_READER: "Second reader",
    Role.ADJUDICATOR: "Adjudicator",
    Role.AUDITOR: "Auditor",
    Role.ADMIN: "Administrator",
}

_STAGES = {Stage.FIRST: "", Stage.SECOND: "second reading, ", Stage.ADJUDICATION: "adjudication, "}

_REASONS = {
    Reason.BOUNDARY: "Boundary is off",
    Reason.MISSED_TUMOUR: "Tumour was missed",
    Reason.NOT_TUMOUR: "Marks what is not tumour",
    Reason.WRONG_SIDE: "Wrong side or wrong place",
    Reason.POOR_IMAGE: "Image is too poor to judge",
    Reason.NOT_MY_FIELD: "Not my field",
    Reason.NEEDS_MORE: "Needs another sequence, a prior study or the history",
    Reason.OTHER: "Other (say what)",
}

_PAST = {
    Verdict.ACCEPT: "accepted",
    Verdict.CORRECT: "corrected",
    Verdict.REJECT: "rejected",
    Verdict.CANNOT_JUDGE: "could not judge",
    Verdict.WITHDRAW: "withdrew the decision before",
    Verdict.UNAIDED: "judged without the proposal",
}


def state_text(state: State) -> str:
    """Name a state, with its sign."""
    return _STATES[state]


def role_text(role: Role) -> str:
    """Name a role."""
    return _ROLES[role]


def reason_text(reason: Reason) -> str:
    """Name a reason."""
    return _REASONS[reason]


def size_text(proposal: MaskSummary, units: Literal["mm", "voxel"]) -> str:
    """Give a mask's size: millilitres, or voxels where spacings are not true."""
    if units == "mm":
        return f"{proposal.volume_mm3 / 1000:.1f} ml"
    return f"{proposal.voxels} voxels"


def study_text(case_id: str, days: int | None) -> str:
    """Name another study of a patient: how far from this one, and its id."""
    if days is None:
        return case_id
    span = "1 day" if abs(days) == 1 else f"{abs(days)} days"
    when = "same day" if days == 0 else f"{span} {'later' if days > 0 else 'earlier'}"
    return f"{when} ({case_id})"


def history_line(entry: Entry, proposed_sha256: str) -> str:
    """Tell one decision: when, who, what, why; and whether it was about another mask."""
    decision = entry.decision
    line = (
        f"{entry.position}. {entry.decided_at_utc:%Y-%m-%d %H:%M} UTC, {decision.reader} "
        f"{_PAST[decision.verdict]}, {_STAGES[decision.stage]}{decision.seconds:.0f} s, "
        f"slices seen: {len(decision.slices_seen)}"
    )
    if decision.dice is not None:
        line += f", strokes: {decision.strokes}, Dice to the proposal {decision.dice:.2f}"
    if decision.reason is not None:
        line += f" · {reason_text(decision.reason)}"
    if decision.comment:
        line += f" · {decision.comment}"
    if decision.signature is not None:
        line += f" · signed: {decision.signature.name}"
    if decision.proposed_sha256 != proposed_sha256:
        line += " · about an earlier mask"
    return line
