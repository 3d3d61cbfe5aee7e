"""The office: all that one run's page and its routes share in this process.

The page's script and the routes that carry voxels run side by side. Decisions lie
in the database, drafts on disk; here are only caches, keyed by content hash, and
who has looked at what.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.records import Case
from evenhand.errors import EvenhandError, ReviewError
from evenhand.review import STAGE_OF, Lesion, ReviewStore, Role, Stage
from evenhand_ui.access import Presence
from evenhand_ui.answers import Answer
from evenhand_ui.assistant import Assistant
from evenhand_ui.drafts import Drafts
from evenhand_ui.masks import MaskSummary, read_mask, summarise_mask
from evenhand_ui.readings import CaseReview, Plan, review_all, review_case
from evenhand_ui.rules import Rules
from evenhand_ui.runs import ReviewRun
from evenhand_ui.sitting import Sitting
from evenhand_ui.tickets import TicketError, Tickets, page_key
from evenhand_ui.volumes import Canonical, Pixels, encode_image

__all__ = ["Office", "ProposalChangedError", "Reading", "office_of"]

_IMAGES_KEPT = 4
_MASKS_KEPT = 32
_LOOK_AHEAD_LIMIT_S = 60.0
_TRANSFER_S = 1.0
"""What an image takes to the browser; reading the next one then would slow it down."""


class ProposalChangedError(ReviewError):
    """What came is about another proposal than the present one, or about none."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One reader at one case and its present proposal; what they paint lies in `place`.

    Where the reader must judge before the proposal is shown (`unaided`), `proposed` is
    empty, and `proposal` says so; its hash is the true one's all the same. `lock` is the case's:
    it is held while a sitting or a draft changes, and from the last look at what stands until a
    decision is recorded. Work on other cases never waits for it.
    """

    case: Case
    canonical: Canonical
    proposal: MaskSummary
    proposed: NDArray[np.uint8]
    reader: str
    sitting: Sitting
    place: Path
    lock: threading.RLock
    role: Role = Role.READER
    unaided: bool = False

    @property
    def stage(self) -> Stage:
        """As which reading of the case this is."""
        return STAGE_OF[self.role]

    def demand(self, shown: str) -> None:
        """Let pass only what was drawn or said before this reading; `shown` is its place's name.

        Raises:
            ProposalChangedError: it was another: the case was trained anew, or the proposal was
                hidden and is not any more.
        """
        if shown != self.place.name:
            raise ProposalChangedError(
                "The proposal has changed; look again. Nothing was recorded or overwritten: "
                "open the case anew to see the present proposal."
            )


@dataclass(frozen=True, eq=False)
class Office:
    """One run's arm under review. `office_of` makes it, once a process.

    What threads share is there from the start: made at first use, two could each have their own.

    `to_sign` is what readers have said and not signed yet, by place; `scores` are Dice and HD95 of
    masks to their proposal, by case and both masks' hashes, `lesions` figures of masks, by case and
    hash; `presence` is who was here when, `assistant` the model that readers may ask.
    """

    run: ReviewRun
    store: ReviewStore
    tickets: Tickets
    drafts: Drafts
    plan: Plan
    to_sign: dict[Path, Answer] = field(default_factory=dict, init=False)
    scores: dict[tuple[str, str, str], tuple[float, float]] = field(
        default_factory=dict, init=False
    )
    lesions: dict[tuple[str, str], tuple[Lesion, ...]] = field(default_factory=dict, init=False)
    presence: Presence = field(init=False)
    assistant: Assistant = field(init=False)
    _sittings: dict[Path, Sitting] = field(default_factory=dict, init=False)
    _locks: dict[str, threading.RLock] = field(default_factory=dict, init=False)
    _reading_of: dict[tuple[str, str, str], threading.Lock] = field(
        default_factory=dict, init=False
    )
    _opened: dict[str, threading.Event] = field(default_factory=dict, init=False)
    _ahead: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="evenhand-ahead"),
        init=False,
    )

    def __post_init__(self) -> None:
        """Make what depends on the run and its rules."""
        presence = Presence(limit_s=self.rules.idle_minutes * 60)
        object.__setattr__(self, "presence", presence)
        object.__setattr__(self, "assistant", Assistant(self.run))

    @property
    def rules(self) -> Rules:
        """How people log in, and how cases are read."""
        return self.plan.rules

    def review(self, case_id: str) -> CaseReview:
        """Look up what was decided about a case."""
        return review_case(self.run, self.store, self.plan, case_id)

    def reviews(self) -> dict[str, CaseReview]:
        """Look up what was decided about all cases."""
        return review_all(self.run, self.store, self.plan)

    @cached_property
    def _case_of(self) -> dict[str, str]:
        return {self.tickets.opaque(case_id): case_id for case_id in self.run.hospital_of}

    def case_id(self, opaque: str) -> str:
        """Return which case an opaque name stands for; what was never handed out is nobody's.

        Raises:
            TicketError: there is no such case.
        """
        try:
            return self._case_of[opaque]
        except KeyError:
            raise TicketError("There is no such case on this page.") from None

    def reading(self, case_id: str, reader: str, role: Role = Role.READER) -> Reading:
        """Return a reader's work on a case, in a role, as it was left.

        Raises:
            DataError: mask, draft or case is missing, damaged or does not fit.
        """
        case = self.run.case(case_id)
        proposal = summarise_mask(self.run.mask_path(case_id))
        canonical = Canonical(case.shape, case.affine)
        proposed = self.proposed(case_id)
        opaque = self.tickets.opaque(case_id)
        place = self.drafts.place(case_id, opaque, reader, proposal.sha256)
        unaided = self.unaided(case_id, reader, role)
        if unaided:
            proposed = np.zeros_like(proposed)
            proposal = replace(proposal, tumour_slices=0, voxels=0, volume_mm3=0.0)
            place = place.with_name(f"{place.name}-unaided")
        lock = self._locks.setdefault(case_id, threading.RLock())
        with lock:
            sitting = self._sittings.get(place)
            if sitting is None:
                draft = self.drafts.read(place)
                areas = canonical.areas(proposed)
                sitting = Sitting.at(areas, seen=draft.seen, seconds=draft.seconds)
                self._sittings[place] = sitting
        return Reading(
            case=case,
            canonical=canonical,
            proposal=proposal,
            proposed=proposed,
            reader=reader,
            sitting=sitting,
            place=place,
            lock=lock,
            role=role,
            unaided=unaided,
        )

    def proposed(self, case_id: str) -> NDArray[np.uint8]:
        """Return the proposed mask (i, j, k); it cannot be written.

        Raises:
            DataError: it is missing, damaged or does not fit.
        """
        affine = self.run.case(case_id).affine.ras_from_voxel.tobytes()
        sha256 = summarise_mask(self.run.mask_path(case_id)).sha256
        return _proposed(self, case_id, sha256, affine)

    def unaided(self, case_id: str, reader: str, role: Role) -> bool:
        """Whether a reader must still judge a case before its proposal is shown."""
        if not self.rules.unaided_share:
            return False
        return self.review(case_id).unaided_now(reader, role)

    def pixels(self, case: Case, sequence: str) -> Pixels:
        """Return the packed image of a case, or of another study of its patient.

        Raises:
            DataError: it is missing or damaged.
        """
        place = (case.patient.hospital, case.case_id)
        affine = case.affine.ras_from_voxel.tobytes()
        lock = self._reading_of.setdefault((*place, sequence), threading.Lock())
        # Who waits for it finds it made; nobody waits for another's.
        with lock, self.assistant.held():
            pixels = _pixels(self, place, sequence, case.sequences[sequence], affine)
        self._in_hand(case.case_id).set()
        return pixels

    def prepare(
        self,
        case_id: str,
        reader: str,
        role: Role = Role.READER,
        *,
        after: str | None = None,
    ) -> None:
        """Read a case in the background, so that it opens at once when its turn comes.

        Args:
            case_id: the case.
            reader: who will open it.
            role: as what.
            after: a case that is being opened; it goes first, and must not be slowed down.
        """
        opened = self._in_hand(after) if after else None

        def work() -> None:
            if opened is not None and not opened.is_set():
                opened.wait(_LOOK_AHEAD_LIMIT_S)
                time.sleep(_TRANSFER_S)
            with suppress(EvenhandError):  # it is told when the case is opened
                self.reading(case_id, reader, role)
                case = self.run.case(case_id)
                self.pixels(case, next(iter(case.sequences)))

        self._ahead.submit(work)

    def _in_hand(self, case_id: str) -> threading.Event:
        """Set once a case's image was handed out."""
        return self._opened.setdefault(case_id, threading.Event())

    def demand_open(self, reading: Reading) -> None:
        """Let nothing bring back what `finish` has dropped; called with the reading's lock held.

        Raises:
            ReviewError: the reading was decided since it was looked up.
        """
        if self._sittings.get(reading.place) is not reading.sitting:
            raise ReviewError("This case was decided meanwhile; open it again to go on with it.")

    def finish(self, reading: Reading) -> None:
        """Forget draft and sitting: whoever comes back to the case looks at it anew."""
        with reading.lock:
            self._sittings.pop(reading.place, None)
            self.to_sign.pop(reading.place, None)
            self.drafts.drop(reading.place)


@lru_cache(maxsize=8)
def office_of(folder: Path, arm: str | None, database: str | None) -> Office:
    """Open a run for review, once a process; a failure is tried again.

    Args:
        folder: the run.
        arm: None: the preferred one.
        database: URL of the review database; None: the file in the run.

    Raises:
        EvenhandError: run, key or database cannot be used.
    """
    run = ReviewRun.open(folder, arm)
    own = run.database.parent
    return Office(
        run=run,
        store=ReviewStore(database or run.database),
        tickets=Tickets(page_key(own / "page.key"), scope=run.arm),
        drafts=Drafts(own / "drafts"),
        plan=Plan.of(run),
    )


# What is cached is found by hashes of content, and cannot be written.
@lru_cache(maxsize=_MASKS_KEPT)
def _proposed(office: Office, case_id: str, _sha256: str, _affine: bytes) -> NDArray[np.uint8]:
    mask = read_mask(office.run.mask_path(case_id), office.run.case(case_id))
    mask.setflags(write=False)
    return mask


@lru_cache(maxsize=_IMAGES_KEPT)
def _pixels(
    office: Office, place: tuple[str, str], sequence: str, _sha256: str, _affine: bytes
) -> Pixels:
    hospital, case_id = place
    store = office.run.stores[hospital]
    case = store.case(case_id)
    image = store.volumes(case, (sequence,), mask=False).images[sequence]
    return encode_image(image, Canonical(case.shape, case.affine))
