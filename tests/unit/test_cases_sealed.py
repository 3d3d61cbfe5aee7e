"""Sealed stores: nothing to read without the hospital's key, nothing different with it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import small_backbone
from typer.testing import CliRunner

from evenhand.cases.quarantine import quarantine, release
from evenhand.cases.records import Case, Patient
from evenhand.cases.sealing import StoreKey
from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.errors import DataError, ResourceError, StoreError, UsageError
from evenhand.geometry import Affine
from evenhand.ingest.bids import ingest_bids
from evenhand.model.embeddings import EmbeddingCache

IMAGE = np.random.default_rng(0).integers(0, 900, (32, 32, 6)).astype(np.float32)
MASK = (IMAGE > 700).astype(np.uint8)
NAME = "p-featherstone"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for each test."""
    monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def store(home: Path, tmp_path: Path) -> CaseStore:
    """A sealed store of hospital north with two patients."""
    made = CaseStore.create(tmp_path / "store", "north", sealed=True)
    for case_id in (NAME, "p-other"):
        add(made, case_id)
    return made


def add(store: CaseStore, case_id: str) -> Case:
    """Write a case of a patient of the same name."""
    return store.add(
        case_id=case_id,
        patient=Patient(patient_id=case_id, hospital="north", sex="F"),
        affine=Affine(np.diag([-1.0, -1.0, 3.0, 1.0])),
        images={"FLAIR": IMAGE},
        mask=MASK,
        source="test",
        evidence={"source": "a test"},
    )


def call(*words: object):
    """Run a command in this process."""
    return CliRunner().invoke(app, list(map(str, words)))


def test_all_comes_back_as_it_went_in(store: CaseStore) -> None:
    """Record, voxels, mask, evidence and the image's file are those of a plain store."""
    opened = CaseStore(store.path)
    plain = CaseStore.create(store.path.parent / "plain", "north")
    case, other = opened.case(NAME), add(plain, NAME)
    assert (case.patient, case.sequences) == (other.patient, other.sequences)
    volumes = opened.volumes(case)
    assert np.array_equal(volumes.images["FLAIR"], IMAGE)
    assert np.array_equal(volumes.mask, MASK)
    assert opened.evidence(case) == {"source": "a test"}
    assert opened.image_file(case, "FLAIR") == plain.image_file(other, "FLAIR")
    assert opened.case_ids() == [NAME, "p-other"]


def test_nothing_can_be_read_without_the_key(store: CaseStore, home: Path) -> None:
    """No file of a case is JSON or gzip; without the key, or with another, it is a sentence."""
    files = [path for path in (store.path / "cases").rglob("*") if path.is_file()]
    assert len(files) == 8
    for path in files:
        content = path.read_bytes()
        assert content.startswith(b"EVHSEAL1")
        assert not any(word in content for word in (b"\x1f\x8b\x08", b"patient", NAME.encode()))
    key = StoreKey.path("north")
    assert key.is_relative_to(home)
    assert key.stat().st_mode & 0o777 == 0o600
    kept = key.rename(key.with_suffix(".away"))
    with pytest.raises(StoreError, match=r"its key .* is missing. Restore it"):
        CaseStore(store.path)
    StoreKey.make("north")
    with pytest.raises(StoreError, match="is another"):
        CaseStore(store.path)
    kept.replace(key)
    key.chmod(0o644)
    with pytest.raises(UsageError, match="can be read by others"):
        CaseStore(store.path)


def test_a_key_that_was_cut_off_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop while a key is made leaves no empty file that the next command would refuse."""
    path = StoreKey.path("north")

    def stopped(_descriptor: int) -> None:
        assert not path.exists()  # nothing has its name before it is whole
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evenhand.key_file.os.fsync", stopped)
        with pytest.raises(KeyboardInterrupt):
            StoreKey.make("north")
    made = StoreKey.make("north")
    assert StoreKey.make("north") == made
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_exchanged_or_changed_does_not_open(store: CaseStore) -> None:
    """A file of another case, of another name, or with one bit turned is refused."""
    one, other = (store.path / "cases" / case_id for case_id in (NAME, "p-other"))
    shutil.copy(one / "case.json.sealed", other / "case.json.sealed")
    with pytest.raises(StoreError, match="does not open"):
        store.case("p-other")
    case = store.case(NAME)
    shutil.copy(one / "mask.nii.gz.sealed", one / "FLAIR.nii.gz.sealed")
    with pytest.raises(StoreError, match="does not open"):
        store.volumes(case)
    content = bytearray((one / "mask.nii.gz.sealed").read_bytes())
    for wrong in (content[:-1], content[:3], b""):
        (one / "mask.nii.gz.sealed").write_bytes(wrong)
        with pytest.raises(StoreError, match="does not open"):
            store.volumes(case, sequences=())
    (one / "mask.nii.gz.sealed").unlink()
    with pytest.raises(StoreError, match="missing or damaged"):
        store.volumes(case, sequences=())


def test_a_plain_store_is_not_taken_for_a_sealed_one(tmp_path: Path, tiny_tree: Path) -> None:
    """--encrypt into a store that is not encrypted is refused, and changes nothing."""
    ingest_bids(tiny_tree, tmp_path / "stores", hospitals=["north"])
    words = ("ingest", tiny_tree, "--into", tmp_path / "stores", "--hospital", "north")
    done = call(*words, "--encrypt", "--body-part", "brain")
    assert isinstance(done.exception, StoreError)
    assert "not encrypted" in str(done.exception)
    assert len(CaseStore(tmp_path / "stores" / "north")) == 3


def test_a_command_seals_and_the_next_finds_it(tmp_path: Path, tiny_tree: Path) -> None:
    """`--encrypt` once; later commands read, reuse and stay sealed without saying it again."""
    words = ("ingest", tiny_tree, "--into", tmp_path / "stores", "--body-part", "brain")
    first = call(*words, "--encrypt")
    assert first.exit_code == 0, first.output
    again = call(*words)
    assert "0 cases written, 5 reused" in again.output
    store = CaseStore(tmp_path / "stores" / "north")
    assert store.key is not None
    assert list(store.path.rglob("*.nii.gz")) == list(store.path.rglob("case.json")) == []
    listed = call("cases", store.path)
    assert listed.exit_code == 0, listed.output
    assert "3 cases, encrypted" in listed.output
    wrong = call(*words, "--studies", tiny_tree / "participants.tsv")
    assert "not for BIDS" in str(wrong.exception)


def test_a_case_in_quarantine_stays_sealed_and_can_be_forgotten(
    store: CaseStore, tmp_path: Path
) -> None:
    """Setting aside, putting back and deleting work as in a plain store."""
    quarantine(store, NAME, ["odd"])
    assert store.case_ids() == ["p-other"]
    release(store, NAME)
    assert store.case(NAME).patient.sex == "F"
    quarantine(store, NAME, ["odd"])
    proof = tmp_path / "proof.json"
    done = call("forget", NAME, "--store", store.path, "--proof", proof)
    assert done.exit_code == 0, done.output
    assert proof.is_file()
    assert list((store.path / "quarantine").iterdir()) == []
    gone = call("forget", NAME, "--store", store.path, "--proof", proof)
    assert isinstance(gone.exception, DataError)


def test_a_record_aside_that_does_not_open_is_no_clean_deletion(
    store: CaseStore, tmp_path: Path
) -> None:
    """Nobody can search what is sealed, so `forget` says which record it could not read."""
    quarantine(store, NAME, ["odd"])
    (store.path / "quarantine" / NAME / "case.json.sealed").write_bytes(b"EVHSEAL1 damaged")
    proof = tmp_path / "proof.json"
    done = call("forget", "p-other", "--store", store.path, "--proof", proof)
    assert isinstance(done.exception, StoreError)
    assert "does not open" in str(done.exception)
    assert store.case_ids() == ["p-other"]
    assert not proof.exists()


def test_embeddings_of_a_sealed_store_are_sealed(store: CaseStore, tmp_path: Path) -> None:
    """What is cached is the same to the bit, slice by slice, and no plain file is left."""
    kind = {"tail_blocks": 0, "sequence": "FLAIR", "precision": torch.float32}
    plain = EmbeddingCache(tmp_path / "plain", small_backbone(), **kind)
    sealed = EmbeddingCache(tmp_path / "sealed", small_backbone(), key=store.key, **kind)
    cases = list(store)[:1]
    for cache in (plain, sealed):
        cache.fill(store, cases, lambda _: None)
    older = sealed.path(cases[0]).with_suffix(".npy")
    shutil.copy(plain.path(cases[0]), older)
    sealed.path(cases[0]).unlink()
    sealed.fill(store, cases, lambda _: None)
    assert not older.exists()
    wanted, got = plain.read(cases[0]), sealed.read(cases[0])
    assert (got.shape, len(got)) == (wanted.shape, 6)
    assert all(np.array_equal(got[z], wanted[z]) for z in range(-6, 6))
    assert np.array_equal(got[1:4], wanted[1:4])
    assert got[6:].shape == wanted[6:].shape
    with pytest.raises(IndexError):
        got[6]
    path = sealed.path(cases[0])
    whole = path.read_bytes()
    assert wanted[2].tobytes()[:64] not in whole
    path.write_bytes(whole[:-1])
    with pytest.raises(ResourceError, match="is damaged; delete it"):
        sealed.read(cases[0])
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreError, match="does not open"):
        sealed.read(cases[0])[5]
