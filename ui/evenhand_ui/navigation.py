"""The pages of the app, in the order of the menu: one list, one line a page.

A page is a function of the run under review and of who is there. Who opens a page
that their role does not have gets the first one of theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from evenhand.review import Role
from evenhand_ui.audit_page import show_audit
from evenhand_ui.federation_page import show_federation
from evenhand_ui.office import Office
from evenhand_ui.people_page import show_people
from evenhand_ui.readers_page import show_readers
from evenhand_ui.review_page import show_review
from evenhand_ui.who import Who

__all__ = ["PAGES", "Entrance"]

_LOOKING = frozenset({Role.AUDITOR})
"""Who sees all readings; a reader who did would not be blind."""

_READING = frozenset({Role.READER, Role.SECOND_READER, Role.ADJUDICATOR})


@dataclass(frozen=True, kw_only=True)
class Entrance:
    """One page: what the menu calls it, its address, whose it is, and what draws it."""

    title: str
    path: str
    roles: frozenset[Role]
    draw: Callable[[Office, Who], None]


def _show_ledger(office: Office, who: Who) -> None:
    from evenhand_ui.ledger_page import show_ledger  # brings torch and the accountant with it

    show_ledger(office, who)


PAGES: tuple[Entrance, ...] = (
    Entrance(title="Review", path="", roles=_READING | {Role.AUDITOR}, draw=show_review),
    Entrance(title="Audit report", path="audit", roles=_LOOKING, draw=show_audit),
    Entrance(title="Privacy ledger", path="ledger", roles=_LOOKING, draw=_show_ledger),
    Entrance(
        title="Federation",
        path="federation",
        roles=_LOOKING,
        draw=lambda _office, _who: show_federation(),
    ),
    Entrance(title="Readers", path="readers", roles=_LOOKING, draw=show_readers),
    Entrance(title="People", path="people", roles=frozenset({Role.ADMIN}), draw=show_people),
)
