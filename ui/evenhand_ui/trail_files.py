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
    ChainCheck,
    ReviewStore,
    State,
    sendings,
    sendings_csv,
    trail_csv,
    trail_html,
    verify_sendings,
)
from evenhand_ui.masks import read_mask, refuse_changed
from evenhand_ui.readings import Plan, decided_mask, review_case
from evenhand_ui.runs import ReviewRun

__all__ = ["export_run", "open_store", "reviewed_mask", "verify_trail"]

_NOT_REVIEWED = "0 decisions: this run has not been reviewed yet."


def verify_trail(run: Path, database: str | None = None) -> str:
    """Check a run's decisions, the corrected masks they name, and its sendings; return a sentence.

    Raises:
        UsageError: there is no such run folder.
        ReviewError: the chain is broken; says at which decision.
        DataError: a corrected mask is missing or was changed.
    """
    if not run.is_dir():
        raise UsageError(f"There is no run folder '{run}'; name one that `evenhand run` wrote.")
    path = RunFolder(run).review_path
    if database is None and not path.is_file():
        return _NOT_REVIEWED
    with ReviewStore(database or path) as store:
        check, sent = store.verify(), verify_sendings(store)
        if check.length == 0 and sent.length == 0:
            return _NOT_REVIEWED
        if broken := _broken(check, sent):
            raise ReviewError(
                f"{broken}. Restore '{path if database is None else 'the database'}' from a backup."
            )
        for entry in store.entries():
            if entry.decision.corrected_path is None:
                continue
            corrected = path.parent / entry.decision.corrected_path
            mask, _ = read_nifti(corrected, name=corrected.name)
            refuse_changed(mask, corrected, entry)
    said = [_intact("decisions", check)]
    if sent.length:
        said.append(_intact("steps of sendings", sent))
    return "\n".join(said)


def export_run(run: Path, out: Path, arm: str | None = None, database: str | None = None) -> str:
    """Write decisions.csv, sendings.csv, decisions.html and masks/; return what was written.

    The page is written even where the chain is broken, and says so.

    Raises:
        EvenhandError: the run or its database cannot be read.
        ResourceError: the folder cannot be written.
    """
    opened = ReviewRun.open(run, arm)
    with open_store(opened, database) as store:
        check, sent_check = store.verify(), verify_sendings(store)
        entries, sent = store.entries(arm=opened.arm), sendings(store, arm=opened.arm)
        standing = {
            case_id: mask
            for case_id in opened.case_ids()
            for mask, state in [reviewed_mask(opened, store, case_id)]
            if state in {State.ACCEPTED, State.CORRECTED}
        }
    try:
        (out / "masks").mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(out / "decisions.csv", trail_csv(entries).encode())
        write_atomically(out / "sendings.csv", sendings_csv(sent).encode())
        page = trail_html(entries, check, sent, sent_check)
        write_atomically(out / "decisions.html", page.encode())
        for case_id, mask in standing.items():
            _write_whole(out / "masks" / f"{case_id}.nii.gz", mask, opened.case(case_id).affine)
        for case_id in set(opened.case_ids()) - standing.keys():  # of an earlier export
            (out / "masks" / f"{case_id}.nii.gz").unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(f"'{out}' cannot be written: {error.strerror}.") from None
    if broken := _broken(check, sent_check):
        raise ReviewError(f"{broken}; '{out}' says so too.")
    return f"{out}: {len(entries)} decisions, {len(standing)} masks accepted or corrected"


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


def _intact(what: str, check: ChainCheck) -> str:
    return f"{check.length} {what}, chain intact; hash of the last one: {check.head_sha256}"


def _broken(decisions: ChainCheck, sent: ChainCheck) -> str:
    """Say which chain is broken, and where; empty: none."""
    for what, check in (("decision", decisions), ("sending", sent)):
        if check.broken_at is not None:
            return f"{check.length} {what}s, chain broken at {what} {check.broken_at}: {check.why}"
    return ""
