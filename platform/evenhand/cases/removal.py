"""Taking cases out of a store for good, so that a removal which was cut off can be finished.

A case that goes is first moved to `cases/.gone-CASE_ID`, out of everybody's reach. Its record goes
last, so that until the end it can be told whose it was.
"""

import shutil
from pathlib import Path

from evenhand.cases.case_folder import RECORD, CaseFolder
from evenhand.cases.store import OLD, CaseStore
from evenhand.errors import StoreError

__all__ = ["cases_of", "files_of", "remove_case"]

_ROOMS = ("cases", "quarantine")
_GONE = ".gone-"


def cases_of(store: CaseStore, patient_id: str) -> tuple[str, ...]:
    """Ids of a patient's cases: in the store, in its quarantine, and half removed or replaced.

    Look before anything is swept away: `store.locked(as_found=True)`.

    Raises:
        StoreError: a record in the store is damaged, or a sealed one aside does not open.
    """
    own = {case.case_id for case in store if case.patient.patient_id == patient_id}
    aside = [(path, path.name) for path in (store.path / "quarantine").glob("*/")]
    hidden = [
        (path, path.name.removeprefix(prefix))
        for prefix in (_GONE, OLD)
        for path in (store.path / "cases").glob(f"{prefix}*/")
    ]
    own |= {name for path, name in (*aside, *hidden) if _is_of(store, path, name, patient_id)}
    return tuple(sorted(own))


def _is_of(store: CaseStore, path: Path, case_id: str, patient_id: str) -> bool:
    try:
        record = CaseFolder(path, case_id, store.key).read_record()
    except FileNotFoundError:  # its removal was cut off at the end: nothing is left to tell
        return False
    except (StoreError, OSError, ValueError, LookupError, TypeError):
        if store.key is None:  # `evenhand.cases.erase` searches all files after
            return False
        raise StoreError(
            f"The record in '{path}' does not open, so nobody can tell whose case it is. Restore "
            "it, or delete that folder; then give the same command again."
        ) from None
    return record.patient.patient_id == patient_id


def files_of(store: CaseStore, case_id: str) -> list[Path]:
    """Files of a case, wherever in the store they are."""
    found = [path for place in _places(store, case_id) for path in sorted(place.rglob("*"))]
    return [path for path in found if path.is_file()]


def remove_case(store: CaseStore, case_id: str) -> None:
    """Take a case out of a store and its quarantine; there need not be one.

    Raises:
        OSError: a file of it cannot be deleted; `cases_of` finds the case still.
    """
    hidden, *others = _places(store, case_id)
    for place in (hidden, *others):
        if place.parent.parent != store.path or not place.is_dir():
            continue
        if place != hidden:
            place.rename(hidden)
        for path in files_of(store, case_id):
            if path.parent == hidden and not path.name.startswith(RECORD):
                path.unlink()
        shutil.rmtree(hidden)


def _places(store: CaseStore, case_id: str) -> tuple[Path, ...]:
    hidden = store.path / "cases" / f"{_GONE}{case_id}"
    replaced = store.path / "cases" / f"{OLD}{case_id}"
    return (hidden, replaced, *(store.path / room / case_id for room in _ROOMS))
