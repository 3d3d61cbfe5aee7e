"""The gate before page and routes: behind a proxy, nobody comes in but through it.

Who somebody is comes from a header of the proxy, which anybody could send. So the
gate lets through only what proves to come from the proxy (a secret, and its
address where one is named), and hands the name on in a header of its own, signed:
page and routes believe that one only. What a visitor sends under its name is
thrown away.
"""

import hmac
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from evenhand.errors import EvenhandError
from evenhand_ui.rules import ProxyRules

if TYPE_CHECKING:
    from evenhand_ui.office import Office

__all__ = ["LOGIN_HEADER", "Gate"]

LOGIN_HEADER = "x-evenhand-login"
"""In which the gate hands on who is there: `Tickets.sign_login`."""

_ALIVE = "/_stcore/health"
"""Says only that the server runs; whoever started it asks there."""

_NOT_THE_PROXY = "This page is reached through the hospital's own address only; use that one."
_NOT_NOW = "This page cannot be opened now; the terminal that runs it says why."

_log = logging.getLogger(__name__)


class Gate:
    """ASGI middleware; `office` is asked at each request."""

    def __init__(self, app: ASGIApp, office: Callable[[], "Office | None"]) -> None:
        self.app = app
        self.office = office

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through, or refuse."""
        try:
            office = self.office() if scope["type"] in {"http", "websocket"} else None
            secret = office.rules.proxy.secret if office and office.rules.proxy else b""
        except EvenhandError as error:
            _log.error("The review page cannot open its run: %s", error)
            await _refuse(scope, receive, send, _NOT_NOW)
            return
        if office is None:
            await self.app(scope, receive, send)
            return
        scope = {**scope, "headers": list(scope["headers"])}
        headers = MutableHeaders(scope=scope)
        del headers[LOGIN_HEADER]
        proxy = office.rules.proxy
        if proxy is not None and scope["path"] != _ALIVE:
            login = _only(headers, proxy.user_header)
            if not login or not _from_proxy(proxy, secret, scope, headers):
                await _refuse(scope, receive, send, _NOT_THE_PROXY)
                return
            del headers[proxy.secret_header]
            del headers[proxy.user_header]
            headers[LOGIN_HEADER] = office.tickets.sign_login(login)
        await self.app(scope, receive, send)


def _only(headers: MutableHeaders, name: str) -> str:
    """Return a header that came once; of several, one may be the visitor's own: empty."""
    values = headers.getlist(name)
    return values[0].strip() if len(values) == 1 else ""


def _from_proxy(proxy: ProxyRules, secret: bytes, scope: Scope, headers: MutableHeaders) -> bool:
    given = _only(headers, proxy.secret_header).encode()
    peer = scope.get("client")
    known = not proxy.addresses or (peer is not None and peer[0] in proxy.addresses)
    return hmac.compare_digest(given, secret) and known


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        return
    response = PlainTextResponse(why, status_code=403, headers={"Cache-Control": "no-store"})
    await response(scope, receive, send)
