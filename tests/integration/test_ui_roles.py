"""Roles at the routes, behind a proxy: who comes in, who may do what, who sees what, who signs."""

import asyncio
import csv
import json
import time
import types

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from evenhand.errors import ResourceError, ReviewError
from evenhand.review import Person as KnownPerson
from evenhand.review import (
    Reason,
    Role,
    Stage,
    State,
    Verdict,
    put_person,
    release_claim,
    remove_person,
)
from evenhand_ui import sitting
from evenhand_ui.access import visitor_by_id
from evenhand_ui.drafts import Box, Drafts
from evenhand_ui.gate import LOGIN_HEADER, Gate
from evenhand_ui.history import _record
from evenhand_ui.office import office_of
from evenhand_ui.routes import make_routes
from evenhand_ui.signing import meaning_at, sign_decision
from evenhand_ui.tickets import READ, WRITE, Tickets
from evenhand_ui.trail_files import export_run, verify_trail
from evenhand_ui.volumes import pack
from evenhand_ui.worklist import build_worklist
from review_people import BY, WORDS, proxied, with_people
from review_run import TUMOUR_SLICES, make_review_run, proposed_mask

HEADER_ROUTE = "/who"


def make_desk(folder, monkeypatch):
    """A run behind gate and routes, and people's requests to it."""
    monkeypatch.setattr(sitting, "HEAD_START", 1000)
    office_of.cache_clear()
    office = office_of(folder, None, None)

    async def who(request):
        return PlainTextResponse(request.headers.get(LOGIN_HEADER, "nobody"))

    app = Starlette(
        routes=[*make_routes(lambda: office), Route(HEADER_ROUTE, who)],
        middleware=[Middleware(Gate, office=lambda: office)],
    )
    transport = httpx.ASGITransport(app, client=("10.0.0.5", 1))

    def request(method, path, **more):
        async def send():
            async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
                return await client.request(method, path, **more)

        return asyncio.run(send())

    def ask(
        method, path, *, who="r1", role=Role.READER, action=WRITE, case="n001", head=None, **more
    ):
        opaque = office.tickets.opaque(case)
        ticket = office.tickets.issue(who, opaque, action, now_s=time.time(), role=role)
        headers = {"X-Evenhand-Ticket": ticket, **proxied(who), **(head or {})}
        return request(method, f"/evenhand/case/{opaque}/{path}", headers=headers, **more)

    return types.SimpleNamespace(office=office, request=request, ask=ask, folder=folder)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Every case is read twice."""
    folder = with_people(make_review_run(tmp_path / "run"), more="second_share = 1.0")
    return make_desk(folder, monkeypatch)


def painted(k=5):
    """The proposal with a good deal more on a slice, as stored."""
    mask = proposed_mask()
    mask[2:20, 2:18, k] = 1
    return mask


def save(desk, mask, *, base=0, **more):
    """Save a stored mask as the viewer does."""
    view = mask[::-1]
    box = Box.around(view)
    head = {"If-Match": f'"{base}"', "X-Evenhand-Box": str(box), "X-Evenhand-Strokes": "1"}
    return desk.ask("PUT", "draft", content=pack(view[box.slices]), head=head, **more)


def decide(desk, verdict, *, reason="", revision=0, **more):
    """Decide as the viewer does."""
    said = {"verdict": verdict, "reason": reason, "comment": "", "revision": revision}
    return desk.ask("POST", "decision", json=said, **more)


def sign(desk, who, role=Role.READER, words=WORDS, *, case="n001", shown=None):
    """Sign as the page does; `shown`: what stands in the dialog (None: what waits)."""
    reading = desk.office.reading(case, who, role)
    shown = shown or desk.office.to_sign[reading.place]
    return sign_decision(desk.office, visitor_by_id(desk.office, who), reading, shown, words)


def read_as(desk, who, role, verdict=None, *, mask=None, reason="boundary"):
    """See, paint, decide and sign."""
    slices = list(range(6))
    assert desk.ask("POST", "seen", json={"slices": slices}, who=who, role=role).status_code == 200
    revision = 0
    if mask is not None:
        revision = save(desk, mask, who=who, role=role).json()["revision"]
    verdict = verdict or ("correct" if mask is not None else "accept")
    why = "" if verdict == "accept" else reason
    answer = decide(desk, verdict, reason=why, revision=revision, who=who, role=role)
    assert answer.json() == {"position": None}, answer.text
    return sign(desk, who, role)


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


class TestLesions:
    """Sizes of lesions are measured here, not in the browser, and recorded with the decision."""

    def test_of_the_recorded_mask(self, desk, tmp_path):
        """Two blocks of 2 x 2 x 5 mm voxels: volumes, diameters and slices, the larger first."""
        mask = np.zeros_like(proposed_mask())
        mask[2:6, 2:8, 1:3] = 1
        mask[15:18, 3, 5] = 1
        decision = read_as(desk, "r1", Role.READER, mask=mask).decision
        large, small = decision.lesions
        assert (large.volume_ml, small.volume_ml) == (48 * 0.02, 3 * 0.02)
        assert (large.slice, small.slice) == (1, 5)
        assert small.longest_diameter_mm == 6.0
        assert small.perpendicular_diameter_mm == 2.0
        export_run(desk.folder, tmp_path / "out")
        with (tmp_path / "out" / "decisions.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert json.loads(row["lesions"]) == [vars(large), vars(small)]
        page = (tmp_path / "out" / "decisions.html").read_text(encoding="utf-8")
        assert "0.06, 6.0 x\n2.0, 5" in page

    def test_of_an_accepted_proposal(self, desk):
        """The proposal that was accepted is what was measured; what was rejected is not."""
        decision = read_as(desk, "r1", Role.READER).decision
        (one,) = decision.lesions
        assert one.volume_ml == round(proposed_mask().sum() * 0.02, 3)
        assert read_as(desk, "r2", Role.SECOND_READER, "reject").decision.lesions is None

    def test_without_millimetres(self, desk):
        """Where nobody knows the spacing, nothing is recorded as if it were millimetres."""
        vars(desk.office.run)["units"] = "voxel"
        assert read_as(desk, "r1", Role.READER).decision.lesions is None


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


@pytest.fixture
def unaided(tmp_path, monkeypatch):
    """Every case is judged before its proposal is shown."""
    folder = with_people(make_review_run(tmp_path / "run"), more="unaided_share = 1.0")
    return make_desk(folder, monkeypatch)


class TestUnaided:
    """Who must judge first gets nothing of the model before."""

    def test_proposal_comes_after(self, unaided):
        """The proposal is empty until the reader has drawn; then it comes, with their drawing."""
        assert unaided.ask("GET", "proposal").headers["X-Evenhand-Box"] == "0,0,0,0,0,0"
        assert save(unaided, painted()).status_code == 200
        answer = decide(unaided, "correct", reason="boundary", revision=1)
        assert answer.json() == {"position": 1}
        (entry,) = unaided.office.store.entries()
        decision = entry.decision
        assert (decision.verdict, decision.reason) == (Verdict.UNAIDED, None)
        assert 0 < decision.dice < 1, "to the true proposal, which was not shown"
        assert unaided.office.review("n001").standing.state is State.OPEN
        assert unaided.ask("GET", "proposal").headers["X-Evenhand-Box"] != "0,0,0,0,0,0"
        draft = unaided.ask("GET", "draft")
        box = Box.parse(draft.headers["X-Evenhand-Box"], (24, 20, 6))
        mine = np.zeros((24, 20, 6), dtype=np.uint8)
        mine[box.slices] = np.frombuffer(draft.content, np.uint8).reshape(box.shape[::-1]).T
        assert np.array_equal(mine[::-1], painted())
        answer = decide(unaided, "correct", reason=Reason.MISSED_TUMOUR, revision=1)
        assert answer.json() == {"position": None}
        assert sign(unaided, "r1").position == 2

    def test_signed_with_the_decision(self, unaided, tmp_path):
        """One signature covers both readings: it names the first by its hash, and says so."""
        save(unaided, painted())
        decide(unaided, "correct", reason="boundary", revision=1)
        (first,) = unaided.office.store.entries()
        assert first.decision.signature is None
        decide(unaided, "correct", reason=Reason.MISSED_TUMOUR, revision=1)
        reading = unaided.office.reading("n001", "r1")
        shown = meaning_at(unaided.office, reading, unaided.office.to_sign[reading.place])
        decision = sign(unaided, "r1").decision
        assert decision.unaided_sha256 == first.sha256
        assert decision.signature.meaning == shown
        assert "first reading" in shown
        assert f"{first.decided_at_utc:%Y-%m-%d %H:%M}" in shown
        assert verify_trail(unaided.folder).startswith("2 decisions, chain intact")
        export_run(unaided.folder, tmp_path / "out")
        page = (tmp_path / "out" / "decisions.html").read_text(encoding="utf-8")
        assert "signed with decision\n2" in page
        assert "not signed" not in page

    def test_only_ones_own(self, unaided):
        """A case that another has read unaided is no part of one's signature."""
        save(unaided, painted())
        decide(unaided, "correct", reason="boundary", revision=1)
        release_claim(unaided.office.store, "federated", "n001", "r1")
        answer = decide(unaided, "cannot-judge", reason="poor-image", who="r2")
        assert answer.json() == {"position": None}
        decision = sign(unaided, "r2").decision
        assert decision.unaided_sha256 is None
        assert "first reading" not in decision.signature.meaning

    def test_the_model_is_not_asked_before(self, unaided):
        """Neither a prompt nor a heat map tells what the model thinks, before the reader judged."""
        assert unaided.ask("GET", "prompt").status_code == 409
        said = {"slice": 3, "box": [0, 0, 3, 9, 9, 3]}
        assert unaided.ask("POST", "prompt", json=said).status_code == 409
        assert unaided.ask("GET", "uncertainty").status_code == 409

    def test_no_tumour(self, unaided):
        """That there is no tumour wants all slices seen, and is a reading without a voxel."""
        assert decide(unaided, "accept").status_code == 409
        unaided.ask("POST", "seen", json={"slices": list(range(6))})
        assert decide(unaided, "accept").json() == {"position": 1}
        decision = unaided.office.store.entries()[0].decision
        assert (decision.verdict, decision.dice) == (Verdict.UNAIDED, 0.0)

    def test_nothing_to_reject(self, unaided):
        """What was not shown cannot be rejected."""
        answer = decide(unaided, "reject", reason="boundary")
        assert "No proposal was shown yet" in answer.json()["error"]

    def test_each_for_themselves(self, unaided):
        """One reader's drawing does not show the proposal to another."""
        save(unaided, painted())
        decide(unaided, "correct", reason="boundary", revision=1)
        box = unaided.ask("GET", "proposal", who="r2").headers["X-Evenhand-Box"]
        assert box == "0,0,0,0,0,0"

    def test_cannot_judge_is_no_reading(self, unaided):
        """Who says so without having drawn has not read: the proposal stays hidden from them."""
        answer = decide(unaided, "cannot-judge", reason="poor-image")
        assert answer.json() == {"position": None}
        sign(unaided, "r1")
        assert unaided.ask("GET", "proposal").headers["X-Evenhand-Box"] == "0,0,0,0,0,0"
        unaided.ask("POST", "seen", json={"slices": list(range(6))})
        assert decide(unaided, "accept").json() == {"position": 2}
        assert unaided.office.store.entries()[-1].decision.verdict is Verdict.UNAIDED

    def test_nothing_of_anothers(self, unaided):
        """Before their own reading nobody sees what another has said, drawn or come to."""
        save(unaided, painted())
        decide(unaided, "correct", reason="boundary", revision=1)
        decide(unaided, "correct", reason="boundary", revision=1)
        sign(unaided, "r1")
        review = unaided.office.review("n001")
        assert review.standing.state is State.CORRECTED
        for who, known in (("r1", True), ("r2", False)):
            items = build_worklist(unaided.office.run, {"n001": review}, person_id=who)
            (item,) = items
            assert (item.latest is not None, item.decided is not None) == (known, known)
            assert item.state is (State.CORRECTED if known else State.OPEN)
            assert bool(review.visible_to(who, Role.READER)) is known
            assert (review.own(who, Role.READER) is not None) is known
