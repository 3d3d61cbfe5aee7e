"""What becomes of decisions: the trail checked, exported, and the masks that stand."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenhand.artifacts import write_atomically
from evenhand.cases.nifti import read_nifti, write_nifti
from evenhand.errors import ResourceError, ReviewError, UsageError
from evenhand.experiment.layout import RunFolder
from evenhand.geometry import Affine
from evenhand.review import (
    ReviewStore,
    State,
    check_trail,
    links_csv,
    read_trail,
    trail_csv,
    trail_html,
)
from evenhand_ui.masks import read_mask, refuse_changed
from evenhand_ui.readings import Plan, decided_mask, review_case
from evenhand_ui.runs import ReviewRun

__all__ = ["export_run", "open_store", "reviewed_mask", "verify_trail"]

_NOT_REVIEWED = "0 decisions: this run has not been reviewed yet."


def verify_trail(run: Path, database: str | None = None) -> str:
    """Check a run's trail and the corrected masks that its decisions name; return a sentence.

    Raises:
        UsageError: there is no such run folder.
        ReviewError: the chain is broken; says which one, and where.
        DataError: a corrected mask is missing or was changed.
    """
    if not run.is_dir():
        raise UsageError(f"There is no run folder '{run}'; name one that `evenhand run` wrote.")
    path = RunFolder(run).review_path
    if database is None and not path.is_file():
        return _NOT_REVIEWED
    with ReviewStore(database or path) as store:
        check = check_trail(store)
        if check.fault:
            what = path if database is None else "the database"
            raise ReviewError(f"{check.fault}. Restore '{what}' from a backup.")
        for entry in store.entries():
            if entry.decision.corrected_path is None:
                continue
            corrected = path.parent / entry.decision.corrected_path
            mask, _ = read_nifti(corrected, name=corrected.name)
            refuse_changed(mask, corrected, entry)
    said = [
        f"{one.length} {what}, chain intact; hash of the last one: {one.head_sha256}"
        for what, one in check.named.items()
        if one.length
    ]
    return "\n".join(said if check.decisions.length else [_NOT_REVIEWED, *said])


def export_run(run: Path, out: Path, arm: str | None = None, database: str | None = None) -> str:
    """Write the trail as tables and a page, and masks/; return what was written.

    The tables are decisions.csv, sendings.csv, people.csv and copies.csv, the page decisions.html.

    The page is written even where the chain is broken, and says so.

    Raises:
        EvenhandError: the run or its database cannot be read.
        ResourceError: the folder cannot be written.
    """
    opened = ReviewRun.open(run, arm)
    with open_store(opened, database) as store:
        trail = read_trail(store, arm=opened.arm)
        standing = {
            case_id: mask
            for case_id in opened.case_ids()
            for mask, state in [reviewed_mask(opened, store, case_id)]
            if state in {State.ACCEPTED, State.CORRECTED}
        }
    try:
        (out / "masks").mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(out / "decisions.csv", trail_csv(trail.decisions).encode())
        for name, links in trail.links.items():
            write_atomically(out / f"{name}.csv", links_csv(name, links).encode())
        write_atomically(out / "decisions.html", trail_html(trail).encode())
        for case_id, mask in standing.items():
            _write_whole(out / "masks" / f"{case_id}.nii.gz", mask, opened.case(case_id).affine)
        for case_id in set(opened.case_ids()) - standing.keys():  # of an earlier export
            (out / "masks" / f"{case_id}.nii.gz").unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(f"'{out}' cannot be written: {error.strerror}.") from None
    if trail.check.fault:
        raise ReviewError(f"{trail.check.fault}; '{out}' says so too.")
    return f"{out}: {len(trail.decisions)} decisions, {len(standing)} masks accepted or corrected"


def reviewed_mask(
    run: ReviewRun, store: ReviewStore, case_id: str
) -> tuple[NDArray[np.uint8], State]:
    """Return a case's mask (i, j, k) as the decision that stands leaves it, and its state.

    Raises:
        DataError: there is no such case, or a mask is missing or damaged.
    """
    case = run.case(case_id)
    standing = review_case(run, store, Plan.of(run), case_id).standing
    if standing.state is State.CORRECTED and standing.final is not None:
        return decided_mask(run, case, standing.final), standing.state
    return read_mask(run.mask_path(case_id), case), standing.state


def open_store(run: ReviewRun, database: str | None) -> ReviewStore:
    """Open the decisions of a run that has some.

    Raises:
        UsageError: it has not been reviewed yet.
    """
    if database is None and not run.database.is_file():
        raise UsageError(
            f"'{run.folder}' has not been reviewed yet; open it with `evenhand review RUN`."
        )
    return ReviewStore(database or run.database)


def _write_whole(path: Path, mask: NDArray[np.uint8], affine: Affine) -> None:
    draft = path.with_name(f".draft-{path.name}")
    try:
        write_nifti(draft, mask, affine)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
