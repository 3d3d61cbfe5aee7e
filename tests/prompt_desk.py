"""A run with a model behind the page's routes, and a reader's requests to it."""

import asyncio
import time
import types

import httpx
from starlette.applications import Starlette

from evenhand_ui.office import office_of
from evenhand_ui.routes import make_routes
from evenhand_ui.tickets import WRITE

PATIENCE_S = 240
_OPEN = []


def desk_of(folder):
    """A run behind its routes, and a reader's requests to it."""
    office = office_of(folder, None, None)
    _OPEN.append(office)
    transport = httpx.ASGITransport(Starlette(routes=make_routes(lambda: office)))

    async def send(method, path, headers, **more):
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return await client.request(method, path, headers=headers, **more)

    def ask(method, path, *, case="n001", more_headers=None, **more):
        opaque = office.tickets.opaque(case)
        ticket = office.tickets.issue("Dr. Lee", opaque, WRITE, now_s=time.time())
        head = {"X-Evenhand-Ticket": ticket, **(more_headers or {})}
        return asyncio.run(send(method, f"/evenhand/case/{opaque}/{path}", head, **more))

    def wait(case="n001"):
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            state = ask("GET", "prompt", case=case).json()
            if state["state"] != "preparing":
                return state
            time.sleep(0.05)
        raise AssertionError(state)

    return types.SimpleNamespace(office=office, ask=ask, wait=wait)


def end_desks():
    """End what models still do in the background, so that the next test has its own only."""
    while _OPEN:
        _OPEN.pop().assistant.end()
