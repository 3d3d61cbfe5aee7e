"""Roles at the routes, behind a proxy: who comes in, who may do what, who sees what, who signs."""

import asyncio

import pytest

from evenhand.errors import ResourceError, ReviewError
from evenhand.review import Person as KnownPerson
from evenhand.review import (
    Role,
    Stage,
    State,
    Verdict,
    put_person,
    remove_person,
)
from evenhand_ui.drafts import Drafts
from evenhand_ui.gate import LOGIN_HEADER, Gate
from evenhand_ui.history import _record
from evenhand_ui.oidc import browser_of
from evenhand_ui.tickets import READ, Tickets
from evenhand_ui.trail_files import export_run
from evenhand_ui.worklist import build_worklist
from review_desk import HEADER_ROUTE, decide, make_desk, painted, read_as, save, sign
from review_people import BY, proxied, with_people
from review_run import TUMOUR_SLICES, make_review_run, proposed_mask


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Every case is read twice."""
    folder = with_people(make_review_run(tmp_path / "run"), more="second_share = 1.0")
    return make_desk(folder, monkeypatch)


def test_shared_from_the_start(desk):
    """What page and routes share exists before the first of them asks, so all have the same."""
    shared = {
        "to_sign",
        "scores",
        "lesions",
        "presence",
        "assistant",
        "_sittings",
        "_locks",
        "_opened",
    }
    assert shared | {"_reading_of", "_ahead"} <= set(vars(desk.office))


class TestGate:
    """Nobody comes in but through the proxy, and nobody names themselves."""

    def test_through_the_proxy(self, desk):
        """What the proxy says is handed on, signed; its secret is not."""
        answer = desk.request("GET", HEADER_ROUTE, headers=proxied("r1"))
        assert desk.office.tickets.login_of(answer.text) == "r1@hospital"

    @pytest.mark.parametrize(
        "head",
        [
            {},
            {"X-Remote-User": "r1@hospital"},
            proxied("r1", secret="0123456789abcdef"),  # noqa: S106 - made up
            {"X-Evenhand-Proxy": "0123456789abcdef-of-the-proxy"},
            {LOGIN_HEADER: Tickets(b"k" * 32, "federated").sign_login("r1@hospital")},
        ],
    )
    def test_around_the_proxy(self, desk, head):
        """Without secret or name: refused in a sentence, whatever else was sent."""
        answer = desk.request("GET", HEADER_ROUTE, headers=head)
        assert answer.status_code == 403
        assert "hospital's own address" in answer.text

    @pytest.mark.parametrize("name", ["X-Remote-User", "X-Evenhand-Proxy"])
    def test_sent_twice(self, desk, name):
        """Of two names or two secrets one may be the visitor's own: neither is believed."""
        own = proxied("r1")
        for extra in (own[name], "adm@hospital"):
            head = [*own.items(), (name, extra)]
            assert desk.request("GET", HEADER_ROUTE, headers=head).status_code == 403

    def test_secret_cannot_be_read(self, desk):
        """The visitor is told a sentence, without the path; nobody comes in."""
        (desk.folder.parent / "proxy.secret").unlink()
        answer = desk.request("GET", HEADER_ROUTE, headers=proxied("r1"))
        assert answer.status_code == 403
        assert "cannot be opened now" in answer.text
        assert "proxy.secret" not in answer.text

    def test_own_header_is_thrown_away(self, desk):
        """A visitor's own login header does not come through, even a rightly signed one."""
        forged = {LOGIN_HEADER: desk.office.tickets.sign_login("adm@hospital")}
        answer = desk.request("GET", HEADER_ROUTE, headers=proxied("r1") | forged)
        assert desk.office.tickets.login_of(answer.text) == "r1@hospital"

    def test_address_of_the_proxy(self, tmp_path, monkeypatch):
        """Where the proxy's address is named, the secret from elsewhere is not enough."""
        folder = with_people(make_review_run(tmp_path / "run"))
        path = folder / "review" / "rules.toml"
        path.write_text(path.read_text() + 'addresses = ["10.0.0.9"]\n')
        desk = make_desk(folder, monkeypatch)
        assert desk.request("GET", HEADER_ROUTE, headers=proxied("r1")).status_code == 403
        path.write_text(path.read_text().replace("10.0.0.9", "10.0.0.5"))
        desk = make_desk(folder, monkeypatch)
        assert desk.request("GET", HEADER_ROUTE, headers=proxied("r1")).status_code == 200

    def test_websocket(self, desk):
        """The page's own connection is closed before it is opened."""
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "websocket", "path": "/_stcore/stream", "headers": [], "client": ("x", 1)}
        gate = Gate(None, lambda: desk.office)
        asyncio.run(gate(scope, None, send))
        assert [one["type"] for one in sent] == ["websocket.close"]

    def test_health(self, desk):
        """Whether the server runs may be asked by whoever started it; 404: it came through."""
        assert desk.request("GET", "/_stcore/health").status_code == 404


class TestWhoMay:
    """A ticket is not enough: the person, the role and the case are looked up each time."""

    @pytest.mark.parametrize(
        ("who", "role", "why"),
        [
            ("r1", Role.SECOND_READER, "may not do this here"),
            ("r1", Role.ADJUDICATOR, "may not do this here"),
            ("adm", Role.READER, "may not do this here"),
            ("adm", Role.ADMIN, "sees no cases"),
            ("nobody", Role.READER, "may not do this here"),
            ("../adm", Role.READER, "may not do this here"),
            ("adj", Role.ADJUDICATOR, "nothing to adjudicate"),
            ("aud", Role.AUDITOR, "decides nothing"),
        ],
    )
    def test_anothers_route(self, desk, who, role, why):
        """Whoever signed such a ticket: the role is not theirs, and nothing is written."""
        for method, path in (("PUT", "draft"), ("POST", "seen"), ("POST", "decision")):
            answer = desk.ask(method, path, who=who, role=role, json={})
            assert answer.status_code == 403
            assert why in answer.json()["error"]
        assert desk.office.store.entries() == []

    @pytest.mark.parametrize("path", ["image/0", "proposal", "draft"])
    def test_looking(self, desk, path):
        """An auditor looks; an administrator and an early adjudicator do not."""
        assert desk.ask("GET", path, who="aud", role=Role.AUDITOR, action=READ).status_code < 300
        for who, role in (("adm", Role.ADMIN), ("adj", Role.ADJUDICATOR)):
            assert desk.ask("GET", path, who=who, role=role, action=READ).status_code == 403

    def test_anothers_ticket(self, desk):
        """A stolen ticket does not fit whom the proxy says is there."""
        answer = desk.ask("GET", "image/0", head=proxied("r2"))
        assert answer.status_code == 403
        assert "somebody else" in answer.json()["error"]

    def test_right_taken_away(self, desk):
        """Who loses a role or is removed is out at the next request."""
        assert desk.ask("GET", "image/0").status_code == 200
        roles = frozenset({Role.ADMIN})
        put_person(
            desk.office.store,
            KnownPerson(person_id="r1", login="r1@hospital", name="L", roles=roles),
            by=BY,
        )
        assert desk.ask("GET", "image/0").status_code == 403
        remove_person(desk.office.store, "r2", by=BY)
        assert desk.ask("GET", "image/0", who="r2").status_code == 403

    def test_idle(self, desk, monkeypatch):
        """After a pause nothing is given out or taken in until the person has said who they are."""
        desk.ask("POST", "seen", json={"slices": []})
        monkeypatch.setattr(desk.office.presence, "limit_s", -1.0)
        for answer in (desk.ask("GET", "proposal"), save(desk, painted())):
            assert answer.status_code == 403
            assert "away for too long" in answer.json()["error"]
        monkeypatch.setattr(desk.office.presence, "limit_s", 900.0)
        assert desk.ask("GET", "proposal").status_code == 200

    def test_errors_name_nobody(self, desk):
        """Neither login nor printed name nor case id is in what a refused person is told."""
        for who in ("adm", "adj"):
            text = desk.ask("GET", "proposal", who=who, role=Role.READER).text
            assert not [word for word in ("@hospital", "Dr. ", "n001", "p-n001") if word in text]


LOGIN = {"_streamlit_user": "signed-one", "_streamlit_user__1": "its-rest"}
"""Cookies of a login by OIDC, as Streamlit keeps it."""


class TestOidc:
    """A ticket counts in the browser that has the login it was issued under."""

    @pytest.fixture
    def oidc(self, tmp_path, monkeypatch):
        """A run whose people log in by OIDC."""
        folder = with_people(make_review_run(tmp_path / "run"))
        (folder / "review" / "rules.toml").write_text('login = "oidc"\n', encoding="utf-8")
        return make_desk(folder, monkeypatch)

    def ask(self, oidc, cookies, browser):
        """Ask for an image with these cookies, and a ticket for that browser."""
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return oidc.ask("GET", "image/0", head={"Cookie": cookie}, browser=browser)

    def test_own(self, oidc):
        """The browser that is logged in is answered, whatever other cookies it has."""
        browser = browser_of(LOGIN)
        assert self.ask(oidc, LOGIN | {"_streamlit_xsrf": "x"}, browser).status_code == 200

    @pytest.mark.parametrize(
        "cookies",
        [
            {},
            {"_streamlit_user": "signed-two", "_streamlit_user__1": "its-rest"},
            {"_streamlit_user": "signed-one"},
            {"_streamlit_user_tokens": "signed-one"},
        ],
        ids=["logged-out", "another-login", "half", "tokens-only"],
    )
    def test_anothers(self, oidc, cookies):
        """After a log-out, or under another login, a stolen ticket opens nothing."""
        answer = self.ask(oidc, cookies, browser_of(LOGIN))
        assert answer.status_code == 403
        assert "does not come from the login" in answer.json()["error"]

    @pytest.mark.parametrize("cookies", [{}, LOGIN])
    def test_ticket_for_no_browser(self, oidc, cookies):
        """A ticket that was issued without a login opens nothing, with and without one."""
        assert self.ask(oidc, cookies, "").status_code == 403


class TestSigning:
    """A decision counts when it is signed: with name, time and meaning, by who made it."""

    def test_signed(self, desk):
        """The viewer's decision waits; the passphrase records it, name and meaning with it."""
        assert decide(desk, "reject", reason="boundary").json() == {"position": None}
        assert desk.office.store.entries() == []
        with pytest.raises(ReviewError, match="not your passphrase"):
            sign(desk, "r1", words="wrong words")
        assert desk.office.store.entries() == []
        decision = sign(desk, "r1").decision
        assert decision.login == "proxy"
        assert (decision.signature.name, decision.signature.method) == ("Dr. R1", "passphrase")
        assert decision.signature.meaning == "I reject the proposed mask."
        assert decision.verdict is Verdict.REJECT

    def test_checked_before_it_is_signed(self, desk):
        """What may not be decided is refused at once, not after the passphrase."""
        answer = decide(desk, "accept")
        assert answer.status_code == 409
        assert "Look at all slices" in answer.json()["error"]
        assert desk.office.to_sign == {}

    def test_only_what_was_shown(self, desk):
        """What another window has changed or taken back meanwhile is not signed unseen."""
        decide(desk, "reject", reason="boundary")
        place = desk.office.reading("n001", "r1").place
        shown = desk.office.to_sign[place]
        decide(desk, "cannot-judge", reason="poor-image")
        assert desk.office.to_sign[place] != shown
        with pytest.raises(ReviewError, match="not what waits"):
            sign(desk, "r1", shown=shown)
        del desk.office.to_sign[place]
        with pytest.raises(ReviewError, match="not what waits"):
            sign(desk, "r1", shown=shown)
        assert desk.office.store.entries() == []

    def test_right_taken_away_before_signing(self, desk):
        """Who loses the role while the dialog is open signs nothing, and withdraws nothing."""
        entry = read_as(desk, "r1", Role.READER)
        decide(desk, "reject", reason="boundary")
        reviews = desk.office.reviews()
        (item,) = [
            one
            for one in build_worklist(desk.office.run, reviews, person_id="r1")
            if one.case_id == "n001"
        ]
        person = KnownPerson(
            person_id="r1", login="r1@hospital", name="L", roles=frozenset({Role.ADMIN})
        )
        put_person(desk.office.store, person, by=BY)
        with pytest.raises(ReviewError, match="may not do this here"):
            sign(desk, "r1")
        with pytest.raises(ReviewError, match="may not do this here"):
            _record(desk.office, item, desk.office.reading("n001", "r1"), None)
        assert desk.office.store.entries() == [entry]

    def test_recorded_is_recorded(self, desk, monkeypatch):
        """What fails after a decision was recorded is logged; nobody is told to decide again."""

        def fail(*_, **__):
            raise ResourceError("the disk is full")

        monkeypatch.setattr(Drafts, "drop", fail)
        monkeypatch.setattr("evenhand_ui.deciding.release_claim", fail)
        entry = read_as(desk, "r1", Role.READER)
        assert desk.office.store.entries() == [entry]
        assert desk.office.to_sign == {}

    def test_exported(self, desk, tmp_path):
        """Name, time and meaning are in the readable page and in the table."""
        read_as(desk, "r1", Role.READER)
        export_run(desk.folder, tmp_path / "out")
        for name in ("decisions.html", "decisions.csv"):
            text = (tmp_path / "out" / name).read_text()
            assert "Dr. R1" in text
            assert "accept the proposed mask" in text
            assert desk.office.store.entries()[0].decided_at_utc.strftime("%Y-%m-%d") in text
        assert not list((tmp_path / "out" / "masks").iterdir()), "one reading of two is none yet"


class TestTwice:
    """The second reader is blind to the first, on every route; a third settles what differs."""

    def test_second_reader_sees_nothing_of_the_first(self, desk):
        """Whatever the second reader asks for before deciding, it is the same without a first."""
        second = {"who": "r2", "role": Role.SECOND_READER}
        paths = ("image/0", "proposal", "draft")
        before = [desk.ask("GET", path, **second) for path in paths]
        read_as(desk, "r1", Role.READER, mask=painted())
        after = [desk.ask("GET", path, **second) for path in paths]
        assert [(one.status_code, one.content) for one in before] == [
            (one.status_code, one.content) for one in after
        ]
        assert desk.ask("GET", "draft", **second).status_code == 204
        seen = desk.ask("POST", "seen", json={"slices": []}, **second)
        assert seen.json() == {"missing": list(TUMOUR_SLICES)}

    def test_claims_tell_nothing(self, desk):
        """That the first reader has the case open now keeps nobody from the second reading."""
        assert save(desk, painted()).status_code == 200
        answer = save(desk, painted(4), who="r2", role=Role.SECOND_READER)
        assert answer.status_code == 200

    def test_nobody_reads_twice(self, desk):
        """The first reader is not their own second, whatever roles they have."""
        read_as(desk, "r2", Role.READER)
        answer = desk.ask("GET", "proposal", who="r2", role=Role.SECOND_READER)
        assert answer.status_code == 403
        assert "in another role" in answer.json()["error"]

    def test_agreed(self, desk):
        """Two masks that are near enough: the first reading stands, and both are sealed."""
        near = proposed_mask()
        near[4:10, 6:12, 3] = 1
        near[20, 15, 3] = 1
        read_as(desk, "r1", Role.READER)
        read_as(desk, "r2", Role.SECOND_READER, mask=near)
        standing = desk.office.review("n001").standing
        assert standing.state is State.ACCEPTED
        assert 0.8 <= standing.dice < 1
        answer = decide(desk, "reject", reason="boundary")
        assert "only an adjudicator" in answer.json()["error"]

    def test_disputed_and_adjudicated(self, desk):
        """Too far apart: nobody's stands, until a third person has decided."""
        read_as(desk, "r1", Role.READER)
        read_as(desk, "r2", Role.SECOND_READER, mask=painted())
        assert desk.office.review("n001").standing.state is State.DISPUTED
        answer = desk.ask("GET", "proposal", who="r1", role=Role.ADJUDICATOR)
        assert answer.status_code == 403
        entry = read_as(desk, "adj", Role.ADJUDICATOR, "reject")
        assert entry.decision.stage is Stage.ADJUDICATION
        assert desk.office.review("n001").standing.state is State.REJECTED
