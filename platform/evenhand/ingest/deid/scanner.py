"""Look for known identifiers in a tree: in names, in bytes, in what is packed.

A pattern list is searched as bytes in the encodings that hospitals write
(UTF-8, UTF-16, Latin-1, Cyrillic, Japanese, Chinese, Korean), without regard to
the case of Latin letters. gzip and zip files, PNG texts and deflated DICOM are
unpacked; DICOM texts are also decoded by their declared character set.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evenhand.errors import UsageError

__all__ = ["NOT_SEARCHED", "Finding", "Scanner", "read_identifiers", "scan_tree"]

_ENCODINGS = (
    *("utf-8", "utf-16-le", "utf-16-be", "latin-1", "iso8859-2", "iso8859-5", "iso8859-7"),
    *("koi8-r", "cp1251", "iso2022_jp", "iso2022_jp_2", "shift_jis", "euc_jp", "gb18030", "euc_kr"),
)
NOT_SEARCHED = 0
"""In place of an identifier's number: the file could not be searched to its end."""

_SHORTEST = 4
_UNPACKED_BYTES = 1 << 30
"""No file is unpacked beyond this; one that would be is reported as not searched."""

_STEP_BYTES = 1 << 24


@dataclass(frozen=True)
class Finding:
    """An identifier that was found: the file, and the line number in the list of identifiers.

    `NOT_SEARCHED` in place of the line: the file is cut, locked or too large to be searched whole.
    """

    path: Path
    identifier: int
    where: str


class Scanner:
    """Searches bytes and names for identifiers.

    Args:
        identifiers: texts of at least four characters. A person's name in the form
            of DICOM (Family^Given) is searched as a whole and by its parts.
    """

    def __init__(self, identifiers: Iterable[str]) -> None:
        self._index: dict[bytes, int] = {}
        for number, text in enumerate(identifiers, start=1):
            for part in {text, *re.split(r"[\^=]", text)}:
                if len(part.strip()) >= _SHORTEST:
                    for form in _forms(part.strip()):
                        self._index.setdefault(form.lower(), number)
        if not self._index:
            raise UsageError(f"There is no identifier of at least {_SHORTEST} characters to find.")

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        longest_first = sorted(self._index, key=len, reverse=True)
        return re.compile(b"|".join(map(re.escape, longest_first)))

    def in_bytes(self, content: bytes) -> set[int]:
        """Numbers (from 1) of the identifiers that stand in the content."""
        return {self._index[found] for found in self._pattern.findall(content.lower())}

    def in_file(self, path: Path, root: Path) -> Iterator[Finding]:
        """All that a file and its name hold, and whether it could be searched to its end."""
        name = path.relative_to(root).as_posix()
        for number in self.in_bytes(name.encode("utf-8", "surrogateescape")):
            yield Finding(path, number, "name")
        content = path.read_bytes()
        found: set[int] = set()
        searched = True
        for piece, whole in ((content, True), *_unpacked(content)):
            found |= self.in_bytes(piece)
            searched = searched and whole
        found |= self.in_bytes(_dicom_texts(content).encode())
        for number in sorted(found):
            yield Finding(path, number, "content")
        if not searched:
            yield Finding(path, NOT_SEARCHED, "packed content")


def read_identifiers(path: Path) -> list[str]:
    """Identifiers, one a line, UTF-8.

    Raises:
        UsageError: no such file, or not text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"'{path}' cannot be read as a list of identifiers: one a line, in UTF-8."
        ) from None
    return [line.strip() for line in lines]


def scan_tree(root: Path, identifiers: Iterable[str]) -> list[Finding]:
    """All identifiers that stand anywhere under a folder.

    Raises:
        UsageError: nothing to search for, or no such folder.
    """
    if not root.is_dir():
        raise UsageError(f"There is no folder '{root}' to search.")
    scanner = Scanner(identifiers)
    findings: list[Finding] = []
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
        findings += scanner.in_file(path, root)
    return findings


def _forms(text: str) -> Iterator[bytes]:
    for variant in {text, text.upper(), text.lower(), text.title()}:
        for encoding in _ENCODINGS:
            try:
                form = variant.encode(encoding)
            except UnicodeEncodeError:
                continue
            # Escapes that switch ISO 2022 on and off depend on what stands around the text.
            bare = re.sub(rb"\x1b[\x24\x28\x29\x2d\x2e][\x40-\x5a]?[\x40-\x5a]?", b"", form)
            if len(bare) >= _SHORTEST:
                yield bare


def _unpacked(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """What is packed in a file, each piece with whether that is all of it."""
    if content[:2] == b"\x1f\x8b":
        yield _inflated(content, wbits=31)
    elif content[:4] == b"PK\x03\x04":
        yield from _members(content)
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        for found in re.finditer(rb"zTXt|iTXt|iCCP", content):
            for start in range(found.end(), min(found.end() + 400, len(content))):
                if content[start] == 0x78:  # perhaps: a letter x looks the same
                    text, _ = _inflated(content[start:], wbits=15)
                    yield text, len(text) < _UNPACKED_BYTES


def _inflated(content: bytes, *, wbits: int) -> tuple[bytes, bool]:
    """Unpack as far as it goes, at most a GB; also whether that was to its end."""
    parts: list[bytes] = []
    size = 0
    while content:
        unpacker = zlib.decompressobj(wbits=wbits)
        while not unpacker.eof:
            try:
                part = unpacker.decompress(content, min(_STEP_BYTES, _UNPACKED_BYTES - size))
            except zlib.error:
                return b"".join(parts), False
            parts.append(part)
            size += len(part)
            content = unpacker.unconsumed_tail
            if size >= _UNPACKED_BYTES or not (part or unpacker.eof):
                return b"".join(parts), False
        # A gzip file may hold several streams, and zeros after the last.
        content = unpacker.unused_data.lstrip(b"\0") if wbits > zlib.MAX_WBITS else b""
    return b"".join(parts), True


def _members(content: bytes) -> Iterator[tuple[bytes, bool]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    text = file.read(_UNPACKED_BYTES)
                    yield text, not file.read(1)
    except (OSError, EOFError, RuntimeError, ValueError, zlib.error, zipfile.BadZipFile):
        yield b"", False  # cut short, damaged, locked, or packed in a way that Python does not know


def _dicom_texts(content: bytes) -> str:
    """All texts of a DICOM object, decoded; "" where it is none."""
    if content[128:132] != b"DICM":
        return ""
    from pydicom import dcmread

    from evenhand.ingest.deid.dicom import quiet_pydicom

    with quiet_pydicom():
        try:
            dataset = dcmread(io.BytesIO(content), stop_before_pixels=True)
            return str(dataset)
        except Exception:  # noqa: BLE001 - damaged files make pydicom raise almost anything
            return ""
