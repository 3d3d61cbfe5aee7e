"""A run behind the page's routes, and what a viewer sends to them."""

import asyncio
import time
import types

import httpx
import numpy as np
from starlette.applications import Starlette

from evenhand.review import ReviewStore
from evenhand_ui import sitting
from evenhand_ui.drafts import Box
from evenhand_ui.office import office_of
from evenhand_ui.routes import make_routes
from evenhand_ui.tickets import WRITE
from evenhand_ui.volumes import pack
from review_run import TUMOUR_SLICES, proposed_mask
from screens import Screens

SEEN = list(TUMOUR_SLICES)
"""In the test's cases k runs upwards, so the viewer counts as the file does."""


def make_desk(folder, monkeypatch):
    """A run behind its routes, and a reader's requests to it."""
    monkeypatch.setattr(sitting, "HEAD_START", 1000)
    office = office_of(folder, None, None)
    screens = Screens(office)
    transport = httpx.ASGITransport(Starlette(routes=make_routes(lambda: office)))

    async def send(method, path, **more):
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return await client.request(method, path, **more)

    def request(method, path, **more):
        return asyncio.run(send(method, path, **more))

    def ask(
        method, path, *, case="n001", reader="Dr. Lee", action=WRITE, ticket=None, head=None, **more
    ):
        opaque = office.tickets.opaque(case)
        if ticket is None:
            ticket = office.tickets.issue(reader, opaque, action, now_s=time.time())
        shown = screens.shown(method, path, case, reader)
        headers = {"X-Evenhand-Ticket": ticket, "X-Evenhand-Reading": shown, **(head or {})}
        return request(method, f"/evenhand/case/{opaque}/{path}", headers=headers, **more)

    return types.SimpleNamespace(office=office, request=request, ask=ask)


def volume_of(response, shape, dtype=np.uint8):
    """A packed volume as (x, y, z)."""
    return np.frombuffer(response.content, dtype=dtype).reshape(shape[::-1]).T


def turned(mask):
    """A stored mask as the viewer gets it: i runs to the patient's left in these cases."""
    return mask[::-1]


def painted():
    """The proposal with some voxels more and one less, as stored."""
    mask = proposed_mask()
    mask[20:22, 15, 5] = 1
    mask[8, 8, 3] = 0
    return mask


def save(desk, mask, *, base=0, strokes=2, box=None, body=None, **more):
    """Save a stored mask as the viewer does."""
    view = turned(mask)
    box = box or Box.around(view)
    head = {
        "If-Match": f'"{base}"',
        "X-Evenhand-Box": str(box),
        "X-Evenhand-Strokes": str(strokes),
    }
    content = pack(view[box.slices]) if body is None else body
    return desk.ask("PUT", "draft", content=content, head=head, **more)


def decide(desk, verdict, *, reason="", comment="", revision=0, **more):
    """Decide as the viewer does."""
    said = {"verdict": verdict, "reason": reason, "comment": comment, "revision": revision}
    return desk.ask("POST", "decision", json=said, **more)


def see(desk, slices=SEEN, **more):
    """Report slices as the viewer does; what is missing then."""
    return desk.ask("POST", "seen", json={"slices": list(slices)}, **more).json()["missing"]


def entries(desk):
    """All that was recorded."""
    with ReviewStore(desk.office.run.database) as store:
        return store.entries()
