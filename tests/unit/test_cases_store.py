"""Rules of evenhand.cases.store: a case is there whole, unchanged and its hospital's, or not."""

import errno
import hashlib
import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evenhand.cases import case_folder
from evenhand.cases.hashing import array_sha256
from evenhand.cases.nifti import write_nifti
from evenhand.cases.records import Case, Patient
from evenhand.cases.store import CaseStore
from evenhand.errors import ResourceError, StoreError
from evenhand.geometry import Affine

IMAGE = np.random.default_rng(0).random((6, 5, 4)).astype(np.float32)
MASK = (IMAGE > 0.7).astype(np.uint8)
PATIENT = Patient(patient_id="p1", hospital="north", sex="F", age_years=50.5)


def add(store: CaseStore, name: str = "p1", **changes: object) -> Case:
    """Write a case into the store; `changes` replace what is given by default."""
    given = {
        "case_id": name,
        "patient": PATIENT,
        "affine": Affine(np.diag([-1.0, -1.0, 3.0, 1.0])),
        "images": {"FLAIR": IMAGE},
        "mask": MASK,
        "source": "test",
    }
    return store.add(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    """Return an empty store of hospital north."""
    return CaseStore.create(tmp_path / "store", "north")


def test_a_case_comes_back_as_it_went_in(store: CaseStore) -> None:
    """Record and voxels survive, in a store that is opened anew."""
    written = add(store)
    opened = CaseStore(store.path)
    case = opened.case("p1")
    assert (case.patient, case.shape, case.sequences) == (PATIENT, (6, 5, 4), written.sequences)
    assert case.affine.is_close(written.affine, atol_mm=0)
    volumes = opened.volumes(case)
    assert volumes.mask is not None
    assert np.array_equal(volumes.images["FLAIR"], IMAGE)
    assert np.array_equal(volumes.mask, MASK)
    assert (volumes.images["FLAIR"].dtype, volumes.mask.dtype) == (np.float32, np.uint8)
    assert list(opened.volumes(case, sequences=()).images) == []


def test_an_image_can_be_read_without_the_reference(store: CaseStore) -> None:
    """Who wants no reference does not wait for it, and does not hear that it is damaged."""
    case = add(store)
    (file,) = (store.path / "cases" / "p1").glob("mask*")
    file.write_bytes(b"nothing")
    volumes = store.volumes(case, ("FLAIR",), mask=False)
    assert volumes.mask is None
    assert np.array_equal(volumes.images["FLAIR"], IMAGE)
    with pytest.raises(StoreError):
        store.volumes(case, ("FLAIR",))


def test_cases_are_listed_in_order_and_without_drafts(store: CaseStore) -> None:
    """An interrupted write is no case."""
    for name in ("b", "a"):
        add(store, name)
    (store.path / "cases" / ".draft-x").mkdir()
    assert store.case_ids() == ["a", "b"]
    assert len(store) == 2
    assert [case.case_id for case in store] == ["a", "b"]
    assert "a" in store
    assert "c" not in store


def test_a_store_is_for_its_owner_only(store: CaseStore) -> None:
    """Nobody else on the machine reads patients."""
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    add(store)
    assert stat.S_IMODE((store.path / "cases" / "p1").stat().st_mode) == 0o700


def test_another_hospitals_patient_or_store_is_refused(store: CaseStore) -> None:
    """Hospitals do not mix."""
    with pytest.raises(StoreError, match="cannot enter the store of north"):
        add(store, patient=Patient(patient_id="p1", hospital="south"))
    with pytest.raises(StoreError, match="is the store of hospital north, not of south"):
        CaseStore.create(store.path, "south")
    assert len(store) == 0


def test_volumes_of_different_shapes_are_refused(store: CaseStore) -> None:
    """A case has one grid."""
    with pytest.raises(StoreError, match="one 3-D shape"):
        add(store, mask=MASK[:, :, :2])
    with pytest.raises(StoreError, match="one 3-D shape"):
        add(store, images={"FLAIR": IMAGE[0]}, mask=None)


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_full_disk_keeps_the_old_case_and_nothing_else(
    store: CaseStore, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """A case that cannot be written leaves no trace, and an older one of its id stays."""
    add(store)
    calls = []

    def full(*volume: object) -> Iterator[bytes]:
        calls.append(volume)
        yield b"half"
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(case_folder, "nifti_members", full)
    for name in ("p1", "p2"):
        calls.clear()
        with pytest.raises(ResourceError, match=r"No space left on device.*Free some disk space"):
            add(store, name, images={"FLAIR": IMAGE + 1})
    assert [path.name for path in (store.path / "cases").iterdir()] == ["p1"]
    assert np.array_equal(store.volumes(store.case("p1")).images["FLAIR"], IMAGE)


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in the way is one sentence."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ResourceError, match="Could not make a case store"):
        CaseStore.create(tmp_path / "file" / "store", "north")


def test_voxels_that_were_changed_or_lost_are_found(store: CaseStore) -> None:
    """What is read is what was ingested."""
    case = add(store)
    flair = store.path / "cases" / "p1" / "FLAIR.nii.gz"
    kept = flair.read_bytes()
    write_nifti(flair, IMAGE * 2, case.affine)
    with pytest.raises(StoreError, match="changed since it was ingested"):
        store.volumes(case)
    flair.write_bytes(kept[:-20])
    with pytest.raises(StoreError, match="missing or damaged"):
        store.volumes(case)
    flair.unlink()
    with pytest.raises(StoreError, match="missing or damaged"):
        store.volumes(case)


def test_unknown_cases_and_sequences_are_named(store: CaseStore) -> None:
    """Asking for what is not there says what is."""
    case = add(store)
    with pytest.raises(StoreError, match="has no such case"):
        store.case("other")
    with pytest.raises(StoreError, match=r"no sequence 'T1w' \(it has FLAIR\)"):
        store.volumes(case, sequences=("T1w",))


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("{", "is damaged"),
        ("[]", "has store schema None"),
        ('{"schema_version": 99, "hospital": "north"}', "has store schema 99"),
        ('{"schema_version": 1}', "has store schema 1"),
    ],
)
def test_a_foreign_header_is_refused(store: CaseStore, content: str, wanted: str) -> None:
    """A store of another version or a broken one is one sentence with a way out."""
    (store.path / "store.json").write_text(content, encoding="utf-8")
    with pytest.raises(StoreError, match=rf"{wanted}.*ingest the source again|{wanted}.*Delete"):
        CaseStore(store.path)


@pytest.mark.parametrize("content", ["", "[]", '{"patient": {}}', '{"patient": {"extra": 1}}'])
def test_a_damaged_record_is_refused(store: CaseStore, content: str) -> None:
    """A broken case.json is one sentence."""
    add(store)
    record = store.path / "cases" / "p1" / "case.json"
    record.write_text(content, encoding="utf-8")
    with pytest.raises(StoreError, match=r"record in .* is damaged"):
        store.case("p1")


def test_a_store_without_its_cases_folder_is_refused(store: CaseStore) -> None:
    """A store that lost its cases does not pass for an empty one."""
    shutil.rmtree(store.path / "cases")
    with pytest.raises(StoreError, match="is missing, so the store is damaged"):
        store.case_ids()


def test_the_record_on_disk_has_no_path(store: CaseStore) -> None:
    """A store can be moved: nothing in it says where it was made."""
    add(store)
    text = (store.path / "cases" / "p1" / "case.json").read_text(encoding="utf-8")
    assert str(store.path.parent) not in text
    assert json.loads(text)["patient"]["age_years"] == 50.5


@pytest.mark.parametrize("dtype", ["u1", "<f4"])
def test_a_hash_does_not_depend_on_how_voxels_lie_in_memory(dtype: str) -> None:
    """First axis fastest (as from NIfTI), last axis fastest, turned: equal values, equal hash."""
    volume = np.random.default_rng(1).integers(0, 9, (5, 19, 70)).astype(dtype)
    plain = hashlib.sha256(f"{volume.dtype.str}{volume.shape}".encode() + volume.tobytes())
    turned = np.ascontiguousarray(volume[::-1])[::-1]
    for laid in (volume, np.asfortranarray(volume), turned):
        assert array_sha256(laid) == plain.hexdigest()
