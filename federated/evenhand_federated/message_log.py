"""A hospital's own log of messages: what came, what left, what was refused.

One JSON line an entry. Each bears the hash of the one before it and the hospital's signature, as
the privacy ledger's do (`evenhand.privacy.chain`), so a line that was changed or taken out of
the middle is found. A signed file beside it (`.head`) says how far it goes, so lines cut off its
end are found, too, and nothing is written behind such a cut. A process that is killed may leave an
unfinished line, which goes, or a head that is behind, which is brought up before the next line. A
log and a head that are put back together to older copies hang together: note the last number now
and then. No line names a patient.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import RawIOBase
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from evenhand.artifacts import write_atomically
from evenhand.errors import FederationError, ResourceError
from evenhand.privacy.chain import Entry, Fault, Head, chain_faults, head_faults, seal
from evenhand.privacy.keys import HospitalKey

__all__ = ["MessageLog", "Weight", "weigh"]


@dataclass(frozen=True)
class Weight:
    """Size and hash of a message's content."""

    bytes: int
    sha256: str


def weigh(content: RecordDict) -> Weight:
    """Size and hash of a message's content, the same for equal content everywhere.

    The hash covers, for every record and every entry in it in the order of names, the name and
    the bytes: those of an array as Flower serialises it (with its type and shape), and of
    another value its JSON.
    """
    digest, size = hashlib.sha256(), 0
    for name, record in sorted(content.items()):
        for key, value in sorted(record.items()):
            if isinstance(record, ArrayRecord):
                data = value.data
                digest.update(json.dumps([name, key, value.dtype, list(value.shape)]).encode())
                digest.update(data)
                size += len(data)
            elif isinstance(record, MetricRecord | ConfigRecord):
                text = json.dumps([name, key, value], default=repr).encode()
                digest.update(text)
                size += len(text)
    return Weight(size, digest.hexdigest())


class MessageLog:
    """The log of one hospital.

    Args:
        path: of the file; made with its first entry.
        key: of the hospital.
    """

    def __init__(self, path: Path, key: HospitalKey) -> None:
        self.path = path
        self.head_path = path.with_suffix(".head")
        self._key = key

    def add(self, kind: str, **facts: object) -> None:
        """Write an entry; it is on disk when this returns.

        Args:
            kind: received, sent, refused or failed.
            facts: what a person wants to know of it; none names a patient.

        Raises:
            FederationError: a message of that id was received before. It is looked for and
                written down in one go: of two at once one is refused. Or lines are missing at
                the end.
            ResourceError: it cannot be written. Nothing may leave then.
        """
        body = {name: value for name, value in facts.items() if value is not None}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                content = _whole(file.read())
                if kind == "received" and _knows(content, facts.get("message")):
                    raise FederationError("This message was here before: somebody replays it.")
                before = self._last(content)
                at = datetime.now(UTC).isoformat(timespec="milliseconds")
                at = max(at, before.at) if before else at  # a clock that was set back a little
                entry = seal(before, at, kind, body, self._key)
                _append(file, json.dumps(asdict(entry)).encode() + b"\n", len(content))
                self._write_head(entry, file, len(content))
        except OSError as error:
            raise ResourceError(
                f"The message log '{self.path}' cannot be written: {error.strerror}. Nothing "
                "leaves without it."
            ) from None

    def entries(self) -> list[Entry]:
        """All entries, oldest first.

        Raises:
            FederationError: a line is not one.
        """
        with self._unchanged():
            return self._read()

    def faults(self) -> list[Fault]:
        """Everything that is wrong with the log."""
        with self._unchanged():  # an entry that is being written is not in the one and in the other
            return self._faults(self._read(), self._head())

    def _read(self) -> list[Entry]:
        return _entries(_whole(self.path.read_bytes())) if self.path.exists() else []

    def _faults(self, entries: list[Entry], head: Head | None) -> list[Fault]:
        public = self._key.public
        return [*chain_faults(entries, public), *head_faults(entries, head, public)]

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """While nobody writes; a log that is not there is not made."""
        if not self.path.exists():
            yield
            return
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def _head(self) -> Head | None:
        try:
            return Head(**json.loads(self.head_path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return Head(0, "", "")  # signed by nobody

    def _write_head(self, entry: Entry, file: RawIOBase, size: int) -> None:
        """Say how far the log goes; where that cannot be written the entry goes, too."""
        content = json.dumps(asdict(Head.of(entry, self._key)))
        try:
            write_atomically(self.head_path, content.encode())
        except ResourceError:
            os.ftruncate(file.fileno(), size)
            raise

    def _last(self, content: bytes) -> Entry | None:
        """The entry that the next one follows, after a look whether it is the last one written.

        Where the head is not at it a process was killed before it wrote one, or somebody was here:
        then all is looked at, and the head is brought up if nothing else is wrong.
        """
        lines, head = content.splitlines(), self._head()
        last = _entry(lines[-1], len(lines)) if lines else None
        if last and head and not list(head_faults([last], head, self._key.public)):
            return last
        if faults := self._faults(_entries(content), head):
            raise FederationError(
                f"The end of the message log '{self.path}' is not what was written: {faults[0]} "
                f"Move the log and '{self.head_path.name}' away and keep them: new ones are begun, "
                "and the old ones are the evidence."
            )
        if last:
            write_atomically(self.head_path, json.dumps(asdict(Head.of(last, self._key))).encode())
        return last


def _whole(content: bytes) -> bytes:
    """A log without the line that a killed process has not finished: nothing left after that."""
    return content[: content.rfind(b"\n") + 1]


def _entries(content: bytes) -> list[Entry]:
    return [_entry(line, number) for number, line in enumerate(content.splitlines(), start=1)]


def _append(file: RawIOBase, line: bytes, size: int) -> None:
    """Bring a line to the disk whole behind `size` bytes, or leave the file with these alone."""
    try:
        os.ftruncate(file.fileno(), size)
        rest = line
        while rest:
            rest = rest[file.write(rest) or 0 :]
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), size)
        raise


def _knows(content: bytes, message_id: object) -> bool:
    return message_id is not None and any(
        entry.kind == "received" and entry.body().get("message") == message_id
        for entry in _entries(content)
    )


def _entry(line: bytes, number: int) -> Entry:
    try:
        fields: Mapping[str, object] = json.loads(line)
        return Entry(**fields)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise FederationError(
            f"Line {number} of the message log is damaged. Move the log away and keep it: a new "
            "one is begun, and the old one is the evidence."
        ) from None
