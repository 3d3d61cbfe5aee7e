"""From a run on phantoms through a review to the next run's training data."""

import json
import time
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evenhand.cases.hashing import array_sha256
from evenhand.cases.nifti import write_nifti
from evenhand.cases.store import CaseStore
from evenhand.errors import DataError, ReviewError
from evenhand.experiment import arms, pipeline, stages
from evenhand.experiment.layout import RunFolder
from evenhand.ingest.corrections import admit_corrections, write_corrections
from evenhand.model.backbones import Backbone
from evenhand.review import Verdict, copies
from evenhand_ui.deciding import decide, keep_as_draft
from evenhand_ui.feedback import write_feedback
from evenhand_ui.office import office_of
from evenhand_ui.runs import ReviewRun
from evenhand_ui.trail_files import open_store
from review_answers import about_its_boundary
from review_schemas import behind
from tiny_experiment import config_of, run


@pytest.fixture
def walk(tmp_path, tmp_path_factory, monkeypatch):
    """A run on phantoms with a random backbone, and the means to run the next one."""
    torch.manual_seed(0)
    backbone = Backbone("mobile-sam", 128, "0" * 64).requires_grad_(requires_grad=False).eval()
    monkeypatch.setattr("evenhand.model.backbones.load_backbone", lambda *_: backbone)
    monkeypatch.setattr(pipeline, "fetch", lambda *_, **__: None)
    monkeypatch.setattr(pipeline.plugins, "load", lambda *_: lambda *_, **__: tmp_path / "report")
    trained = []

    def spy(model, patients, *_, **__):
        trained.extend(patients)
        return SimpleNamespace(
            seconds=0, patients=len(patients), steps=0, first_loss=0, last_loss=0
        )

    monkeypatch.setattr(stages, "train", spy)
    assert arms.train_whole is stages.train_whole

    def go(name, corrections=None):
        trained.clear()
        found = {"data__corrections": str(corrections)} if corrections else {}
        config = config_of(arms=["pooled"], **found)
        kept = tmp_path_factory.getbasetemp() / "run-before-review"
        if corrections is not None or not kept.exists():
            run(config, tmp_path / name)
        if corrections is None:  # made once for all tests
            source = kept if kept.exists() else tmp_path / name
            copytree(source, kept if source is not kept else tmp_path / name)
        return RunFolder(tmp_path / name)

    return SimpleNamespace(go=go, trained=trained, folder=tmp_path)


def correct(run, case_id, mask):
    """A reader corrects a proposal, as the page does."""
    office_of.cache_clear()
    office = office_of(run.path, "pooled", None)
    reading = office.reading(case_id, "Dr. Lee")
    keep_as_draft(office, reading, mask)
    answer = about_its_boundary(reading, Verdict.CORRECT, revision=1)
    return decide(office, reading, answer, now_s=time.time())


def drawn(shape=(32, 32, 4)):
    """A mask that no model and no phantom makes."""
    mask = np.zeros(shape, dtype=np.uint8)
    mask[3:9, 20:27, 1:3] = 1
    return mask


def test_a_folder_of_others_is_left_alone(walk):
    """Masks that are not of corrections are neither deleted nor replaced, and no trail says so."""
    first = walk.go("first")
    (patient,) = first.split().test["north"]
    correct(first, patient, drawn())
    out = walk.folder / "study"
    (out / "masks").mkdir(parents=True)
    for name in (f"{patient}.nii.gz", "another.nii.gz"):
        (out / "masks" / name).write_bytes(b"somebody's")
    with pytest.raises(DataError, match="Choose an empty folder"):
        write_feedback(first.path, out, arm="pooled")
    assert {path.read_bytes() for path in (out / "masks").iterdir()} == {b"somebody's"}
    assert not (out / "corrections.json").exists()
    with open_store(ReviewRun.open(first.path, "pooled"), None) as trail:
        assert list(copies(trail)) == []


def test_again_replaces_its_own(walk):
    """What an earlier call wrote and does not stand any more goes; a stranger's file stays."""
    first = walk.go("first")
    (patient,) = first.split().test["north"]
    correct(first, patient, drawn())
    out = walk.folder / "corrections"
    write_feedback(first.path, out, arm="pooled")
    (out / "masks" / "stranger.nii.gz").write_bytes(b"somebody's")
    write_corrections(out, [])
    assert [path.name for path in (out / "masks").iterdir()] == ["stranger.nii.gz"]


def test_run_review_run(walk):
    """A corrected test case trains in the next run, with the reader's mask and its provenance."""
    first = walk.go("first")
    (patient,) = first.split().test["north"]
    entry = correct(first, patient, drawn())
    out = walk.folder / "corrections"
    assert "1 masks from review" in write_feedback(first.path, out, arm="pooled")

    second = walk.go("second", out)
    assert patient in second.split().train["north"]
    assert patient not in second.split().test["north"]
    assert second.split().test["north"], "others test in its place"
    store = second.hospital("north").store()
    case = store.case(patient)
    assert np.array_equal(store.volumes(case).mask, drawn())
    reference = store.evidence(case)["reference"]
    before = first.hospital("north").store().case(patient).mask_sha256
    assert reference["origin"] == "review"
    assert reference["reader"] == "Dr. Lee"
    assert reference["entry_sha256"] == entry.sha256
    assert reference["replaces_mask_sha256"] == before
    # What training is given is the reader's mask: it fills the square of the head, slice by slice.
    (given,) = [one for one in walk.trained if one.patient_id == patient]
    masks = given.cases[0].masks.numpy()
    assert [bool(one.any()) for one in masks] == [False, True, True, False]
    share = masks[1].mean() / drawn()[:, :, 1].mean()
    assert 0.9 < share < 1.1

    record = store.path / "cases" / patient / "case.json"
    written = record.stat().st_mtime_ns
    walk.go("second", out)  # the same command again changes nothing
    assert record.stat().st_mtime_ns == written


def test_a_hospitals_own_store(walk):
    """A hospital puts corrections straight into its store; doing it twice is doing it once."""
    first = walk.go("first")
    (patient,) = first.split().test["north"]
    correct(first, patient, drawn())
    store = first.hospital("north").store()
    out = walk.folder / "corrections"
    for _ in range(2):
        said = write_feedback(first.path, out, arm="pooled", store=store.path)
        assert "1 of them are reference masks" in said
    case = CaseStore(store.path).case(patient)
    assert case.mask_sha256 == array_sha256(drawn())
    assert case.acquisition["reference"] == "review"


class TestRefused:
    """Nobody trains on what does not fit or was changed."""

    @pytest.fixture
    def corrected(self, walk):
        """A run with one correction that was written out."""
        run = walk.go("first")
        (patient,) = run.split().test["north"]
        correct(run, patient, drawn())
        out = walk.folder / "corrections"
        write_feedback(run.path, out, arm="pooled")
        store = run.hospital("north").store()
        return SimpleNamespace(run=run, out=out, patient=patient, store=store)

    def test_changed_mask(self, corrected):
        """A mask that was changed on its way is refused, and the store is as it was."""
        case = corrected.store.case(corrected.patient)
        before = case.mask_sha256
        path = corrected.out / "masks" / f"{corrected.patient}.nii.gz"
        write_nifti(path, np.zeros((32, 32, 4), np.uint8), case.affine)
        with pytest.raises(DataError, match="was changed"):
            admit_corrections(corrected.out, [corrected.store])
        assert corrected.store.case(corrected.patient).mask_sha256 == before

    def test_other_images(self, corrected):
        """A mask that was drawn on another image is not this case's."""
        path = corrected.out / "corrections.json"
        content = json.loads(path.read_text())
        content["corrections"][0]["images"] = {"FLAIR": "0" * 64}
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match="other images"):
            admit_corrections(corrected.out, [corrected.store])

    @pytest.mark.parametrize("text", ["{", "[]", '{"schema": 9}', '{"schema": 1}'])
    def test_damaged_list(self, corrected, text):
        """A list that cannot be read says how to make it again."""
        (corrected.out / "corrections.json").write_text(text)
        with pytest.raises(DataError, match="evenhand review feedback"):
            admit_corrections(corrected.out, [corrected.store])

    def test_name_that_leads_elsewhere(self, corrected):
        """A case's name cannot lead out of the folder."""
        path = corrected.out / "corrections.json"
        path.write_text(path.read_text().replace(corrected.patient, "../x"))
        with pytest.raises(DataError, match="damaged"):
            admit_corrections(corrected.out, [corrected.store])

    def test_broken_trail(self, corrected):
        """From a trail that was changed nothing is taken."""
        behind(corrected.run.review_path, "UPDATE decisions SET reader = 'Dr. No'")
        with pytest.raises(ReviewError, match="Nobody trains on it"):
            write_feedback(corrected.run.path, corrected.out, arm="pooled")
