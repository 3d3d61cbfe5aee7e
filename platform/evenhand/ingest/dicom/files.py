"""Finding files without trusting their names: in folders, and in zip archives."""

import mmap
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from evenhand.errors import DataError, UsageError

__all__ = ["FileRef", "find_files", "looks_like_dicom", "opened"]

_PREAMBLE = 128
_LARGEST_BYTES = 2**33
_ZIP_MAGIC = b"PK\x03\x04"
_FIRST_GROUPS = {0x0002, 0x0008}
_VRS = {b"UL", b"UI", b"CS", b"OB", b"SH", b"DA", b"TM", b"LO"}


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file, or a `member` of a zip archive. Both names may hold names of people."""

    path: str
    member: str | None = None

    def __str__(self) -> str:
        """Return the path, for the mapping that stays at the hospital."""
        return self.path if self.member is None else f"{self.path}!{self.member}"


def find_files(source: Path) -> list[FileRef]:
    """List the regular files under a folder, or the members of a zip, sorted.

    Zip archives within a folder are looked into, one level deep. Links are not
    followed: they may lead out of what was meant.

    Raises:
        UsageError: there is no such file or folder.
    """
    if source.is_file():
        return _expanded(source)
    if not source.is_dir():
        raise UsageError(f"There is no file or folder '{source}'.")
    found: list[FileRef] = []
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                found += _expanded(path)
    return found


def _expanded(path: Path) -> list[FileRef]:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != _ZIP_MAGIC:
            return [FileRef(str(path))]
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return [FileRef(str(path))]  # NotImplementedError: a zip that asks for a later version
    return [FileRef(str(path), info.filename) for info in sorted(members, key=_member_name)]


def _member_name(info: zipfile.ZipInfo) -> str:
    return info.filename


@contextmanager
def opened(ref: FileRef) -> Iterator[BinaryIO]:
    """Open a file for reading; never more than is there is taken into memory.

    Raises:
        DataError: it cannot be opened, is encrypted, or inflates beyond all measure.
    """
    try:
        if ref.member is None:
            with Path(ref.path).open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    yield BytesIO()
                    return
                # A damaged length must not make Python reserve gigabytes for one element, as
                # `file.read(n)` does; a map gives what is there and no more.
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                    yield cast("BinaryIO", view)
            return
        content = _unpacked(ref.path, ref.member)
    except (OSError, zipfile.BadZipFile, RuntimeError, KeyError, EOFError):
        raise DataError("it cannot be opened (damaged, encrypted or gone)") from None
    yield BytesIO(content)


def _unpacked(path: str, member: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(member).file_size > _LARGEST_BYTES:
                raise DataError("it is larger than any study")
            return archive.read(member)
    except (ValueError, zlib.error):  # of damage that zipfile does not look for
        raise zipfile.BadZipFile("it is damaged") from None


def looks_like_dicom(file: BinaryIO) -> bool:
    """Whether a file begins as DICOM does, with its preamble or without; rewinds it."""
    start = file.read(_PREAMBLE + 4)
    file.seek(0)
    if start[_PREAMBLE:] == b"DICM":
        return True
    if len(start) < 8:
        return False
    group = int.from_bytes(start[:2], "little")
    if group == 0x0008 and start[2:4] in {b"\x05\x00", b"\x16\x00", b"\x00\x00", b"\x08\x00"}:
        return start[4:6] in _VRS or int.from_bytes(start[4:8], "little") < 1024
    return group in _FIRST_GROUPS and start[4:6] in _VRS
