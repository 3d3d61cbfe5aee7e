"""Drafts: what a reader has painted and seen of a case before the decision. Kept on disk.

    DRAFTS/CASE/NAME/state.json     revision, strokes, slices seen, seconds
    DRAFTS/CASE/NAME/REVISION.gz    the mask within its box, gzip, as the viewer sent it

NAME is made of hashes of case, reader and proposed mask: browsers know a draft by it.

A revision's mask is written and synced before the state that names it is put in
place, so a server that dies in the middle leaves the revision before. A save
names the revision that it continues; one that does not fit is refused, so two
windows cannot overwrite each other.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError, ResourceError, ReviewError
from evenhand_ui.volumes import unpack

__all__ = ["Box", "Draft", "DraftConflictError", "Drafts"]

_STATE = "state.json"


class DraftConflictError(ReviewError):
    """A save that does not continue the latest draft; `revision` is what there is."""

    def __init__(self, revision: int) -> None:
        super().__init__(
            "Another window has changed this mask meanwhile. Nothing was overwritten: "
            "choose which of the two to keep."
        )
        self.revision = revision


@dataclass(frozen=True)
class Box:
    """Part of a volume (x, y, z): from `start` up to, not including, `stop`."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @classmethod
    def parse(cls, text: str, shape: tuple[int, int, int]) -> "Box":
        """Read "x0,x1,y0,y1,z0,z1".

        Raises:
            DataError: not six numbers, or not within `shape`.
        """
        try:
            x0, x1, y0, y1, z0, z1 = (int(part) for part in text.split(","))
        except ValueError:
            raise DataError("A mask came without the box that it fills.") from None
        box = cls((x0, y0, z0), (x1, y1, z1))
        pairs = zip(box.start, box.stop, shape, strict=True)
        if not all(0 <= low <= high <= size for low, high, size in pairs):
            raise DataError("A mask came with a box outside its case.")
        return box

    @classmethod
    def around(cls, mask: NDArray[np.uint8]) -> "Box":
        """Return the smallest box that holds a mask (x, y, z); of an empty one, nothing."""
        if not mask.any():
            return cls((0, 0, 0), (0, 0, 0))
        spans = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        x, y, z = ((int(span[0]), int(span[-1]) + 1) for span in spans)
        return cls((x[0], y[0], z[0]), (x[1], y[1], z[1]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = (high - low for low, high in zip(self.start, self.stop, strict=True))
        return x, y, z

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index."""
        x, y, z = (slice(low, high) for low, high in zip(self.start, self.stop, strict=True))
        return x, y, z

    def __str__(self) -> str:
        """Return what `parse` reads."""
        pairs = zip(self.start, self.stop, strict=True)
        return ",".join(f"{low},{high}" for low, high in pairs)


@dataclass(frozen=True)
class Draft:
    """What is known of a reader's work on a case. Revision 0: nothing was painted yet."""

    revision: int = 0
    box: str = "0,0,0,0,0,0"
    strokes: int = 0
    seen: tuple[int, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Drafts:
    """All drafts of one run."""

    folder: Path

    def place(self, case_id: str, opaque: str, reader: str, proposed_sha256: str) -> Path:
        """Folder of one reader's draft about one proposed mask of a case."""
        name = hashlib.sha256(reader.encode()).hexdigest()[:12]
        return self.folder / case_id / f"{opaque}-{name}-{proposed_sha256[:12]}"

    def read(self, place: Path) -> Draft:
        """Return the latest draft; an empty one where there is none.

        Raises:
            DataError: it is damaged.
        """
        try:
            state = json.loads((place / _STATE).read_text(encoding="utf-8"))
            return Draft(**{**state, "seen": tuple(state["seen"])})
        except FileNotFoundError:
            return Draft()
        except (OSError, ValueError, TypeError, KeyError):
            raise DataError(
                f"The draft '{place.name}' is damaged; delete its folder to start anew."
            ) from None

    def content(self, place: Path, draft: Draft) -> bytes:
        """Return the packed mask of a draft of revision 1 or more."""
        try:
            return (place / f"{draft.revision}.gz").read_bytes()
        except OSError:
            raise DataError(f"The mask of the draft '{place.name}' is missing.") from None

    def mask(self, place: Path, draft: Draft, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Return the mask (x, y, z) of a draft of revision 1 or more, as a whole volume."""
        box = Box.parse(draft.box, shape)
        whole = np.zeros(shape, dtype=np.uint8)
        whole[box.slices] = unpack(self.content(place, draft), box.shape)
        return whole

    def save(self, place: Path, content: bytes, box: Box, *, base: int, strokes: int) -> Draft:
        """Keep a mask that continues revision `base`; return the new draft.

        Raises:
            DraftConflictError: `base` is not the latest revision.
            ResourceError: the disk is full; the draft before is untouched.
        """
        with self._locked(place):
            before = self.read(place)
            if before.revision != base:
                raise DraftConflictError(before.revision)
            after = replace(before, revision=base + 1, box=str(box), strokes=strokes)
            _write(place / f"{after.revision}.gz", content)
            _write(place / _STATE, json.dumps(asdict(after)).encode())
            (place / f"{base}.gz").unlink(missing_ok=True)
            return after

    def note(self, place: Path, *, seen: tuple[int, ...], seconds: float) -> None:
        """Keep which slices were seen and how long it took."""
        with self._locked(place):
            after = replace(self.read(place), seen=seen, seconds=seconds)
            _write(place / _STATE, json.dumps(asdict(after)).encode())

    def drop(self, place: Path) -> None:
        """Forget a draft: it was decided about."""
        if place.is_dir():
            with self._locked(place):
                for path in [place / _STATE, *place.glob("*.gz")]:  # the state first
                    path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, place: Path) -> Iterator[None]:
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (place / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise ResourceError(
                f"The draft could not be kept ({error.strerror}). What you painted is still in "
                "your browser; free some disk space."
            ) from None


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and make the disk have it."""
    draft = path.with_name(f".{path.name}")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
