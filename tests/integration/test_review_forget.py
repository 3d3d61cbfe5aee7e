"""`evenhand forget` finds what `evenhand review feedback` wrote, by what the trail says."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from evenhand.cases.hashing import array_sha256
from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.errors import DataError, EvenhandError, UsageError
from evenhand.ingest.corrections import read_corrections
from evenhand.review import (
    Author,
    Decision,
    Reason,
    ReviewStore,
    Verdict,
    check_trail,
    copies,
)
from evenhand_ui.feedback import write_feedback
from evenhand_ui.masks import keep_correction, name_correction
from evenhand_ui.runs import ReviewRun
from evenhand_ui.trail_files import export_run, verify_trail
from review_run import make_review_run, proposed_mask
from review_schemas import behind


def correct(folder, case_id, database=None):
    """Record a correction as the page does."""
    run = ReviewRun.open(folder)
    case, mask = run.case(case_id), proposed_mask()
    mask[0, 0, 0] = 1
    name, sha256 = name_correction(case, mask)
    keep_correction(run.database.parent / name, case, mask)
    decision = Decision(
        case_id=case_id,
        hospital="north",
        arm="federated",
        verdict=Verdict.CORRECT,
        reason=Reason.BOUNDARY,
        reader="Dr. Lee",
        proposed_sha256=array_sha256(proposed_mask()),
        corrected_sha256=sha256,
        corrected_path=name,
        seconds=1.0,
        slices_seen=(3,),
    )
    with ReviewStore(database or run.database) as store:
        store.append(decision)


@pytest.fixture
def folder(tmp_path):
    """A run with two corrections, written out."""
    folder = make_review_run(tmp_path / "run")
    for case_id in ("n001", "n002"):
        correct(folder, case_id)
    assert "looks into this folder" in write_feedback(folder, tmp_path / "out" / "corrections")
    return folder


def forget(*words, folder):
    """Run the command; exit code and what it said."""
    proof = folder.parent / "proof.json"
    command = ["forget", *words, "--run", folder, "--proof", proof]
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exception is None or isinstance(done.exception, EvenhandError | SystemExit)
    code = getattr(done.exception, "exit_code", done.exit_code)
    record = json.loads(proof.read_text(encoding="utf-8")) if proof.is_file() else None
    return code, done.output + str(done.exception or ""), record


def test_recorded(folder, tmp_path):
    """The trail says where, how many, and which account; the record is checked and exported."""
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        (link,) = copies(store)
    assert link.record.folder == tmp_path / "out" / "corrections"
    assert (link.record.store, link.record.masks) == (None, 2)
    assert link.record.by == Author.of_account()
    assert "\n1 copies for training, chain intact" in verify_trail(folder)
    export_run(folder, tmp_path / "export")
    for name in ("copies.csv", "decisions.html"):
        text = (tmp_path / "export" / name).read_text(encoding="utf-8")
        assert str(link.record.folder) in text
    behind(folder / "review" / "review.sqlite", "UPDATE copies SET folder = '/elsewhere'")
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        assert "copies for training, chain broken at copy 1" in check_trail(store).fault


def test_goes_there_too(folder, tmp_path):
    """The patient's mask and entry go, the other patient's stay and can be used."""
    out = tmp_path / "out" / "corrections"
    code, said, record = forget("p-n001", folder=folder)
    assert code == 0, said
    assert [path.name for path in (out / "masks").iterdir()] == ["n002.nii.gz"]
    assert [one.case_id for one in read_corrections(out)] == ["n002"]
    places = {place["place"] for place in record["places"]}
    assert {str(out / "masks"), str(out / "corrections.json")} <= places
    assert record["still_mentioned_in"] == record["copies_not_found"] == []


def test_moved(folder, tmp_path):
    """A folder that is not there any more is named, in the proof as well."""
    out = tmp_path / "out" / "corrections"
    shutil.move(out, tmp_path / "elsewhere")
    code, said, record = forget("p-n001", folder=folder)
    assert code == 0
    assert "was it moved or copied?" in said
    assert record["copies_not_found"] == [str(out)]


def test_damaged_list(folder, tmp_path):
    """A list that cannot be read is no reason to call the patient forgotten."""
    (tmp_path / "out" / "corrections" / "corrections.json").write_text("{", encoding="utf-8")
    code, said, record = forget("p-n001", folder=folder)
    assert (code, record) == (DataError.exit_code, None)
    assert "is damaged" in said
    assert "n001" in CaseStore(folder / "hospitals" / "north" / "store"), "the cases go last"


def test_store_that_got_the_masks(folder, tmp_path):
    """A case store that was given the masks, and not named to forget, is not passed over."""
    store = tmp_path / "own"
    shutil.copytree(folder / "hospitals" / "north" / "store", store)
    write_feedback(folder, tmp_path / "more", store=store)
    code, said, _ = forget("p-n001", folder=folder)
    assert code == DataError.exit_code
    assert f"still mentioned in '{store}" in said
    code, said, record = forget("p-n001", "--store", store, folder=folder)
    assert code == 0, said
    assert record["still_mentioned_in"] == []


def test_database_by_url(tmp_path, monkeypatch):
    """Of a run that was reviewed with a database by URL, the URL is asked for."""
    folder = make_review_run(tmp_path / "run")
    url = f"sqlite:///{tmp_path / 'far.sqlite'}"
    correct(folder, "n001", url)
    write_feedback(folder, tmp_path / "out", database=url)
    code, said, record = forget("p-n001", folder=folder)
    assert (code, record) == (UsageError.exit_code, None)
    assert "--database" in said
    monkeypatch.setenv("EVENHAND_REVIEW_DATABASE", url)
    assert forget("p-n001", folder=folder)[0] == 0
    assert read_corrections(tmp_path / "out") == []


def test_says_which_store(folder, tmp_path):
    """A hospital whose store is its own is told how to put the masks there; the run's is not."""
    assert "--store" not in write_feedback(folder, tmp_path / "one")
    store = folder / "hospitals" / "north" / "store"
    own = shutil.move(store, tmp_path / "own")
    store.symlink_to(own, target_is_directory=True)
    assert f"next study of north on them: --store {own}" in write_feedback(folder, tmp_path / "two")
