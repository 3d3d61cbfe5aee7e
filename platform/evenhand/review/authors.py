"""Who has changed something that is no decision: a person on the page, or an account."""

import os
import pwd
from dataclasses import dataclass
from enum import StrEnum

from evenhand.errors import ReviewError

__all__ = ["Author", "Way"]


class Way(StrEnum):
    """How something was done."""

    PAGE = "page"
    """On the review page; the author is a person's id."""
    COMMAND = "command"
    """By a command; the author is the account on the machine, not a person who has signed."""
    MIGRATION = "migration"
    """Found when the database was brought up to date."""


@dataclass(frozen=True, kw_only=True)
class Author:
    """Who did something, and how."""

    name: str
    way: Way

    def __post_init__(self) -> None:
        """Refuse an author that nobody could ask."""
        if not 0 < len(self.name) <= 100:
            raise ReviewError("What is recorded needs its author, of 1 to 100 characters.")

    @classmethod
    def of_account(cls) -> "Author":
        """Return the account that this process runs under, as the system has it."""
        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            name = f"uid {os.getuid()}"
        return cls(name=name, way=Way.COMMAND)
