"""Recipes into a store: over all cores, all or nothing for each case, again after a stop.

A worker writes a case beside its place in the store, and this process puts it
there. So a kill at any moment leaves whole cases and drafts; the next run
sweeps the drafts away, finds the whole cases by their fingerprints, and goes on.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evenhand.cases.quarantine import quarantined
from evenhand.cases.store import CaseDraft, CaseStore
from evenhand.errors import DataError, EvenhandError, ResourceError, StoreError
from evenhand.ingest.faces.guard import FacePolicy, guarded
from evenhand.ingest.recipes import Recipe
from evenhand.ingest.text_guard import MARK, free_of_text
from evenhand.ingest.workers import Workers, cores

__all__ = ["AdmitReport", "CaseOutcome", "admit"]

Status = Literal["written", "reused", "refused"]


@dataclass(frozen=True)
class CaseOutcome:
    """What became of one case: `label` is its number, `why` is empty unless it was refused."""

    label: str
    case_id: str
    status: Status
    why: str = ""


@dataclass(frozen=True)
class AdmitReport:
    """What came into a hospital's store, case by case, in the order of the plan."""

    hospital: str
    store: Path
    outcomes: tuple[CaseOutcome, ...]

    def count(self, status: Status) -> int:
        """How many cases ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)


@dataclass(frozen=True)
class _Task:
    store: Path
    recipe: Recipe
    faces: FacePolicy | None
    look_for_text: bool

    def fingerprint(self) -> str:
        """What the case is made from, and by which rules."""
        text = MARK if self.look_for_text else ""
        return self.recipe.fingerprint() + (self.faces.mark if self.faces else "") + text


def admit(
    recipes: Sequence[Recipe],
    path: Path,
    hospital: str,
    *,
    faces: FacePolicy | None = None,
    look_for_text: bool = False,
    sealed: bool = False,
    workers: Workers | None = None,
    jobs: int | None = None,
    memory_bytes: int | None = None,
    case_seconds: float = 600.0,
    progress: Callable[[int, int], None] | None = None,
) -> AdmitReport:
    """Make each recipe's case and put it into the store at `path`.

    A case that cannot be made is refused with its reason and the others go on;
    an older version of it that is in the store stays there.

    Args:
        recipes: of this hospital, each with a case id of its own.
        path: the store; made if need be.
        hospital: whose store it is.
        faces: what is done where there may be a face; None: nobody looks.
        look_for_text: refuse cases that show burned-in text.
        sealed: encrypt the cases with the hospital's key.
        workers: that make the cases; None: processes of this call's own, as the next two say.
        jobs: processes; None: one a core.
        memory_bytes: what each may take; None: a fair share of the machine.
        case_seconds: how long one case may take.
        progress: called with (cases done, cases in all).

    Raises:
        DataError: two recipes have one case id.
        StoreError: it is another hospital's store, or another command writes into it.
        ResourceError: the disk is full; whole cases are kept, nothing else.
    """
    _refuse_doubles(recipes)
    is_new = not path.exists()
    store = CaseStore.create(path, hospital, sealed=sealed)
    outcomes: dict[int, CaseOutcome] = {}
    step = progress or (lambda _done, _total: None)
    step(0, len(recipes))
    try:
        with (
            store.locked(),
            nullcontext(workers) if workers else Workers(jobs or cores(), memory_bytes) as makers,
        ):
            tasks = [_Task(path, recipe, faces, look_for_text) for recipe in recipes]
            for answer in makers.run(_make, tasks, seconds=case_seconds):
                recipe = recipes[answer.index]
                if isinstance(answer.error, ResourceError):
                    raise answer.error
                why = str(answer.error) if answer.error else answer.fate
                outcomes[answer.index] = _outcome(store, recipe, answer.value, why)
                step(len(outcomes), len(recipes))
    finally:
        if is_new and not len(store):
            shutil.rmtree(path, ignore_errors=True)
    return AdmitReport(hospital, path, tuple(outcomes[index] for index in sorted(outcomes)))


def _outcome(
    store: CaseStore, recipe: Recipe, draft: CaseDraft | None, why: str | None
) -> CaseOutcome:
    if why is not None:
        return CaseOutcome(recipe.label, recipe.case_id, "refused", why)
    if draft is None:
        return CaseOutcome(recipe.label, recipe.case_id, "reused")
    store.commit(draft)
    return CaseOutcome(recipe.label, recipe.case_id, "written")


def _make(task: _Task) -> CaseDraft | None:
    """Write a draft of a case; None if the store holds what it would be."""
    store, recipe = CaseStore(task.store), task.recipe
    fingerprint = task.fingerprint()
    try:
        if store.case(recipe.case_id).source == fingerprint:
            return None
    except StoreError:  # not there yet, or damaged: it is written anew
        pass
    if aside := quarantined(task.store).get(recipe.case_id):
        raise DataError(
            f"it is in quarantine ({'; '.join(aside)}). Put it back with `evenhand quality STORE "
            "--release CASE`, or delete it there to take it in anew."
        )
    content = recipe.read()
    if task.faces is not None:
        content = guarded(content, task.faces)
    if task.look_for_text:
        content = free_of_text(content)
    try:
        return store.draft(
            case_id=recipe.case_id,
            patient=recipe.patient,
            affine=content.affine,
            images=content.images,
            mask=content.mask,
            source=fingerprint,
            acquisition=content.acquisition,
            evidence=content.evidence,
            labels=content.labels,
        )
    except StoreError as error:
        raise DataError(str(error)) from None


def _refuse_doubles(recipes: Sequence[Recipe]) -> None:
    seen: dict[str, str] = {}
    for recipe in recipes:
        first = seen.setdefault(recipe.case_id, recipe.label)
        if first != recipe.label:
            raise DataError(
                f"{first} and {recipe.label} would have one name in the store; give each case of "
                "the source a name of its own."
            )
    if not recipes:
        raise EvenhandError("Nothing in the source can be taken in; see what was judged.")
