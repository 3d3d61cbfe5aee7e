"""Take one patient out of everything that one hospital keeps, and prove it.

What a store holds of a patient are cases; what is made from cases are
embeddings, proposed masks, masks that readers drew, rows of the prediction
table, and places in a split.
An embedding's file name does not tell whose it is, so the whole cache goes: it
is computed anew from the cases that stay.

Masks that `evenhand review feedback` wrote out of a run are found by what its trail says.

A node of a federation keeps places in splits and embeddings of every study that it took part
in. What an optimiser remembers of a hospital's patients (`moments`) goes as a whole, too.

What this cannot reach is named in the proof: adapters that learned from the
patient, backups, reports that were handed on, and the trail of review
decisions, which is append-only and holds a case's pseudonym and no image.
"""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evenhand.cases.removal import cases_of, files_of, remove_case
from evenhand.cases.store import CaseStore
from evenhand.errors import DataError, ResourceError

__all__ = [
    "Erasure",
    "erase_patient",
    "mentions",
    "write_proof",
]

_UNREACHED = (
    "adapters that were trained with the patient",
    "backups of these folders",
    "what a pull from an archive left beside stores when it was stopped (.pulled; delete it)",
    "reports and adapters that were handed on",
    "what `evenhand review export`, `seg`, `report` and `send` wrote (masks, tables, DICOM)",
    "folders of `evenhand review feedback` that were moved or copied since",
    "the trail of review decisions (append-only; a case's pseudonym, no image)",
    "privacy ledgers (numbers only)",
    "what a federation's coordinator and other hospitals keep (adapters, sums)",
)
_TRAILS = frozenset({"review.sqlite", "review.sqlite-wal", "review.sqlite-shm"})

_PIECE = 1 << 20
"""Bytes of a file that are searched at a time."""


@dataclass(frozen=True)
class Erasure:
    """What was deleted of one patient in one place.

    Attributes:
        place: the folder.
        case_ids: of the patient's cases; empty where there were none.
        files: how many files went.
        bytes: how many bytes they had.
        rows: rows or entries that went from tables that stay.
    """

    place: Path
    case_ids: tuple[str, ...]
    files: int
    bytes: int
    rows: int


def erase_patient(
    patient_id: str,
    *,
    stores: Sequence[Path],
    runs: Sequence[Path],
    nodes: Sequence[Path],
    copies: Sequence[Path] = (),
) -> tuple[list[Erasure], set[str]]:
    """Delete a patient from stores, runs, and a federation's nodes.

    What is made from cases goes first, the cases last: by them the same call finds what is left
    after a deletion that was cut off.

    Args:
        patient_id: the pseudonym.
        stores: folders of case stores; those of runs need not be named.
        runs: folders of runs: stores, embeddings, moments, masks, tables, splits, drafts.
        nodes: the hospital's folders of federations: splits, embeddings, moments.
        copies: folders that `evenhand review feedback` wrote: masks, and their list.

    Returns:
        What was deleted where, and the ids of the patient's cases.

    Raises:
        StoreError: a store is damaged, or another command writes into it.
        DataError: a table or a split is damaged; nothing of it is changed.
        ResourceError: a file cannot be deleted or written.
    """
    homes = [home for run in runs for home in _homes(run)]
    opened: dict[Path, CaseStore] = {}
    for path in (*stores, *(home / "store" for home in homes)):
        opened.setdefault(path.resolve(), CaseStore(path))  # a run's store may be a link to another
    done = []
    try:
        with ExitStack() as locks:  # until the end: nobody brings a case back in between
            for store in opened.values():
                locks.enter_context(store.locked(as_found=True))
            found = {place: cases_of(store, patient_id) for place, store in opened.items()}
            case_ids = {case_id for ids in found.values() for case_id in ids}
            for home in homes:
                if found[(home / "store").resolve()]:
                    done += _clear_learned(home)
            for run in runs:
                done += _from_run(run, patient_id, case_ids)
            for copy in copies:
                done += _from_copy(copy, case_ids)
            for node in nodes:
                done += _from_node(node, {*case_ids, patient_id})
            done += [_from_store(store, found[place]) for place, store in opened.items()]
    except OSError as error:
        raise ResourceError(
            f"Could not delete everything: '{error.filename}': {error.strerror}. Mend that and "
            "give the same command again."
        ) from None
    return [each for each in done if each.case_ids or each.files or each.rows], case_ids


def _homes(run: Path) -> list[Path]:
    """Folders of a run's hospitals that have a store."""
    return [
        home
        for home in sorted((run / "hospitals").glob("*/"))
        if (home / "store" / "store.json").is_file()
    ]


def _from_store(store: CaseStore, case_ids: tuple[str, ...]) -> Erasure:
    found = [path for case_id in case_ids for path in files_of(store, case_id)]
    size = sum(path.stat().st_size for path in found)
    for case_id in case_ids:
        remove_case(store, case_id)
    return Erasure(store.path, case_ids, len(found), size, 0)


def _from_run(run: Path, patient_id: str, case_ids: set[str]) -> list[Erasure]:
    done = []
    arms, kinds = run / "arms", ("masks", "probabilities")
    proposed = [path for kind in kinds for path in arms.glob(f"*/{kind}/*.nii.gz")]
    for mask in sorted(proposed):
        if mask.name.removesuffix(".nii.gz") in case_ids:
            done.append(Erasure(mask.parent, (), 1, mask.stat().st_size, 0))
            mask.unlink()
    for kind in ("corrected", "drafts"):
        done += [_clear(run / "review" / kind / case_id) for case_id in sorted(case_ids)]
    done.append(_from_table(run / "predictions.csv", case_ids, patient_id))
    done.append(_from_split(run / "splits.json", {*case_ids, patient_id}))
    return done


def _from_node(node: Path, named: set[str]) -> list[Erasure]:
    """The embeddings do not tell whose they are: those of a study that names the patient all go.

    They go before its split, so that a deletion that was cut off can be given again.
    """
    done = []
    for study in sorted((node / "studies").glob("*/")):
        split = study / "splits.json"
        if not split.is_file() or not mentions(study, named):
            continue
        for home in sorted(study.glob("*/")):
            done += _clear_learned(home)
        done.append(_from_split(split, named))
    return done


def _from_copy(folder: Path, case_ids: set[str]) -> list[Erasure]:
    """Masks go before the list that names them, so that a deletion that was cut off finds them."""
    path = folder / "corrections.json"
    if not path.is_file():
        return []
    done = []
    for case_id in sorted(case_ids):
        mask = folder / "masks" / f"{case_id}.nii.gz"
        if mask.is_file():
            done.append(Erasure(mask.parent, (), 1, mask.stat().st_size, 0))
            mask.unlink()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = content["corrections"]
        kept = [one for one in listed if one["case_id"] not in case_ids]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"'{path}' is damaged; write it again, or delete the folder.") from None
    if len(kept) < len(listed):
        _replace(path, json.dumps({**content, "corrections": kept}, indent=1, sort_keys=True))
    return [*done, Erasure(path, (), 0, 0, len(listed) - len(kept))]


def _clear_learned(home: Path) -> list[Erasure]:
    """Take away what is made from a hospital's cases and does not tell from whose."""
    return [_clear(home / name) for name in ("embeddings", "moments")]


def mentions(root: Path, words: set[str]) -> list[Path]:
    """Files under a folder, or the file, whose path or content holds one of the words.

    Trails are left out. A file that cannot be read counts: nobody knows that it does not.
    """
    needles = [word.encode() for word in words]
    found = []
    for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
        try:
            if not path.is_file() or path.name in _TRAILS:
                continue
            named = any(word in part for word in words for part in path.relative_to(root).parts)
            if named or _holds(path, needles):
                found.append(path)
        except OSError:
            found.append(path)
    return found


def _holds(path: Path, needles: Sequence[bytes]) -> bool:
    """Whether a file has one of the needles in it; read piece by piece."""
    overlap = max(map(len, needles), default=1)
    tail = b""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            content = tail + piece
            if any(needle in content for needle in needles):
                return True
            tail = content[-overlap:]
    return False


def write_proof(
    path: Path,
    patient_id: str,
    erased: list[Erasure],
    left: list[Path],
    gone: Sequence[Path] = (),
) -> None:
    """Write the record of a deletion: what, where, when, what was found afterwards.

    `gone` are folders that were written and are not there any more.

    The patient is named by the SHA-256 of the pseudonym: whoever holds the
    pseudonym can check the record, and it does not bring the pseudonym back.
    """
    record: dict[str, Any] = {
        "patient_sha256": hashlib.sha256(patient_id.encode()).hexdigest(),
        "deleted_at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "places": [
            {
                "place": str(each.place),
                "cases": len(each.case_ids),
                "files": each.files,
                "bytes": each.bytes,
                "rows": each.rows,
            }
            for each in erased
        ],
        "still_mentioned_in": [str(each) for each in left],
        "copies_not_found": [str(each) for each in gone],
        "not_reached": list(_UNREACHED),
    }
    try:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"Could not write the proof to '{path}': {error.strerror}.") from None


def _clear(folder: Path) -> Erasure:
    found = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in found)
    if folder.is_dir():
        shutil.rmtree(folder)
    return Erasure(folder, (), len(found), size, 0)


def _from_table(path: Path, cases: set[str], patient_id: str) -> Erasure:
    if not path.is_file():
        return Erasure(path, (), 0, 0, 0)
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    if not rows:
        raise DataError(f"'{path}' is empty; a table with a header was wanted. Restore it.")
    named = {*cases, patient_id}
    kept = [row for row in rows[1:] if named.isdisjoint(row)]
    if len(kept) + 1 < len(rows):
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([rows[0], *kept])
        _replace(path, out.getvalue())
        _vouch_again(path)
    return Erasure(path, (), 0, 0, len(rows) - 1 - len(kept))


def _vouch_again(table: Path) -> None:
    """Let the table's sidecar, which vouches for its bytes, vouch for those that are left."""
    sidecar = table.with_suffix(".json")
    if not sidecar.is_file():
        return
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"'{sidecar}' is damaged; JSON was wanted. Restore it.") from None
    for key in ("sha256", "table_sha256"):
        if key in record:
            record[key] = hashlib.sha256(table.read_bytes()).hexdigest()
    _replace(sidecar, json.dumps(record, indent=1) + "\n")


def _from_split(path: Path, named: set[str]) -> Erasure:
    if not path.is_file():
        return Erasure(path, (), 0, 0, 0)
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"'{path}' is damaged; JSON was wanted. Restore it.") from None
    kept, gone = _without(split, named)
    if gone:
        _replace(path, json.dumps(kept, indent=1))
    return Erasure(path, (), 0, 0, gone)


def _without(value: Any, named: set[str]) -> tuple[Any, int]:
    """A JSON value without list entries and keys that are in `named`, and how many went."""
    gone = 0
    if isinstance(value, dict):
        kept = {}
        for key, inner in value.items():
            if key in named:
                gone += 1
            else:
                kept[key], more = _without(inner, named)
                gone += more
        return kept, gone
    if isinstance(value, list):
        items = []
        for inner in value:
            if isinstance(inner, str) and inner in named:
                gone += 1
            else:
                item, more = _without(inner, named)
                items.append(item)
                gone += more
        return items, gone
    return value, gone


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
