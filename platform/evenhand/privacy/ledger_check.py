"""A ledger looked at from outside, without the private key: is it whole, and what does it say?

For the officer at the hospital and for an auditor who was given a copy. Who has only the
copy can tell that it hangs together and that the key named in it signed it; that this is
the hospital's key is known by comparing its fingerprint.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evenhand.errors import LedgerError
from evenhand.privacy.chain import Entry, Fault, Head, Receipt, chain_faults, head_faults
from evenhand.privacy.keys import fingerprint_of
from evenhand.privacy.ledger_file import LedgerFile
from evenhand.privacy.ledger_state import LedgerState

__all__ = ["LedgerCopy", "read_receipts", "write_receipt"]

_CSV_COLUMNS = (
    "position",
    "at",
    "kind",
    "study",
    "purpose",
    "release",
    "cohort",
    "sampling_rate",
    "noise_multiplier",
    "steps",
    "trust",
    "epsilon",
    "delta",
    "by",
    "reason",
    "hash",
)


@dataclass(frozen=True)
class LedgerCopy:
    """Entries and head of a ledger as they lie on disk, right or wrong."""

    path: Path
    entries: tuple[Entry, ...]
    head: Head | None

    @classmethod
    def read(cls, path: Path) -> "LedgerCopy":
        """Read a ledger without changing anything.

        Raises:
            LedgerError: there is none, or SQLite cannot read it.
        """
        file = LedgerFile(path)
        head = file.head()  # first: what is appended meanwhile must not seem to be missing
        entries = tuple(file.entries())
        if not entries and head is None:
            raise LedgerError(
                f"There is no ledger at '{path}'. A hospital's first grant makes one: "
                "evenhand ledger grant HOSPITAL --epsilon E --delta D"
            )
        return cls(path, entries, head)

    def state(self, public: str | None = None) -> LedgerState:
        """What the entries say.

        Args:
            public: key (hex) that must have signed; None: the one that the ledger names.

        Raises:
            LedgerError: they cannot be trusted.
        """
        faults = self.faults(public)
        if faults:
            raise LedgerError(
                f"'{self.path}' is damaged ({faults[0]}) Nothing in it can be trusted. See all "
                f"of it: evenhand ledger verify {self.path.parent}"
            )
        return LedgerState.of(self.entries)

    @property
    def public_key(self) -> str:
        """The key (hex) that the first entry names; empty where that cannot be read."""
        try:
            return str(self.entries[0].body()["public_key"])
        except (IndexError, KeyError, ValueError, TypeError):
            return ""

    def faults(
        self, public: str | None = None, receipts: Sequence[Receipt] = (), heads: Sequence[str] = ()
    ) -> list[Fault]:
        """Everything that is wrong; empty where the ledger is whole.

        Args:
            public: key (hex) that must have signed; None: the one that the ledger names.
            receipts: of earlier charges, kept elsewhere; each has to be in the chain.
            heads: hashes that were written down before; each has to be in the chain.
        """
        named = self.public_key
        found = []
        if public is not None and named != public:
            whose = fingerprint_of(named) if named else "none that can be read"
            found.append(
                Fault(1, f"the ledger names the key {whose}, not {fingerprint_of(public)}.")
            )
        key = public or named
        found += chain_faults(self.entries, key)
        found += head_faults(self.entries, self.head, key)
        known = {(entry.position, entry.hash) for entry in self.entries}
        found += [
            Fault(one.position, f"there is a receipt of {one.at} for it, but it is not there.")
            for one in receipts
            if (one.position, one.hash) not in known
        ]
        hashes = {entry.hash for entry in self.entries}
        found += [
            Fault(0, f"No entry has the hash {head[:16]}... that was written down before.")
            for head in heads
            if head not in hashes
        ]
        return sorted(found, key=lambda fault: fault.position)

    def to_json(self) -> str:
        """Everything, with hashes and signatures, so that others can check it too."""
        entries = [{**asdict(entry), "content": entry.body()} for entry in self.entries]
        head = asdict(self.head) if self.head else None
        content = {
            "hospital": self.state().hospital,
            "public_key": self.public_key,
            "head": head,
            "entries": entries,
        }
        return json.dumps(content, indent=1)

    def to_csv(self) -> str:
        """Grants and charges, one row each, for a spreadsheet."""
        self.state()
        text = io.StringIO()
        writer = csv.DictWriter(text, _CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for entry in self.entries:
            if entry.kind in ("grant", "charge"):
                writer.writerow({**entry.body(), **asdict(entry)})
        return text.getvalue()


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Append a receipt to a file of JSON lines."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(receipt)) + "\n")


def read_receipts(path: Path) -> list[Receipt]:
    """Read receipts; a last line that was cut off is left out.

    Raises:
        LedgerError: the file is missing or holds something else.
    """
    try:
        lines = path.read_text("utf-8").split("\n")
        return [Receipt(**json.loads(line)) for line in lines[:-1] if line]
    except OSError as error:
        raise LedgerError(f"Receipts cannot be read from '{path}': {error.strerror}.") from None
    except (ValueError, TypeError):
        raise LedgerError(
            f"'{path}' does not hold receipts. A run writes them to "
            "hospitals/HOSPITAL/receipts.jsonl."
        ) from None
