"""The office: all that one run's page and its routes share in this process.

The page's script and the routes that carry voxels run side by side. Decisions lie
in the database, drafts on disk; here are only caches, keyed by content hash, and
who has looked at what.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.records import Case
from evenhand.errors import EvenhandError
from evenhand.review import ReviewStore
from evenhand_ui.assistant import Assistant
from evenhand_ui.drafts import Drafts
from evenhand_ui.masks import MaskSummary, read_mask, summarise_mask
from evenhand_ui.runs import ReviewRun
from evenhand_ui.sitting import Sitting
from evenhand_ui.tickets import TicketError, Tickets, page_key
from evenhand_ui.volumes import Canonical, Pixels, encode_image

__all__ = ["Office", "Reading", "office_of"]

_IMAGES_KEPT = 4
_MASKS_KEPT = 32


@dataclass(frozen=True, eq=False)
class Reading:
    """One reader at one case and its present proposal; what they paint lies in `place`."""

    case: Case
    canonical: Canonical
    proposal: MaskSummary
    proposed: NDArray[np.uint8]
    reader: str
    sitting: Sitting
    place: Path


@dataclass(frozen=True, eq=False)
class Office:
    """One run's arm under review. `office_of` makes it, once a process."""

    run: ReviewRun
    store: ReviewStore
    tickets: Tickets
    drafts: Drafts

    @cached_property
    def lock(self) -> threading.RLock:
        """Held while a sitting or a draft changes."""
        return threading.RLock()

    @cached_property
    def assistant(self) -> Assistant:
        """The model that readers may ask."""
        return Assistant(self.run)

    @cached_property
    def _sittings(self) -> dict[Path, Sitting]:
        return {}

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

    def reading(self, case_id: str, reader: str) -> Reading:
        """Return a reader's work on a case, as it was left.

        Raises:
            DataError: mask, draft or case is missing, damaged or does not fit.
        """
        case = self.run.case(case_id)
        proposal = summarise_mask(self.run.mask_path(case_id))
        canonical = Canonical(case.shape, case.affine)
        affine = case.affine.ras_from_voxel.tobytes()
        proposed = _proposed(self, case_id, proposal.sha256, affine)
        opaque = self.tickets.opaque(case_id)
        place = self.drafts.place(case_id, opaque, reader, proposal.sha256)
        with self.lock:
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
        )

    def pixels(self, case: Case, sequence: str) -> Pixels:
        """Return the packed image of a case, or of another study of its patient.

        Raises:
            DataError: it is missing or damaged.
        """
        place = (case.patient.hospital, case.case_id)
        affine = case.affine.ras_from_voxel.tobytes()
        with self._one_image:  # who waits for it finds it made
            return _pixels(self, place, sequence, case.sequences[sequence], affine)

    def prepare(self, case_id: str, reader: str) -> None:
        """Read a case in the background, so that it opens at once when its turn comes."""

        def work() -> None:
            with suppress(EvenhandError):  # it is told when the case is opened
                self.reading(case_id, reader)
                case = self.run.case(case_id)
                self.pixels(case, next(iter(case.sequences)))

        self._ahead.submit(work)

    @cached_property
    def _one_image(self) -> threading.Lock:
        return threading.Lock()

    @cached_property
    def _ahead(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="evenhand-ahead")

    def finish(self, reading: Reading) -> None:
        """Forget draft and sitting: whoever comes back to the case looks at it anew."""
        with self.lock:
            self.drafts.drop(reading.place)
            self._sittings.pop(reading.place, None)


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
    image = store.volumes(case, (sequence,)).images[sequence]
    return encode_image(image, Canonical(case.shape, case.affine))
