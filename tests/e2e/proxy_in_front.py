"""A reverse proxy as a hospital has one: it knows who is there, and says so in two headers."""

import socket
import threading
from contextlib import contextmanager, suppress

from review_people import proxied


@contextmanager
def proxy_for(person_id, port):
    """Stand before a server on this machine as one person; yields the port to go to."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=_accept, args=(door, person_id, port), daemon=True).start()
        yield door.getsockname()[1]


def _accept(door, person_id, port):
    with suppress(OSError):  # it was closed
        while True:
            visitor, _ = door.accept()
            threading.Thread(target=_serve, args=(visitor, person_id, port), daemon=True).start()


def _serve(visitor, person_id, port):
    """One request a connection, or one websocket: the next one brings its own headers."""
    with visitor, suppress(OSError):
        head = b""
        while b"\r\n\r\n" not in head:
            part = visitor.recv(65536)
            if not part:
                return
            head += part
        first, _, rest = head.partition(b"\r\n")
        added = "".join(f"{name}: {value}\r\n" for name, value in proxied(person_id).items())
        if b"upgrade: websocket" not in head.lower():
            rest = rest.replace(b"Connection: keep-alive\r\n", b"Connection: close\r\n")
        with socket.create_connection(("127.0.0.1", port)) as server:
            server.sendall(first + b"\r\n" + added.encode() + rest)
            back = threading.Thread(target=_pour, args=(server, visitor), daemon=True)
            back.start()
            _pour(visitor, server)
            back.join()


def _pour(source, target):
    with suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
