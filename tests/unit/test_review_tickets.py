"""Tickets: nothing is given out, or taken in, without one that fits."""

import base64
import json

import pytest

from evenhand.errors import ResourceError
from evenhand_ui.tickets import LIFETIME_S, READ, WRITE, TicketError, Tickets, page_key

TICKETS = Tickets(b"k" * 32, scope="federated")
CASE = TICKETS.opaque("n001")


def test_grants_what_it_says():
    """Reader and action come out as they went in, until the end of the ticket."""
    ticket = TICKETS.issue("Dr. Lee", CASE, WRITE, now_s=100)
    grant = TICKETS.check(ticket, CASE, READ, now_s=100 + LIFETIME_S)
    assert (grant.reader, grant.action) == ("Dr. Lee", WRITE)


@pytest.mark.parametrize(
    ("change", "case", "action", "now_s", "why"),
    [
        (lambda _: "", CASE, READ, 0, "not one of this page's"),
        (lambda t: t[:-1] + ("0" if t[-1] != "0" else "1"), CASE, READ, 0, "not one of"),
        (lambda _: "é.é", CASE, READ, 0, "not one of"),
        (lambda t: t, TICKETS.opaque("n002"), READ, 0, "another case"),
        (lambda t: t, CASE, WRITE, 0, "looking only"),
        (lambda t: t, CASE, READ, LIFETIME_S + 1, "idle"),
    ],
)
def test_refused(change, case, action, now_s, why):
    """Forged, of another case, for more than it allows, too late: each is refused in words."""
    ticket = change(TICKETS.issue("Dr. Lee", CASE, READ, now_s=0))
    with pytest.raises(TicketError, match=why) as caught:
        TICKETS.check(ticket, case, action, now_s=now_s)
    assert caught.value.expired == (why == "idle")


def test_nobody_promotes_themselves():
    """A ticket whose claim was changed carries the wrong signature."""
    body, _, signature = TICKETS.issue("Dr. Lee", CASE, READ, now_s=0).partition(".")
    claim = json.loads(base64.urlsafe_b64decode(body)) | {"action": WRITE}
    forged = base64.urlsafe_b64encode(json.dumps(claim).encode()).decode()
    with pytest.raises(TicketError, match="not one of"):
        TICKETS.check(f"{forged}.{signature}", CASE, WRITE, now_s=0)


def test_of_another_page():
    """A ticket of another key, or of another arm of the same run, opens nothing here."""
    for other in (Tickets(b"o" * 32, scope="federated"), Tickets(b"k" * 32, scope="pooled")):
        with pytest.raises(TicketError):
            TICKETS.check(other.issue("A", CASE, READ, now_s=0), CASE, READ, now_s=0)
        assert other.opaque("n001") != CASE


def test_opaque_names_tell_nothing():
    """A case's name in the browser is made of digits that nobody without the key can make."""
    assert "n001" not in CASE
    assert len(CASE) == 20
    assert TICKETS.opaque("n001") == CASE


def test_cookie():
    """A reader's name comes back from our own cookie only."""
    cookie = TICKETS.sign_reader("Dr. Lé")
    assert TICKETS.reader_of(cookie) == "Dr. Lé"
    assert TICKETS.reader_of("x" + cookie) == ""
    assert TICKETS.reader_of("") == ""


def test_key_is_made_once(tmp_path):
    """A restarted page has the same key, so that open windows go on; only its owner reads it."""
    path = tmp_path / "review" / "page.key"
    key = page_key(path)
    assert page_key(path) == key
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600


def test_key_is_never_there_in_part(tmp_path, monkeypatch):
    """While a process makes the key, another finds none or a whole one; the first one stays."""
    path = tmp_path / "page.key"

    def meanwhile(size):
        assert not path.exists()
        path.write_bytes(b"1" * size)
        return b"2" * size

    monkeypatch.setattr("evenhand_ui.tickets.secrets.token_bytes", meanwhile)
    assert page_key(path) == b"1" * 32
    assert [one.name for one in tmp_path.iterdir()] == ["page.key"]


def test_damaged_key(tmp_path):
    """A key of another length is not used."""
    path = tmp_path / "page.key"
    path.write_bytes(b"short")
    with pytest.raises(ResourceError, match="damaged"):
        page_key(path)
