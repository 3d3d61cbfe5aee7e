"""The ledger's entries: each bears the hash of the one before it, and a signature.

An entry's hash covers its position, time, kind, content and the hash before it, so that a
byte that was changed, a row that was taken out and rows that changed places are all told
with the position. Rows that are missing at the end leave a chain that is right in itself:
these are found by the head (a signed file beside the ledger that says how far it goes), and
by receipts or a head that was written down elsewhere.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evenhand.privacy.keys import HospitalKey, is_signed

__all__ = ["Entry", "Fault", "Head", "Receipt", "chain_faults", "head_faults", "seal"]

_NOTHING = "0" * 64
"""What stands before the first entry."""


@dataclass(frozen=True)
class Entry:
    """One row: `content` is canonical JSON; `previous`, `hash` and `signature` are hex."""

    position: int
    at: str
    kind: str
    content: str
    previous: str
    hash: str
    signature: str

    def body(self) -> dict[str, Any]:
        """The content, read."""
        loaded: dict[str, Any] = json.loads(self.content)
        return loaded

    def right_hash(self) -> str:
        """The hash that this row ought to have."""
        return _hash(self.position, self.at, self.kind, self.content, self.previous)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a ledger, and where: a position, or 0 for the file as a whole."""

    position: int
    sentence: str

    def __str__(self) -> str:
        return f"entry {self.position}: {self.sentence}" if self.position else self.sentence


@dataclass(frozen=True)
class Receipt:
    """What proves later that an entry was there."""

    position: int
    at: str
    hash: str


@dataclass(frozen=True)
class Head:
    """How far a ledger goes, signed."""

    position: int
    hash: str
    signature: str

    @classmethod
    def of(cls, entry: Entry, key: HospitalKey) -> "Head":
        """The head that an entry is."""
        return cls(entry.position, entry.hash, key.sign(_head_message(entry.position, entry.hash)))

    def is_signed_by(self, public: str) -> bool:
        """Whether the signature is that of a public key (hex)."""
        return is_signed(public, _head_message(self.position, self.hash), self.signature)


def seal(
    before: Entry | None, at: str, kind: str, body: Mapping[str, object], key: HospitalKey
) -> Entry:
    """The entry that follows `before`, hashed and signed."""
    position = before.position + 1 if before else 1
    previous = before.hash if before else _NOTHING
    content = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = _hash(position, at, kind, content, previous)
    return Entry(position, at, kind, content, previous, digest, key.sign(digest.encode()))


def chain_faults(
    entries: Sequence[Entry], public: str, *, all_signatures: bool = True
) -> Iterator[Fault]:
    """Everything that is wrong with a chain, in order.

    Args:
        entries: as they lie in the file.
        public: key (hex) that has to have signed them.
        all_signatures: False checks the last one's only: it vouches for the hashes before.
    """
    expected, previous, time = 1, _NOTHING, ""
    for entry in entries:
        position = entry.position
        if position != expected:
            missing = f"{expected} to {position - 1}" if position - expected > 1 else expected
            yield Fault(position, f"entry {missing} before it is missing.")
        elif entry.previous != previous:
            yield Fault(position, "it does not follow the entry before it.")
        if entry.right_hash() != entry.hash:
            yield Fault(position, "its content is not what was written.")
        elif (all_signatures or entry is entries[-1]) and not is_signed(
            public, entry.hash.encode(), entry.signature
        ):
            yield Fault(position, "the hospital's key has not signed it.")
        elif entry.at < time and entry.kind != "clock":  # which says that it was set back
            yield Fault(position, "it bears an earlier time than the entry before it.")
        expected, previous = position + 1, entry.hash
        time = entry.at if isinstance(entry.at, str) else time  # a blob has no time


def head_faults(entries: Sequence[Entry], head: Head | None, public: str) -> Iterator[Fault]:
    """What the head says against the entries."""
    last = entries[-1].position if entries else 0
    if not entries and head is not None:
        yield Fault(0, f"All entries are gone: the head knows of {head.position}.")
    elif head is None:
        if last > 1:  # of a ledger that was just made it may not be written yet
            yield Fault(0, "The head is missing, so nobody can say whether the last rows are.")
    elif not head.is_signed_by(public):
        yield Fault(0, "The hospital's key has not signed the head.")
    elif head.position > last:
        lost = f"{last + 1} to {head.position}" if head.position - last > 1 else f"{last + 1}"
        yield Fault(last + 1, f"removed: the head knows entry {lost}, the ledger ends before.")
    elif head.hash not in {one.hash for one in entries if one.position == head.position}:
        yield Fault(head.position, "it is not the one that the head knows.")


def _hash(position: int, at: str, kind: str, content: str, previous: str) -> str:
    parts = json.dumps([position, at, kind, content, previous], separators=(",", ":"), default=repr)
    return hashlib.sha256(parts.encode()).hexdigest()


def _head_message(position: int, digest: str) -> bytes:
    return f"evenhand ledger head {position} {digest}".encode()
