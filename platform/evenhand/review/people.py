"""Who may work on the review page, and the passphrase each signs with.

A person is known by a pseudonym; the login (what a proxy or OIDC says) and the
printed name stay in the database. Passphrases are kept as Argon2id hashes
(RFC 9106), which cost an attacker memory for each guess. After a few wrong ones
a person has to wait, over restarts too. Each change is recorded with who made it
(`evenhand.review.people_changes`), in the same transaction.
"""

import re
import secrets
import threading
from collections.abc import Collection
from dataclasses import dataclass

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from sqlalchemy import select
from sqlalchemy.orm import Session

from evenhand.errors import ReviewError
from evenhand.review.authors import Author, Way
from evenhand.review.people_changes import PEOPLE_CHANGES, PersonChange, PersonEvent
from evenhand.review.records import Role
from evenhand.review.store import ReviewStore
from evenhand.review.tables import PersonRow

__all__ = [
    "PASSPHRASE_MIN",
    "Person",
    "check_passphrase",
    "clear_passphrase",
    "parse_roles",
    "people",
    "person_by_id",
    "person_by_login",
    "put_person",
    "remove_person",
    "set_passphrase",
]

PASSPHRASE_MIN = 8
"""Shortest passphrase, in characters."""

TRIES = 5
"""Wrong passphrases in a row before a person has to wait."""

WAIT_S = 15 * 60.0
"""How long they wait then."""

_MEMORY_KIB = 46 * 1024
"""With one pass and one lane: the largest of the sets that OWASP lists for Argon2id."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_JUDGED = frozenset({Role.READER, Role.SECOND_READER, Role.ADJUDICATOR})
_one_hash = threading.Lock()  # many at once would need many times the memory


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody who may work here. `person_id` is all that browsers, logs and masks show."""

    person_id: str
    login: str
    name: str
    roles: frozenset[Role]
    has_passphrase: bool = False

    def __post_init__(self) -> None:
        """Refuse what could not be told apart, and an auditor who audits themselves."""
        if not _ID.fullmatch(self.person_id):
            raise ReviewError(
                "A person's id is a pseudonym of 1 to 64 letters, digits, '-' and '_'; "
                "this one is not."
            )
        if not (0 < len(self.login.strip()) <= 200 and 0 < len(self.name.strip()) <= 100):
            raise ReviewError("A person needs a login and a printed name.")
        if not self.roles:
            raise ReviewError(f"A person needs a role: {', '.join(Role)}.")
        if Role.AUDITOR in self.roles and self.roles & _JUDGED:
            raise ReviewError(
                "An auditor sees all readings, so they cannot be a reader, second reader or "
                "adjudicator as well. Give the roles to two people."
            )


def put_person(store: ReviewStore, person: Person, *, by: Author) -> None:
    """Add a person, or change login, name and roles of one; the passphrase stays.

    Raises:
        ReviewError: another person has this login, or the database cannot be used.
    """
    login = person.login.strip()  # who signs in sends none of the blanks around it
    with store.transaction(write=True) as session:
        other = session.scalars(select(PersonRow).where(PersonRow.login == login)).first()
        if other is not None and other.person_id != person.person_id:
            raise ReviewError("Another person has this login already; a login is one person's.")
        row, event = session.get(PersonRow, person.person_id), PersonEvent.CHANGED
        if row is None:
            event = PersonEvent.ADDED
            row = PersonRow(
                person_id=person.person_id, passphrase="", failures=0, blocked_until_s=0.0
            )
            session.add(row)
        before = (row.login, row.name, row.roles)
        after = (login, person.name.strip(), " ".join(sorted(person.roles)))
        if before != after:
            row.login, row.name, row.roles = after
            _record(session, event, row, by)


def remove_person(store: ReviewStore, person_id: str, *, by: Author) -> None:
    """Take all rights from a person; what they decided stays.

    Raises:
        ReviewError: there is no such person.
    """
    with store.transaction(write=True) as session:
        row = session.get(PersonRow, person_id)
        if row is None:
            raise ReviewError("There is no such person; `evenhand review people RUN` lists them.")
        session.delete(row)
        _record(session, PersonEvent.REMOVED, row, by)


def people(store: ReviewStore) -> list[Person]:
    """Return everybody, by id."""
    with store.transaction() as session:
        rows = session.scalars(select(PersonRow).order_by(PersonRow.person_id))
        return [_person(row) for row in rows]


def person_by_id(store: ReviewStore, person_id: str) -> Person | None:
    """Return the person with this id; None: there is none."""
    with store.transaction() as session:
        row = session.get(PersonRow, person_id)
        return None if row is None else _person(row)


def person_by_login(store: ReviewStore, login: str) -> Person | None:
    """Return the person with this login; None: they may not work here."""
    with store.transaction() as session:
        row = session.scalars(select(PersonRow).where(PersonRow.login == login)).first()
        return None if row is None else _person(row)


def set_passphrase(store: ReviewStore, person_id: str, passphrase: str) -> None:
    """Keep a person's first passphrase, which they chose on the page; there must be none yet.

    Raises:
        ReviewError: too short, too simple, or there is one.
    """
    if len(passphrase) < PASSPHRASE_MIN or len(set(passphrase)) < 4:
        raise ReviewError(
            f"A passphrase has {PASSPHRASE_MIN} characters or more, at least 4 of them different."
        )
    kept = _argon2(secrets.token_bytes(16)).derive_phc_encoded(passphrase.encode())
    with store.transaction(write=True) as session:
        row = session.get(PersonRow, person_id)
        if row is None or row.passphrase:
            raise ReviewError("Your passphrase is set already; an administrator can clear it.")
        row.passphrase, row.failures, row.blocked_until_s = kept, 0, 0.0
        own = Author(name=person_id, way=Way.PAGE)
        _record(session, PersonEvent.PASSPHRASE_CHOSEN, row, own)


def clear_passphrase(store: ReviewStore, person_id: str, *, by: Author) -> None:
    """Let a person choose a passphrase anew at their next visit.

    Raises:
        ReviewError: there is no such person.
    """
    with store.transaction(write=True) as session:
        row = session.get(PersonRow, person_id)
        if row is None:
            raise ReviewError("There is no such person; `evenhand review people RUN` lists them.")
        row.passphrase, row.failures, row.blocked_until_s = "", 0, 0.0
        _record(session, PersonEvent.PASSPHRASE_CLEARED, row, by)


def check_passphrase(store: ReviewStore, person_id: str, passphrase: str, *, now_s: float) -> None:
    """Hold a passphrase against a person's own.

    A try counts as a wrong one before it is looked at, and is taken back when it was right: nobody
    tries ten at once past the count, and nobody else's write waits for the hash.

    Raises:
        ReviewError: it is another, there is none, or too many were wrong.
    """
    one = _count_try(store, person_id, now_s=now_s)
    if not _fits(passphrase, one.kept):
        raise ReviewError("This is not your passphrase. Nothing was signed.")
    with store.transaction(write=True) as session:
        row = session.get(PersonRow, person_id)
        if row is None or row.passphrase != one.kept:
            raise ReviewError("Your passphrase was changed just now. Nothing was signed.")
        if row.blocked_until_s == one.blocks_until_s:  # nobody else's tries have blocked it
            row.blocked_until_s = 0.0
            row.failures = max(0, row.failures - one.number)


@dataclass(frozen=True, kw_only=True)
class _Try:
    """One try: the how manieth since a right one, what it is held against, and the end of a block.

    The block is the one that was there (over, or none) or, at the last try, its own.
    """

    number: int
    kept: str
    blocks_until_s: float


def _count_try(store: ReviewStore, person_id: str, *, now_s: float) -> _Try:
    with store.transaction(write=True) as session:
        row = session.get(PersonRow, person_id)
        if row is None or not row.passphrase:
            raise ReviewError("You have no passphrase yet; choose one first.")
        if row.blocked_until_s > now_s:
            minutes = -(-(row.blocked_until_s - now_s) // 60)
            raise ReviewError(f"Too many wrong passphrases; try again in {minutes:.0f} min.")
        row.failures += 1
        number = row.failures
        if number >= TRIES:
            row.failures, row.blocked_until_s = 0, now_s + WAIT_S
        return _Try(number=number, kept=row.passphrase, blocks_until_s=row.blocked_until_s)


def parse_roles(names: Collection[str]) -> frozenset[Role]:
    """Read roles by name.

    Raises:
        ReviewError: one does not exist; says which do.
    """
    try:
        return frozenset(Role(name) for name in names)
    except ValueError:
        raise ReviewError(f"There is no such role; choose from: {', '.join(Role)}.") from None


def _record(session: Session, event: PersonEvent, row: PersonRow, by: Author) -> None:
    one = _person(row)
    change = PersonChange(
        change=event,
        person_id=one.person_id,
        login=one.login,
        name=one.name,
        roles=one.roles,
        by=by,
    )
    PEOPLE_CHANGES.append(session, change)


def _argon2(salt: bytes) -> Argon2id:
    return Argon2id(salt=salt, length=32, iterations=1, lanes=1, memory_cost=_MEMORY_KIB)


def _fits(passphrase: str, kept: str) -> bool:
    with _one_hash:
        try:
            Argon2id.verify_phc_encoded(passphrase.encode(), kept)
        except InvalidKey:
            return False
    return True


def _person(row: PersonRow) -> Person:
    return Person(
        person_id=row.person_id,
        login=row.login,
        name=row.name,
        roles=frozenset(Role(name) for name in row.roles.split()),
        has_passphrase=bool(row.passphrase),
    )
