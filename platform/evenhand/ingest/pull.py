"""Studies of an archive (PACS) into a folder, from which they are taken in like any DICOM.

    FOLDER/SERIES/OBJECT.dcm        both named by hashes of their UIDs

What lies there holds identities: the folder is its owner's (0700), and goes once the cases are
stored. An object appears whole or not at all, so the same pull goes on after a stop: what is
there is not fetched again.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydicom.dataset import Dataset

from evenhand.dicomweb import Pacs, Place, is_uid
from evenhand.errors import DataError, ResourceError, UsageError
from evenhand.ingest.dicom.values import DICOM_ERRORS, lenient, text

__all__ = ["Pulled", "pull", "read_wanted"]

_ROUNDS = 3
"""How often what is missing of a series is asked for before the pull gives up."""
_FAILURES_IN_A_ROW = 8
"""After as many, of objects or of series, the archive is taken to be gone."""
_NAME_HEX = 32


@dataclass(frozen=True)
class Pulled:
    """What a pull brought: objects in the folder, and how many of them were fetched this time."""

    objects: int
    fetched: int


def read_wanted(place: Place, studies: Path | None) -> list[Place]:
    """Return the studies (or the series) to pull: that of the address, or those of a file.

    Args:
        place: from the address.
        studies: a text with a Study Instance UID a line; what begins with # is not read.

    Raises:
        UsageError: neither or both are given, or a line is no UID.
    """
    if (studies is None) == (not place.study):
        raise UsageError(
            "Say what to pull: add /studies/UID to the archive's address, or give --studies FILE "
            "with a Study Instance UID a line."
        )
    if studies is None:
        return [place]
    try:
        lines = [line.strip() for line in studies.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        raise UsageError(f"'{studies}' cannot be read; a text with UIDs was wanted.") from None
    uids = dict.fromkeys(line for line in lines if line and not line.startswith("#"))
    wrong = next((number for number, uid in enumerate(uids, start=1) if not is_uid(uid)), None)
    if wrong is not None or not uids:
        what = f"entry {wrong} is no UID" if wrong else "it is empty"
        raise UsageError(f"'{studies}': {what}; a Study Instance UID a line was wanted.")
    return [Place(place.root, uid) for uid in uids]


def pull(
    pacs: Pacs,
    wanted: Sequence[Place],
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Pulled:
    """Fetch all objects of what is wanted that the folder does not hold yet.

    An object that does not come keeps none of the others back; it is said at the end.

    Args:
        pacs: the archive.
        wanted: studies, or series of them.
        folder: made if need be; readable by its owner only.
        progress: called with (objects there, objects in all as far as is known).

    Raises:
        DataError: the archive has no such study, or does not give all of its objects.
        ResourceError: it cannot be reached, refuses, or the disk is full. What came is kept.
    """
    step = progress or (lambda _done, _total: None)
    listed = _listed(pacs, wanted)
    total = sum(map(len, listed.values()))
    done = fetched = 0
    faults: list[DataError | ResourceError] = []
    failed = 0
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        for (study, series), objects in listed.items():
            own = folder / _name(series)
            own.mkdir(exist_ok=True, mode=0o700)
            paths = {uid: own / f"{_name(uid)}.dcm" for uid in objects}
            for leftover in own.glob(".*"):
                leftover.unlink()
            there = done + sum(path.is_file() for path in paths.values())
            try:
                for _ in _fetch(pacs, (study, series), paths):
                    fetched, there = fetched + 1, there + 1
                    step(there, total)
                failed = 0
            except (DataError, ResourceError) as error:
                faults.append(error)
                failed += 1
                if failed == _FAILURES_IN_A_ROW:
                    break
            done += len(paths)
            step(done, total)
    except OSError as error:
        raise ResourceError(
            f"Could not write what was fetched into '{folder}': {error.strerror}. Free some disk "
            "space and run again; what is there is kept."
        ) from None
    if faults:
        raise type(faults[0])(f"{len(faults)} series did not come whole; the first: {faults[0]}")
    return Pulled(total, fetched)


def _listed(pacs: Pacs, wanted: Iterable[Place]) -> dict[tuple[str, str], list[str]]:
    """UIDs of all objects by study and series."""
    listed = {}
    for number, place in enumerate(wanted, start=1):
        found = 0
        for series in [place.series] if place.series else pacs.series(place.study):
            objects = pacs.instances(place.study, series)
            listed[place.study, series] = objects
            found += len(objects)
        if not found:
            what = "series" if place.series else "study"
            raise DataError(
                f"The archive at {pacs.host} has no object of {what} {number} of those that were "
                "asked for. Check its UID."
            )
    return listed


def _fetch(pacs: Pacs, where: tuple[str, str], paths: dict[str, Path]) -> Iterable[None]:
    """Fetch what is missing of a series: as a whole where nothing is there, else one by one.

    Yields:
        Once for each object that has come.

    Raises:
        DataError: after some rounds some are still missing.
    """
    faults: list[DataError | ResourceError] = []
    for attempt in range(_ROUNDS):
        missing = {uid: path for uid, path in paths.items() if not path.is_file()}
        if not missing:
            return
        whole = attempt == 0 and len(missing) == len(paths)
        try:
            with lenient():  # pydicom's warnings quote values
                if whole:
                    came: Iterable[Dataset] = pacs.fetch_series(*where)
                else:
                    came = _one_by_one(pacs, where, tuple(missing), faults)
                for dataset in came:
                    path = missing.pop(text(dataset, "SOPInstanceUID"), None)
                    if path is not None and _kept(dataset, path, faults):
                        yield
        except ResourceError as error:
            faults.append(error)
    left = sum(not path.is_file() for path in paths.values())
    if left and faults:
        raise faults[-1]
    if left:
        raise DataError(
            f"The archive at {pacs.host} lists {left} object(s) of a series that it does not give. "
            "Run again; what came is kept."
        )


def _one_by_one(
    pacs: Pacs, where: tuple[str, str], uids: Sequence[str], faults: list[DataError | ResourceError]
) -> Iterator[Dataset]:
    """Fetch objects; one that does not come is noted, and the next is fetched."""
    failed = 0
    for uid in uids:
        try:
            yield pacs.fetch(*where, uid)
            failed = 0
        except ResourceError as error:
            faults.append(error)
            failed += 1
            if failed == _FAILURES_IN_A_ROW:
                return


def _kept(dataset: Dataset, path: Path, faults: list[DataError | ResourceError]) -> bool:
    """Write an object, and say whether that went well; if it is damaged, that is noted."""
    try:
        _write(dataset, path)
    except DataError as error:
        faults.append(error)
        return False
    return True


def _write(dataset: Dataset, path: Path) -> None:
    """Write an object whole.

    Raises:
        OSError: the disk refuses.
        DataError: it is damaged, so that it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        dataset.save_as(draft, enforce_file_format=True)
        draft.chmod(0o600)
        draft.replace(path)
    except OSError:
        raise
    except DICOM_ERRORS:
        raise DataError("The archive sent an object that is damaged.") from None
    finally:
        draft.unlink(missing_ok=True)


def _name(uid: str) -> str:
    return sha256(uid.encode()).hexdigest()[:_NAME_HEX]
