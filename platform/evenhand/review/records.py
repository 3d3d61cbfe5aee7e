"""What a reader decides about one proposed mask. Frozen, valid by construction."""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from evenhand.errors import ReviewError

__all__ = [
    "COMMENT_LIMIT",
    "Decision",
    "Entry",
    "Lesion",
    "Reason",
    "Role",
    "Signature",
    "Stage",
    "State",
    "Verdict",
    "is_sha256",
    "state_of",
]

COMMENT_LIMIT = 2000
"""Longest free text of a decision, in characters."""

READER_LIMIT = 100
"""Longest reader name, in characters."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(text: str) -> bool:
    """Whether a text is a sha256 in hex."""
    return _SHA256.fullmatch(text) is not None


class Verdict(StrEnum):
    """What a reader does with a proposed mask."""

    ACCEPT = "accept"
    CORRECT = "correct"
    REJECT = "reject"
    CANNOT_JUDGE = "cannot-judge"
    """The reader cannot tell whether the mask is right."""
    WITHDRAW = "withdraw"
    """Takes the decision before it back: the case is open again."""
    UNAIDED = "unaided"
    """What the reader drew before the proposal was shown. It decides nothing yet."""


class Role(StrEnum):
    """What a person may do on the page."""

    READER = "reader"
    SECOND_READER = "second-reader"
    ADJUDICATOR = "adjudicator"
    AUDITOR = "auditor"
    """Looks at everything, decides nothing."""
    ADMIN = "admin"
    """Says who may what; sees no case."""


class Stage(StrEnum):
    """Which reading of a case a decision belongs to."""

    FIRST = "first"
    SECOND = "second"
    ADJUDICATION = "adjudication"


class Reason(StrEnum):
    """Why a mask was corrected or rejected. Codes are stored; never rename one."""

    BOUNDARY = "boundary"
    MISSED_TUMOUR = "missed-tumour"
    NOT_TUMOUR = "not-tumour"
    WRONG_SIDE = "wrong-side"
    POOR_IMAGE = "poor-image"
    NOT_MY_FIELD = "not-my-field"
    NEEDS_MORE = "needs-more"
    """Another sequence, a prior study, the history: something is not here."""
    OTHER = "other"
    """Needs free text."""


class State(StrEnum):
    """Where a case stands on the worklist."""

    OPEN = "open"
    ACCEPTED = "accepted"
    CORRECTED = "corrected"
    REJECTED = "rejected"
    NOT_JUDGED = "not-judged"
    HALF_READ = "half-read"
    """One of two readings is there."""
    DISPUTED = "disputed"
    """Two readings differ; an adjudicator decides."""


_STATE_AFTER = {
    Verdict.ACCEPT: State.ACCEPTED,
    Verdict.CORRECT: State.CORRECTED,
    Verdict.REJECT: State.REJECTED,
    Verdict.CANNOT_JUDGE: State.NOT_JUDGED,
    Verdict.WITHDRAW: State.OPEN,
    Verdict.UNAIDED: State.OPEN,
}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Who signed and what it means. The time is the decision's own.

    `name` is the printed name, `meaning` a sentence, `method` how the person was
    asked again who they are.
    """

    name: str
    meaning: str
    method: str

    def __post_init__(self) -> None:
        """Refuse half a signature."""
        if not (self.name.strip() and self.meaning.strip() and self.method.strip()):
            raise ReviewError("A signature needs a printed name, a meaning and a method.")


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """Figures of one lesion (`evenhand.metrics.lesion_sizes`); `slice` is the k, from 0."""

    volume_ml: float
    longest_diameter_mm: float
    perpendicular_diameter_mm: float
    slice: int

    def __post_init__(self) -> None:
        """Refuse what is no size."""
        sizes = (self.volume_ml, self.longest_diameter_mm, self.perpendicular_diameter_mm)
        if not all(0 <= size < math.inf for size in sizes) or self.slice < 0:
            raise ReviewError("A lesion's volume, diameters and slice must be numbers from 0 up.")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One reader's decision about one proposed mask.

    `arm` is the arm of training whose mask was shown. Hashes are sha256 in hex
    of the mask's voxels (`evenhand.cases.hashing.array_sha256`). `corrected_path`
    is relative to the folder of the review database. `seconds` is the time
    spent on the case, `slices_seen` the indices k of the slices that were shown,
    `strokes` how often the mask was changed. `dice` and `hd95` (in the case's
    units) compare a corrected mask with the proposed one. `backbone` and
    `adapter_sha256` name the model that proposed; empty where the run does not say.
    `login` says how it was known who the reader is ("demo": not at all).
    `unaided_sha256` is the hash in the trail of what the same reader said before the
    proposal was shown: who signs this decision signs that reading too. `lesions` are
    the figures of the mask that the decision stands for (None: they were not measured).
    """

    case_id: str
    hospital: str
    arm: str
    verdict: Verdict
    reader: str
    proposed_sha256: str
    seconds: float
    slices_seen: tuple[int, ...]
    reason: Reason | None = None
    comment: str = ""
    corrected_sha256: str | None = None
    corrected_path: str | None = None
    strokes: int = 0
    dice: float | None = None
    hd95: float | None = None
    backbone: str = ""
    adapter_sha256: str = ""
    stage: Stage = Stage.FIRST
    login: str = "demo"
    signature: Signature | None = None
    unaided_sha256: str | None = None
    lesions: tuple[Lesion, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what a later reader of the trail could not make sense of."""
        if not self.reader.strip() or len(self.reader) > READER_LIMIT:
            raise ReviewError(
                f"A decision needs its reader's name, 1 to {READER_LIMIT} characters; "
                "enter it and decide again."
            )
        if not self.case_id or not self.hospital or not self.arm:
            raise ReviewError("A decision needs its case, hospital and arm; one of them is empty.")
        if len(self.comment) > COMMENT_LIMIT:
            raise ReviewError(
                f"A comment can have {COMMENT_LIMIT} characters; this one has "
                f"{len(self.comment)}. Shorten it."
            )
        if not math.isfinite(self.seconds) or self.seconds < 0:
            raise ReviewError("The seconds spent on a case must be a number from 0 up.")
        if any(k < 0 for k in self.slices_seen) or self.strokes < 0:
            raise ReviewError("Slices and strokes are counted from 0; one is below.")
        self._check_reason()
        self._check_hashes()

    def _check_reason(self) -> None:
        wants_reason = self.verdict in {Verdict.CORRECT, Verdict.REJECT, Verdict.CANNOT_JUDGE}
        if wants_reason and self.reason is None:
            what = (
                "say that you cannot judge"
                if self.verdict is Verdict.CANNOT_JUDGE
                else (f"{self.verdict} a mask")
            )
            raise ReviewError(f"To {what}, choose a reason.")
        if not wants_reason and self.reason is not None:
            raise ReviewError(f"A decision to {self.verdict} carries no reason code; remove it.")
        if self.reason is Reason.OTHER and not self.comment.strip():
            raise ReviewError("The reason 'other' needs a comment that says what it is.")

    def _check_hashes(self) -> None:
        figures = (self.dice, self.hd95)
        if any(figure is not None and not 0 <= figure < math.inf for figure in figures):
            raise ReviewError("Dice and HD95 to the proposal must be numbers from 0 up.")
        if self.unaided_sha256 is not None and not is_sha256(self.unaided_sha256):
            raise ReviewError("The sha256 of an unaided reading must have 64 hex digits.")
        if self.adapter_sha256 and not is_sha256(self.adapter_sha256):
            raise ReviewError("The sha256 of an adapter must have 64 hex digits.")
        if not is_sha256(self.proposed_sha256):
            raise ReviewError("A decision needs the sha256 of the proposed mask in 64 hex digits.")
        given = (self.corrected_sha256 is not None, self.corrected_path is not None)
        with_mask = self.verdict in {Verdict.CORRECT, Verdict.UNAIDED}
        if given != (with_mask, with_mask):
            raise ReviewError(
                "A correction or an unaided reading, and nothing else, comes with a corrected mask "
                "(its path and sha256)."
            )
        if self.corrected_sha256 is not None and not is_sha256(self.corrected_sha256):
            raise ReviewError("The sha256 of a corrected mask must have 64 hex digits.")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A decision as it stands in the trail: its place, its time, its links.

    `position` counts from 1. `sha256` covers everything else here, and so all
    decisions before through `previous_sha256`.
    """

    position: int
    decided_at_utc: datetime
    decision: Decision
    previous_sha256: str
    sha256: str


def state_of(latest: Entry | None, proposed_sha256: str) -> State:
    """Return a case's state from the latest decision about it.

    A decision about another mask than the one that is proposed now (the arm was
    trained again since) leaves the case open.
    """
    if latest is None or latest.decision.proposed_sha256 != proposed_sha256:
        return State.OPEN
    return _STATE_AFTER[latest.decision.verdict]
