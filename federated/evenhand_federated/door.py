"""The coordinator's door: what hospitals can reach of the SuperLink, and nothing else.

Flower 1.41 serves three interfaces on one port. Only the one for nodes (`/v1/fleet/`) asks who
is there; those for operators and for running apps answer anybody. So the SuperLink listens on
loopback, and this door, on the address that hospitals know, hands on requests to `/v1/fleet/`
alone, of a bounded size, over TLS on both sides. What it refuses it writes down.
"""

import json
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import uvicorn

__all__ = ["LARGEST_BYTES", "Door"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LARGEST_BYTES = 64 * 1024 * 1024
"""Of one request; an adapter has 2 to 5 MB, and Flower sends it in pieces."""

_OPEN = "/v1/fleet/"
_UNKNOWN = {401, 403}
"""What the link answers to whoever does not prove to be an admitted hospital."""
_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"host"}
_TIMEOUT_S = 120.0
_AT_ONCE = 512
"""Connections; a hospital has a few. Beyond, the answer is 503 and a node tries again."""
_LARGEST_LOG = 8 * 1024 * 1024
"""Bytes; then the log is put aside as `.1`, and what was there before is gone."""


class _TooLargeError(Exception):
    """A body that went over the limit."""


class Door:
    """A reverse proxy before the SuperLink; an ASGI application.

    Args:
        inner: the SuperLink's address, `https://127.0.0.1:PORT`.
        authority: certificate that the SuperLink's is verified by.
        log_path: of refused requests, JSON lines.
        largest: bytes of a request.
        transport: in place of the network, for tests.
    """

    def __init__(
        self,
        inner: str,
        authority: Path | None,
        log_path: Path,
        *,
        largest: int = LARGEST_BYTES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        verify = ssl.create_default_context(cafile=str(authority)) if authority else True
        self._client = httpx.AsyncClient(
            base_url=inner, verify=verify, timeout=_TIMEOUT_S, transport=transport, trust_env=False
        )
        self._log_path = log_path
        self._largest = largest
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path = str(scope["path"])
        raw = bytes(scope.get("raw_path") or path.encode()).decode("ascii", "replace")
        if not path.startswith(_OPEN) or ".." in unquote(raw) or "//" in path:
            await self._refuse(scope, send, 404, "not for hospitals")
            return
        if _length(scope) > self._largest:
            await self._refuse(scope, send, 413, "too large")
            return
        headers = [(key, value) for key, value in scope["headers"] if key not in _HOP]
        query = bytes(scope.get("query_string", b""))
        try:
            request = self._client.build_request(
                scope["method"],
                raw.partition("?")[0] + (f"?{query.decode('ascii')}" if query else ""),
                headers=headers,
                content=self._body(receive),
            )
        except (UnicodeDecodeError, httpx.InvalidURL):
            await self._refuse(scope, send, 400, "no such address")
            return
        try:
            answer = await self._client.send(request, stream=True)
        except _TooLargeError:
            await self._refuse(scope, send, 413, "too large")
            return
        except httpx.HTTPError:
            await _answer(send, 503, b"the coordinator is starting")
            return
        if answer.status_code in _UNKNOWN:
            self._write_down(scope, "no key of an admitted hospital")
        await self._hand_on(answer, send)

    def start(self, host: str, port: int, *, certificate: Path, key: Path) -> None:
        """Serve in a thread of this process."""
        config = uvicorn.Config(
            self,
            host=host,
            port=port,
            ssl_certfile=str(certificate),
            ssl_keyfile=str(key),
            log_level="warning",
            lifespan="off",
            ws="none",
            server_header=False,
            limit_concurrency=_AT_ONCE,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether it answers."""
        return self._server is not None and self._server.started

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs: it ends when the port cannot be had."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Close it."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=5)

    async def _body(self, receive: Receive) -> AsyncIterator[bytes]:
        size, more = 0, True
        while more:
            part = await receive()
            if part["type"] == "http.disconnect":
                return
            more = bool(part.get("more_body", False))
            size += len(part.get("body", b""))
            if size > self._largest:
                raise _TooLargeError
            yield part.get("body", b"")

    async def _hand_on(self, answer: httpx.Response, send: Send) -> None:
        headers = [(key, value) for key, value in answer.headers.raw if key.lower() not in _HOP]
        await send(
            {"type": "http.response.start", "status": answer.status_code, "headers": headers}
        )
        try:
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        finally:
            await answer.aclose()
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(self, scope: Scope, send: Send, status: int, why: str) -> None:
        self._write_down(scope, why)
        await _answer(send, status, why.encode())

    def _write_down(self, scope: Scope, why: str) -> None:
        client = scope.get("client") or ("unknown", 0)
        entry = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "from": str(client[0]),
            "path": str(scope["path"])[:200],
            "why": why,
        }
        if self._log_path.exists() and self._log_path.stat().st_size > _LARGEST_LOG:
            self._log_path.replace(self._log_path.with_name(f"{self._log_path.name}.1"))
        with self._log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


async def _answer(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def _length(scope: Scope) -> int:
    for key, value in scope["headers"]:
        if key == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
