"""One file over HTTP: streamed, taken up again where it broke, checked at the end.

Bytes arrive in a `.part` file. It outlives a broken connection and the process,
so that the next try asks only for the rest (HTTP Range); a server that does not
honour that is read from the start.
"""

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress, TaskID

from evenhand import __version__
from evenhand.errors import ResourceError, WeightsError

if TYPE_CHECKING:
    import requests

__all__ = [
    "ATTEMPTS",
    "CHUNK_BYTES",
    "CONNECT_TIMEOUT_S",
    "PAUSE_S",
    "READ_TIMEOUT_S",
    "Content",
    "Download",
    "SourceError",
    "full_disk_as_resource_error",
    "mismatch",
    "new_session",
    "reason",
    "sha256_of",
]

CONNECT_TIMEOUT_S = 5
"""A hospital's firewall often drops packets silently; the next source should get its turn soon."""

READ_TIMEOUT_S = 30
"""Silence after which a running transfer counts as broken."""

ATTEMPTS = 4
"""How often one download is begun or taken up again before its source is given up."""

PAUSE_S = 1.0
"""Wait before a broken download is taken up again."""

CHUNK_BYTES = 1 << 16
"""Read and written at a time; at most this much is lost when a connection breaks."""


class SourceError(WeightsError):
    """One source did not give the file; the message is the reason, as a clause."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """A file by what is in it: any source that gives these bytes will do."""

    file: str
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""


def sha256_of(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def mismatch(path: Path, wanted: Content) -> str | None:
    """Say how the file at `path` differs from what was wanted; None when it does not."""
    size = path.stat().st_size
    if size != wanted.size:
        return f"{wanted.file} should have {wanted.size:,} bytes and has {size:,}"
    got = sha256_of(path)
    if got != wanted.sha256:
        return f"{wanted.file} should have sha256 {wanted.sha256} and has {got}"
    return None


@dataclass(frozen=True)
class Download:
    """One address on its way into one `.part` file."""

    session: "requests.Session"
    address: str
    part: Path
    label: str
    """What people see beside the bar."""
    size: int | None
    """Bytes that are expected; None where the server alone knows."""
    reserve: int = 0
    """Bytes of disk that will be needed beyond the download itself."""

    def run(self, bar: Progress, complaint: Callable[[Path], str | None]) -> None:
        """Bring the `.part` file to its end and check it with `complaint`.

        Bytes left by an earlier run may be of another file: when they were
        continued and the check fails, the download starts once from nothing.

        Raises:
            SourceError: the bytes do not come, or other ones than wanted; wrong bytes
                are removed, a good beginning is kept.
            ResourceError: the disk is too small.
        """
        task = bar.add_task(self.label, total=self.size)
        try:
            resumed = self._have() > 0
            self._transfer(bar, task)
            wrong = complaint(self.part)
            if wrong and resumed:
                self.part.unlink()
                self._transfer(bar, task)
                wrong = complaint(self.part)
            if wrong:
                self.part.unlink()
                raise SourceError(wrong)
        finally:
            bar.remove_task(task)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _transfer(self, bar: Progress, task: TaskID) -> None:
        import requests

        for attempts_left in reversed(range(ATTEMPTS)):
            before = self._have()
            try:
                self._request(bar, task)
            except requests.RequestException as error:
                got = self._have()
                if got <= before or not attempts_left or isinstance(error, requests.HTTPError):
                    kept = f"; {got:,} bytes are kept for the next try" if got else ""
                    raise SourceError(reason(error) + kept) from error
                time.sleep(PAUSE_S)
            else:
                return

    def _request(self, bar: Progress, task: TaskID) -> None:
        have = self._have()
        if self.size is not None and have > self.size:
            self.part.unlink()
            have = 0
        if have and have == self.size:
            return
        self._check_disk((self.size or 0) - have + self.reserve)
        response = self._get(have)
        if response.status_code == 416:  # the server's file is not longer than ours: start anew
            response.close()
            self.part.unlink()
            response = self._get(0)
        with response:
            response.raise_for_status()
            resumed = have > 0 and response.status_code == 206
            if resumed and not response.headers.get("Content-Range", "").startswith(
                f"bytes {have}-"
            ):
                self.part.unlink()
                raise SourceError("it answered with another range than was asked for")
            start = have if resumed else 0
            self._check_offer(response, start)
            bar.update(task, completed=start)
            self._write(response, start, lambda count: bar.advance(task, count))

    def _get(self, have: int) -> "requests.Response":
        headers = {"Accept-Encoding": "identity"}  # bytes on the wire are bytes of the file
        if have:
            headers["Range"] = f"bytes={have}-"
        timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        return self.session.get(self.address, headers=headers, stream=True, timeout=timeout)

    def _check_offer(self, response: "requests.Response", start: int) -> None:
        """Refuse at once what cannot be the file; often it is the network's login page."""
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise SourceError("it answered with a web page (does this network ask for a login?)")
        length = response.headers.get("Content-Length", "")
        if self.size is not None and length.isdigit() and start + int(length) != self.size:
            raise SourceError(
                f"it offers {start + int(length):,} bytes where {self.size:,} are wanted"
            )

    def _write(
        self, response: "requests.Response", start: int, advance: Callable[[int], None]
    ) -> None:
        import requests

        position = start
        with self.part.open("ab" if start else "wb") as out:
            for chunk in response.iter_content(CHUNK_BYTES):
                position += len(chunk)
                if self.size is not None and position > self.size:
                    break
                with full_disk_as_resource_error(self.part.parent):
                    out.write(chunk)
                advance(len(chunk))
        if self.size is None or position == self.size:
            return
        if position < self.size:  # no length was announced, so nobody else noticed
            raise requests.exceptions.ChunkedEncodingError
        self.part.unlink()
        raise SourceError(f"it sends more than the {self.size:,} bytes that are wanted")

    def _check_disk(self, needed: int) -> None:
        folder = self.part.parent
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise ResourceError(
                f"'{folder}' has {free / 1e6:,.0f} MB free and {self.label} needs "
                f"{needed / 1e6:,.0f} MB there; free some space, or set EVENHAND_CACHE to a "
                "folder on a larger disk."
            )


@contextmanager
def full_disk_as_resource_error(folder: Path) -> Iterator[None]:
    """Turn the system's "no space left" while writing into `folder` into a clear sentence.

    Raises:
        ResourceError: the disk or the user's quota is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise ResourceError(
            f"The disk of '{folder}' is full; free some space, or set EVENHAND_CACHE to a "
            "folder on a larger disk."
        ) from error


def new_session(cert: str | None = None) -> "requests.Session":
    """Return a session that trusts `cert` (a file of certificates) where one is given."""
    import requests

    session = requests.Session()
    session.headers["User-Agent"] = f"evenhand/{__version__}"
    if cert:
        session.verify = cert
    return session


def reason(error: "requests.RequestException") -> str:
    """Say in a clause why an address could not be read."""
    from requests import exceptions

    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        return f"it answered HTTP {error.response.status_code} {error.response.reason}".rstrip()
    untrusted = (
        "its certificate is not trusted here (behind a hospital's proxy set REQUESTS_CA_BUNDLE "
        "to the hospital's certificates)"
    )
    # From the special to the general: several of these inherit from ConnectionError.
    clauses: tuple[tuple[type[Exception], str], ...] = (
        (exceptions.SSLError, untrusted),
        (exceptions.ProxyError, "the proxy did not let it through"),
        (exceptions.ConnectTimeout, f"no answer within {CONNECT_TIMEOUT_S} s"),
        (exceptions.ReadTimeout, f"nothing came for {READ_TIMEOUT_S} s"),
        (exceptions.ChunkedEncodingError, "the connection broke"),
        (exceptions.ConnectionError, "no connection"),
    )
    for kind, clause in clauses:
        if isinstance(error, kind):
            return clause
    return f"it cannot be asked ({type(error).__name__})"
