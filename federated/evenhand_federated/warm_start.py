"""Start a program of a node in its warm process, or cold: `python warm_start.py FOLDER WORDS`.

Run as a file, without site packages, since all that counts here is to be quick; it imports the
standard library alone. See `evenhand_federated.warm`.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["LARGEST", "NAME", "TAKEN", "near", "start"]

NAME = "warm"
"""Of the socket, in the folder of programs."""
LARGEST = 65536
"""Bytes of a program's name and arguments."""
TAKEN = b"1"
"""The answer when the program runs."""
_PATIENCE_S = 20.0


@contextmanager
def near(folder: os.PathLike[str] | str) -> Iterator[str]:
    """A short name for a folder: that of a socket may have no more than 107 bytes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def start(folder: str, words: list[str]) -> None:
    """Let the warm process run a program with this one's output, or become it."""
    taken = b""
    with (
        suppress(OSError),
        near(folder) as short,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link,
    ):
        link.settimeout(_PATIENCE_S)
        link.connect(f"{short}/{NAME}")
        socket.send_fds(link, [json.dumps(words).encode()], [1, 2])
        taken = link.recv(1)
    if taken != TAKEN:
        guard = [sys.executable, "-P", "-m", "evenhand_federated.site_guard", *words]
        os.execv(guard[0], guard)  # noqa: S606 - our own arguments, no shell


if __name__ == "__main__":
    start(sys.argv[1], sys.argv[2:])
