"""A run behind gate and routes, and what people do there: look, paint, decide, sign."""

import asyncio
import time
import types

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from evenhand.review import Role
from evenhand_ui import sitting
from evenhand_ui.access import visitor_by_id
from evenhand_ui.drafts import Box
from evenhand_ui.gate import LOGIN_HEADER, Gate
from evenhand_ui.office import office_of
from evenhand_ui.routes import make_routes
from evenhand_ui.signing import sign_decision
from evenhand_ui.tickets import WRITE
from evenhand_ui.volumes import pack
from review_people import WORDS, proxied
from review_run import proposed_mask
from screens import Screens

HEADER_ROUTE = "/who"


def make_desk(folder, monkeypatch):
    """A run behind gate and routes, and people's requests to it."""
    monkeypatch.setattr(sitting, "HEAD_START", 1000)
    office_of.cache_clear()
    office = office_of(folder, None, None)
    screens = Screens(office)

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
        method,
        path,
        *,
        who="r1",
        role=Role.READER,
        action=WRITE,
        case="n001",
        head=None,
        browser="",
        **more,
    ):
        opaque = office.tickets.opaque(case)
        ticket = office.tickets.issue(
            who, opaque, action, now_s=time.time(), role=role, browser=browser
        )
        shown = screens.shown(method, path, case, who, role)
        own = {"X-Evenhand-Ticket": ticket, "X-Evenhand-Reading": shown}
        headers = {**own, **proxied(who), **(head or {})}
        return request(method, f"/evenhand/case/{opaque}/{path}", headers=headers, **more)

    return types.SimpleNamespace(office=office, request=request, ask=ask, folder=folder)


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
