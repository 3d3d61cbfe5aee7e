"""A server on 127.0.0.1 that behaves, or misbehaves, as a test asks; it counts what it sends."""

import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["Loopback", "Served", "loopback"]


@dataclass
class Served:
    """What one path answers."""

    body: bytes
    content_type: str = "application/octet-stream"
    honours_range: bool = True
    announces_length: bool = True
    breaks: list[int] = field(default_factory=list)
    """Bytes after which the 1st, 2nd, ... answer breaks off; later ones are whole."""


@dataclass
class Loopback:
    """A running server: what it serves, and what it was asked."""

    address: str
    served: dict[str, Served] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range header) of each request, in order."""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes of body by path."""

    def serve(self, path: str, body: bytes, **behaviour: object) -> str:
        """Serve `body` at `path` and return its address."""
        self.served[path] = Served(body, **behaviour)
        return self.address + path

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one GET."""
        wanted_range = handler.headers.get("Range")
        self.asked.append((handler.path, wanted_range))
        served = self.served.get(handler.path)
        if served is None:
            handler.send_error(404)
            return
        start = 0
        if wanted_range and served.honours_range:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted_range).group(1))
            if start >= len(served.body):
                handler.send_error(416)
                return
            handler.send_response(206)
            last = len(served.body) - 1
            handler.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        else:
            handler.send_response(200)
        body = served.body[start:]
        handler.send_header("Content-Type", served.content_type)
        if served.announces_length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if served.breaks:
            body = body[: served.breaks.pop(0)]
        # Counted first: the client may be done before this thread goes on after the write.
        self.sent[handler.path] = self.sent.get(handler.path, 0) + len(body)
        handler.wfile.write(body)


@contextmanager
def loopback(certificate: Path | None = None) -> Iterator[Loopback]:
    """Run a server on a free port until the block ends; over TLS if a PEM for it is given."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        server.handle_error = lambda *_: None  # clients that do not trust it hang up
    scheme = "http" if certificate is None else "https"
    state = Loopback(f"{scheme}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
