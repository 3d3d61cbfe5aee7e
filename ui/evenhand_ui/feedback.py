"""What a review teaches: the masks that stand become reference masks of the next training."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.hashing import array_sha256
from evenhand.cases.store import CaseStore
from evenhand.errors import ReviewError
from evenhand.geometry import Affine
from evenhand.ingest.corrections import (
    Correction,
    admit_corrections,
    corrections_before,
    write_corrections,
)
from evenhand.review import Author, Entry, MaskCopy, State, append_copy
from evenhand_ui.readings import CaseReview, Plan, decided_mask, review_all
from evenhand_ui.runs import ReviewRun
from evenhand_ui.trail_files import open_store

__all__ = ["write_feedback"]


def write_feedback(
    folder: Path,
    out: Path,
    *,
    arm: str | None = None,
    database: str | None = None,
    accepted: bool = False,
    store: Path | None = None,
) -> str:
    """Write the corrections that stand, and put them into a store where one is named.

    The trail knows of it before the first mask is written: `evenhand forget` looks there.

    Args:
        folder: the run that was reviewed.
        out: where corrections are written.
        arm: whose masks were reviewed; None: the preferred one.
        database: URL of the review database; None: the file in the run.
        accepted: take proposals that were accepted as they are, too.
        store: a hospital's case store that gets the masks.

    Raises:
        ReviewError: the trail is broken; nothing is written.
        EvenhandError: run, database, mask or store cannot be read or written.
    """
    corrections_before(out)  # a folder of somebody else's is refused before the trail names it
    run = ReviewRun.open(folder, arm)
    states = {State.CORRECTED} | ({State.ACCEPTED} if accepted else set())
    with open_store(run, database) as trail:
        check = trail.verify()
        if check.broken_at is not None:
            raise ReviewError(
                f"The trail is broken at decision {check.broken_at}: {check.why}. Nobody trains "
                "on it; nothing was written."
            )
        found = _standing(run, review_all(run, trail, Plan.of(run)), states)
        copy = MaskCopy(
            arm=run.arm,
            folder=out.resolve(),
            store=None if store is None else store.resolve(),
            masks=len(found),
            by=Author.of_account(),
        )
        append_copy(trail, copy)
    write_corrections(out, found)
    said = f"{out}: {len(found)} masks from review"
    if store is not None:
        admitted = admit_corrections(out, [CaseStore(store)])
        said += f"; {len(admitted)} of them are reference masks in {store} now"
    elif found:
        said += "".join(
            f"\nTo train the next study of {hospital} on them: --store {own.path.resolve()}"
            for hospital, own in sorted(run.stores.items())
            if own.path.is_symlink()
        )
    return (
        f"{said}\n`evenhand forget --run {folder}` looks into this folder, too. It does not find "
        "another place that you move or copy it to."
    )


def _standing(
    run: ReviewRun, reviews: Mapping[str, CaseReview], states: set[State]
) -> list[tuple[Correction, NDArray[np.uint8], Affine]]:
    """Return the masks (i, j, k) that stand, with where they came from."""
    found = []
    for case_id, review in reviews.items():
        final = review.standing.final
        if final is None or review.standing.state not in states:
            continue
        case = run.case(case_id)
        mask = decided_mask(run, case, final)
        images = dict(case.sequences)
        found.append((_correction(final, images, array_sha256(mask)), mask, case.affine))
    return found


def _correction(entry: Entry, images: dict[str, str], mask_sha256: str) -> Correction:
    decision = entry.decision
    return Correction(
        case_id=decision.case_id,
        hospital=decision.hospital,
        images=images,
        mask_sha256=mask_sha256,
        verdict=decision.verdict.value,
        stage=decision.stage.value,
        reader=decision.reader,
        decided_at_utc=entry.decided_at_utc.isoformat(timespec="milliseconds"),
        entry_sha256=entry.sha256,
        backbone=decision.backbone,
        adapter_sha256=decision.adapter_sha256,
    )
