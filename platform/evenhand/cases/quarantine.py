"""Cases that are set aside: out of reach of training, with their reasons, until somebody decides.

    STORE/quarantine/CASE_ID/...            the case, whole
    STORE/quarantine/CASE_ID/reasons.json   why

What reads a store reads `cases/`, so a case here is seen by nobody else. An
ingest of the same source leaves it here.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from evenhand.cases.store import CaseStore
from evenhand.errors import ResourceError, UsageError

__all__ = ["quarantine", "quarantined", "release"]

_REASONS = "reasons.json"


def quarantined(store: Path) -> dict[str, tuple[str, ...]]:
    """Cases that are set aside, and their reasons, sorted by id."""
    found = {}
    for path in sorted((store / "quarantine").glob(f"*/{_REASONS}")):
        try:
            reasons = json.loads(path.read_text(encoding="utf-8"))
            found[path.parent.name] = tuple(str(reason) for reason in reasons)
        except (OSError, ValueError, TypeError):
            found[path.parent.name] = ("its reasons cannot be read",)
    return found


def quarantine(store: CaseStore, case_id: str, reasons: Sequence[str]) -> None:
    """Set a case aside. An older one of its id that is there already is replaced.

    Raises:
        StoreError: there is no such case.
        ResourceError: the disk refuses.
    """
    store.case(case_id)
    place = store.path / "quarantine" / case_id
    own = store.path / "cases" / case_id
    try:
        place.parent.mkdir(exist_ok=True, mode=0o700)
        shutil.rmtree(place, ignore_errors=True)
        (own / _REASONS).write_text(json.dumps(list(reasons), indent=1), encoding="utf-8")
        own.rename(place)
    except OSError as error:
        raise ResourceError(f"Could not set a case aside: {error.strerror}.") from None


def release(store: CaseStore, case_id: str) -> None:
    """Put a case back.

    Raises:
        UsageError: no such case is set aside, or the store has another of that id.
    """
    place = store.path / "quarantine" / case_id
    final = store.path / "cases" / case_id
    if place.parent != store.path / "quarantine" or not (place / _REASONS).is_file():
        raise UsageError(
            f"No case of that id is in quarantine in '{store.path}'; `evenhand quality STORE` "
            "lists those that are."
        )
    if final.exists():
        raise UsageError("The store holds a case of that id already; it was taken in anew.")
    (place / _REASONS).unlink()
    place.rename(final)
