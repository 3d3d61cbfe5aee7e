"""What a store says of itself in `store.json`: the schema, the hospital, the key that seals it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from evenhand.cases.sealing import StoreKey
from evenhand.errors import ResourceError, StoreError

__all__ = ["HEADER", "SCHEMA_VERSION", "StoreHeader", "is_sealed", "read_header", "write_header"]

SCHEMA_VERSION = 3
"""Raised when the layout on disk changes. 2 added `acquisition` and the evidence, 3 sealing."""

HEADER = "store.json"
"""Name of the header in a store."""

_READABLE = (1, 2, SCHEMA_VERSION)


@dataclass(frozen=True)
class StoreHeader:
    """Whose store it is, of which schema, and the fingerprint of its key ("": plain files)."""

    hospital: str
    schema_version: int
    sealed_by: str

    def key(self) -> StoreKey | None:
        """The key that seals the store's cases; None where they are plain files.

        Raises:
            StoreError: the key is missing here, or another one is here.
        """
        return StoreKey.open(self.hospital, self.sealed_by) if self.sealed_by else None


def read_header(path: Path) -> StoreHeader:
    """Read the header of the store at `path`.

    Raises:
        StoreError: there is none, or it is damaged or of another version.
    """
    try:
        header = json.loads((path / HEADER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(
            f"'{path}' is not a case store (no {HEADER}). "
            "Make one with `evenhand ingest SOURCE --into DIR`."
        ) from None
    except (OSError, ValueError):
        raise StoreError(
            f"'{path}/{HEADER}' is damaged; delete '{path}' and ingest the source again."
        ) from None
    version = header.get("schema_version") if isinstance(header, dict) else None
    if version not in _READABLE or not isinstance(header.get("hospital"), str):
        raise StoreError(
            f"'{path}' has store schema {version}; this version of Evenhand reads "
            f"{SCHEMA_VERSION} and older. Delete it and ingest the source again."
        )
    return StoreHeader(header["hospital"], version, str(header.get("sealed_by", "")))


def is_sealed(path: Path) -> bool:
    """Whether there is a store at `path` that is encrypted; its key is not needed.

    Raises:
        StoreError: as `read_header`.
    """
    return (path / HEADER).exists() and bool(read_header(path).sealed_by)


def write_header(path: Path, hospital: str, key: StoreKey | None) -> None:
    """Make the folder of a store, and write its header whole.

    Raises:
        ResourceError: the disk refuses.
    """
    header = {"schema_version": SCHEMA_VERSION, "hospital": hospital}
    if key is not None:
        header["sealed_by"] = key.fingerprint
    draft = path / f".{HEADER}.{os.getpid()}"
    try:
        (path / "cases").mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
        draft.write_text(json.dumps(header), encoding="utf-8")
        draft.replace(path / HEADER)
    except OSError as error:
        raise ResourceError(
            f"Could not make a case store at '{path}': {error.strerror}. Free some disk "
            "space or choose another folder."
        ) from None
