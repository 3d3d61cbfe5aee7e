"""Who may do what at the viewer's routes: short-lived signed tickets, and opaque case names.

Streamlit guards its own traffic, not the routes that carry voxels. Each of those
wants a ticket: reader, case, what may be done, until when, and an HMAC over it.
The key is made once a run and lies beside the decisions, readable by its owner.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evenhand.errors import EvenhandError, ResourceError
from evenhand.review import Role

__all__ = ["Grant", "TicketError", "Tickets", "page_key"]

LIFETIME_S = 30 * 60
"""How long a ticket lasts; the page renews it while a case is open."""

READ, WRITE = "read", "write"
"""What a ticket may allow; `write` allows to read as well."""


class TicketError(EvenhandError):
    """A request that may not be answered; `expired` tells one that only comes too late."""

    def __init__(self, message: str, *, expired: bool = False) -> None:
        super().__init__(message)
        self.expired = expired


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a valid ticket says. `browser` is the one it was issued to (empty: to none)."""

    reader: str
    action: str
    role: Role
    browser: str = ""


@dataclass(frozen=True)
class Tickets:
    """Signs and checks. `scope` names the run's arm, so that a ticket fits no other page."""

    key: bytes
    scope: str

    def opaque(self, case_id: str) -> str:
        """Return the name under which browsers know a case: 20 hex digits that tell nothing."""
        return self._sign("case", case_id)[:20]

    def issue(
        self,
        reader: str,
        opaque: str,
        action: str,
        *,
        now_s: float,
        role: Role = Role.READER,
        browser: str = "",
    ) -> str:
        """Return a ticket for one reader, in one role, and one case."""
        claim = {
            "reader": reader,
            "role": role.value,
            "case": opaque,
            "action": action,
            "browser": browser,
            "until": now_s + LIFETIME_S,
        }
        body = base64.urlsafe_b64encode(json.dumps(claim).encode()).decode()
        return f"{body}.{self._sign('ticket', body)}"

    def check(self, ticket: str, opaque: str, action: str, *, now_s: float) -> Grant:
        """Return what a ticket grants.

        Raises:
            TicketError: forged, of another case or page, too late, or not for this action.
        """
        body, _, signature = ticket.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("ticket", body).encode()):
            raise TicketError("This request is not one of this page's; reload the page.")
        try:
            claim = json.loads(base64.urlsafe_b64decode(body))
        except (binascii.Error, ValueError):  # pragma: no cover - it was signed by us
            raise TicketError("This request cannot be read; reload the page.") from None
        if claim["case"] != opaque:
            raise TicketError("This request is about another case than its ticket.")
        if claim["until"] < now_s:
            raise TicketError("The page was idle for too long; it asks anew.", expired=True)
        if action == WRITE and claim["action"] != WRITE:
            raise TicketError("This case is open for looking only; another reader has it.")
        return Grant(
            reader=claim["reader"],
            action=claim["action"],
            role=Role(claim["role"]),
            browser=claim.get("browser", ""),
        )

    def sign_reader(self, reader: str) -> str:
        """Return a reader's name for a cookie, so that a reload need not ask for it again."""
        return self._sign_name("reader", reader)

    def reader_of(self, cookie: str) -> str:
        """Return the name that `sign_reader` signed; empty where it did not."""
        return self._name_of("reader", cookie)

    def sign_login(self, login: str) -> str:
        """Return a login for the header that the gate hands on."""
        return self._sign_name("login", login)

    def login_of(self, header: str) -> str:
        """Return the login that `sign_login` signed; empty where it did not."""
        return self._name_of("login", header)

    def _sign_name(self, kind: str, name: str) -> str:
        body = base64.urlsafe_b64encode(name.encode()).decode()
        return f"{body}.{self._sign(kind, body)}"

    def _name_of(self, kind: str, text: str) -> str:
        body, _, signature = text.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(kind, body).encode()):
            return ""
        return base64.urlsafe_b64decode(body).decode()

    def _sign(self, kind: str, text: str) -> str:
        message = f"{kind}\n{self.scope}\n{text}".encode()
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()


def page_key(path: Path) -> bytes:
    """Read the key of a run's page, or make it; it lasts, so that a restart cuts nobody off.

    Raises:
        ResourceError: it can be neither read nor written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise ResourceError(f"'{path}' cannot be used: {error.strerror}.") from None
    if len(key) != 32:
        raise ResourceError(
            f"'{path}' is damaged. Which cases are read twice is drawn with it: put it back "
            "from a backup, and start the page again."
        )
    return key


def _make_key(path: Path) -> None:
    """Put a whole key in place; where another process was first, its key stays."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".page-key-") as file:  # mode 0600
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(file.name, path)
