"""Who was added, changed or removed, by whom and when: appended and chained like decisions.

That somebody chose a passphrase, or had it cleared, is recorded; neither it nor its hash is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import select

from evenhand.review.authors import Author, Way
from evenhand.review.chain import Chain, ChainCheck, Link
from evenhand.review.records import Role
from evenhand.review.tables import PersonChangeRow, PersonRow

if TYPE_CHECKING:
    from evenhand.review.store import ReviewStore

__all__ = [
    "PEOPLE_CHANGES",
    "PersonChange",
    "PersonEvent",
    "people_changes",
    "verify_people",
]


class PersonEvent(StrEnum):
    """What happened to a person's entry."""

    ADDED = "added"
    CHANGED = "changed"
    """Login, printed name or roles are others than before."""
    REMOVED = "removed"
    PASSPHRASE_CHOSEN = "passphrase-chosen"  # noqa: S105 - the name of an event
    PASSPHRASE_CLEARED = "passphrase-cleared"  # noqa: S105 - likewise
    FOUND = "found"
    """They were there when changes began to be recorded."""


@dataclass(frozen=True, kw_only=True)
class PersonChange:
    """One change: the entry after it (before it, where they were removed), and who made it."""

    change: PersonEvent
    person_id: str
    login: str
    name: str
    roles: frozenset[Role]
    by: Author


def _columns(change: PersonChange) -> Mapping[str, object]:
    return {
        "change": change.change.value,
        "person_id": change.person_id,
        "login": change.login,
        "name": change.name,
        "roles": " ".join(sorted(change.roles)),
        "author": change.by.name,
        "way": change.by.way.value,
    }


def _record(row: PersonChangeRow) -> PersonChange:
    return PersonChange(
        change=PersonEvent(row.change),
        person_id=row.person_id,
        login=row.login,
        name=row.name,
        roles=frozenset(Role(name) for name in row.roles.split()),
        by=Author(name=row.author, way=Way(row.way)),
    )


PEOPLE_CHANGES = Chain(row_type=PersonChangeRow, schema=1, columns_of=_columns, record_of=_record)
"""How changes of people are kept."""


def people_changes(store: "ReviewStore") -> list[Link[PersonChange]]:
    """Return all changes of people, oldest first.

    Raises:
        ReviewError: a row was damaged; `verify_people` says where.
    """
    with store.transaction() as session:
        return PEOPLE_CHANGES.links(session)


def verify_people(store: "ReviewStore") -> ChainCheck:
    """Walk the chain; the list of people must be what the changes come to.

    A list that is not is reported at the place after the last change: somebody changed it there
    without a trace.
    """
    known: dict[str, tuple[str, str, str]] = {}

    def follow(row: PersonChangeRow) -> str:
        if row.change == PersonEvent.REMOVED:
            known.pop(row.person_id, None)
        else:
            known[row.person_id] = (row.login, row.name, row.roles)
        return ""

    with store.transaction() as session:
        check = PEOPLE_CHANGES.check(session, follow)
        rows = session.scalars(select(PersonRow))
        there = {row.person_id: (row.login, row.name, row.roles) for row in rows}
    if check.broken_at is None and there != known:
        return ChainCheck(
            length=check.length,
            broken_at=check.length + 1,
            why="the list of people was changed without a record",
            head_sha256=check.head_sha256,
        )
    return check
