"""Who is at the page and what they may do: asked by the page at each run, by the routes each time.

A ticket says who has opened a case, in which role. That the person is still known,
still has the role, may read this case in it, and has not been away for too long is
looked up again at every request: a right that was taken away is gone at once.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evenhand.errors import ReviewAwayError, ReviewError
from evenhand.review import Person, Role, check_task, person_by_id, person_by_login
from evenhand_ui.oidc import browser_of
from evenhand_ui.tickets import WRITE, Grant, TicketError

if TYPE_CHECKING:
    from evenhand_ui.office import Office

__all__ = [
    "DEMO_ROLES",
    "Presence",
    "Visitor",
    "admit",
    "check_right",
    "visitor_by_id",
    "visitor_by_login",
]

DEMO_ROLES = frozenset(Role) - {Role.ADMIN}
"""What anybody may try in a demo; there is nobody to administrate."""

_NO_MORE = "You may not do this here any more; ask an administrator."


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Somebody at the page. `person_id` is the pseudonym (in a demo, the name they wrote)."""

    person_id: str
    name: str
    roles: frozenset[Role]
    has_passphrase: bool = False


@dataclass
class Presence:
    """When each person last did something, in this process."""

    limit_s: float
    _last: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def touch(self, person_id: str) -> None:
        """They have done something just now."""
        with self._lock:
            self._last[person_id] = time.monotonic()

    def away(self, person_id: str) -> bool:
        """Whether they have done nothing for too long; who was never here is not away."""
        with self._lock:
            last = self._last.get(person_id)
            return last is not None and time.monotonic() - last > self.limit_s


def visitor_by_id(office: "Office", person_id: str) -> Visitor | None:
    """Return who a person is; None: they may not work here (any more)."""
    if not office.rules.verified:
        name = person_id.strip()
        return Visitor(person_id=name, name=name, roles=DEMO_ROLES) if name else None
    return _visitor(person_by_id(office.store, person_id))


def visitor_by_login(office: "Office", login: str) -> Visitor | None:
    """Return who has a login; None: nobody who may work here."""
    return _visitor(person_by_login(office.store, login)) if login else None


def admit(
    office: "Office",
    grant: Grant,
    case_id: str,
    action: str,
    *,
    header: str,
    cookies: Mapping[str, str],
) -> None:
    """Let a request pass, or refuse it.

    Args:
        office: the run under review.
        grant: what its ticket says.
        case_id: which case it is about.
        action: what it wants to do, `read` or `write`.
        header: the gate's signed login, where there is a proxy.
        cookies: of the request, among them that of a login by OIDC.

    Raises:
        TicketError: not this person, not in this role, or away for too long.
        ReviewError: the case is not theirs to read or to decide.
    """
    visitor = visitor_by_id(office, grant.reader)
    if visitor is None or grant.role not in visitor.roles:
        raise TicketError(_NO_MORE)
    if office.rules.proxy is not None:
        at_door = visitor_by_login(office, office.tickets.login_of(header))
        if at_door is None or at_door.person_id != visitor.person_id:
            raise TicketError("This request comes from somebody else than its ticket.")
    here = browser_of(cookies)
    if office.rules.login == "oidc" and not (here and here == grant.browser):
        raise TicketError("This request does not come from the login that its ticket was for.")
    if office.rules.verified:
        if office.presence.away(visitor.person_id):
            raise TicketError("You were away for too long; say on the page who you are.")
        if action == WRITE:
            office.presence.touch(visitor.person_id)
    try:
        check_right(office, visitor.person_id, grant.role, case_id, write=action == WRITE)
    except ReviewAwayError:
        raise  # says nothing of rights; the viewer tries again
    except ReviewError as error:
        raise TicketError(str(error)) from None


def check_right(office: "Office", person_id: str, role: Role, case_id: str, *, write: bool) -> None:
    """Look up anew whether a person has a role, and may read (or decide) a case in it.

    Raises:
        ReviewError: they may not; one sentence why.
    """
    visitor = visitor_by_id(office, person_id)
    if visitor is None or role not in visitor.roles:
        raise ReviewError(_NO_MORE)
    review = office.review(case_id)
    check_task(visitor.person_id, role, review.entries, review.standing, write=write)


def _visitor(person: Person | None) -> Visitor | None:
    if person is None:
        return None
    return Visitor(
        person_id=person.person_id,
        name=person.name,
        roles=person.roles,
        has_passphrase=person.has_passphrase,
    )
