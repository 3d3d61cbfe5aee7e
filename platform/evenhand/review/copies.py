"""Where masks were written out of a run as training data: who forgets a patient looks there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evenhand.review.authors import Author, Way
from evenhand.review.chain import Chain, ChainCheck, Link
from evenhand.review.store import ReviewStore
from evenhand.review.tables import CopyRow

__all__ = ["MaskCopy", "append_copy", "copies", "verify_copies"]


@dataclass(frozen=True, kw_only=True)
class MaskCopy:
    """One writing: into which folder, and into which case store (None: into none).

    `masks` counts them. It is recorded before they are written.
    """

    arm: str
    folder: Path
    store: Path | None
    masks: int
    by: Author


def _columns(copy: MaskCopy) -> Mapping[str, object]:
    return {
        "arm": copy.arm,
        "folder": str(copy.folder),
        "store": "" if copy.store is None else str(copy.store),
        "masks": copy.masks,
        "author": copy.by.name,
        "way": copy.by.way.value,
    }


def _record(row: CopyRow) -> MaskCopy:
    return MaskCopy(
        arm=row.arm,
        folder=Path(row.folder),
        store=Path(row.store) if row.store else None,
        masks=row.masks,
        by=Author(name=row.author, way=Way(row.way)),
    )


_COPIES = Chain(row_type=CopyRow, schema=1, columns_of=_columns, record_of=_record)


def append_copy(store: ReviewStore, copy: MaskCopy) -> Link[MaskCopy]:
    """Record one writing.

    Raises:
        ReviewError: the database cannot be used; nothing was recorded.
        ResourceError: the disk is full; nothing was recorded.
    """
    with store.transaction(write=True) as session:
        return _COPIES.append(session, copy)


def copies(store: ReviewStore, **wanted: str) -> list[Link[MaskCopy]]:
    """Return all writings, oldest first; `arm=...`: those of one arm.

    Raises:
        ReviewError: a row was damaged; `verify_copies` says where.
    """
    with store.transaction() as session:
        return _COPIES.links(session, **wanted)


def verify_copies(store: ReviewStore) -> ChainCheck:
    """Walk the chain of writings."""
    with store.transaction() as session:
        return _COPIES.check(session)
