"""Rules of evenhand.ingest.bids: what comes in, is kept as it is, and is not read twice."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from evenhand.cases.store import CaseStore
from evenhand.errors import DataError
from evenhand.ingest import bids
from evenhand.ingest.bids import ingest_bids, plan_bids
from evenhand.ingest.participants import read_participants

SHARED = Path(__file__).parents[2].parent / "shared"


def table(tree: Path) -> str:
    """Return the participants table."""
    return (tree / "participants.tsv").read_text(encoding="utf-8")


def edit_table(tree: Path, old: str, new: str) -> None:
    """Replace text in the participants table; it must be there."""
    path = tree / "participants.tsv"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_voxels_affine_and_attributes_come_in_as_they_are(
    tiny_tree: Path, tiny_stores: dict[str, CaseStore]
) -> None:
    """Nothing is reoriented, scaled or dropped on the way into a store."""
    assert {name: len(store) for name, store in tiny_stores.items()} == {"north": 3, "south": 2}
    for person in read_participants(tiny_tree):
        store = tiny_stores[person.patient.hospital]
        case = store.case(person.patient.patient_id)
        assert case.patient == person.patient
        image = nib.load(tiny_tree / person.folder / "anat" / f"{person.folder}_FLAIR.nii.gz")
        (path,) = (tiny_tree / "derivatives").glob(f"*/{person.folder}/anat/*_mask.nii.gz")
        volumes = store.volumes(case)
        assert np.array_equal(volumes.images["FLAIR"], np.asarray(image.dataobj))
        assert np.array_equal(volumes.mask, np.asarray(nib.load(path).dataobj))
        assert np.array_equal(case.affine.ras_from_voxel, image.affine)


def test_a_rerun_reuses_what_is_unchanged_and_renews_what_is_not(
    bids_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only cases whose files or row changed are written again; attributes follow the table."""
    into = tmp_path / "stores"
    first = ingest_bids(bids_tree, into)
    assert (first.written, first.reused) == (5, 0)
    monkeypatch.setattr(bids, "read_case", lambda *_: pytest.fail("an unchanged case was read"))
    again = ingest_bids(bids_tree, into)
    assert (again.written, again.reused) == (0, 5)
    monkeypatch.undo()
    sex = CaseStore(into / "north").case("north001").patient.sex
    edit_table(bids_tree, f"sub-north001\tnorth\t{sex}", "sub-north001\tnorth\tO")
    changed = ingest_bids(bids_tree, into)
    assert (changed.written, changed.reused) == (1, 4)
    assert CaseStore(into / "north").case("north001").patient.sex == "O"


def test_a_damaged_record_is_made_anew(bids_tree: Path, tmp_path: Path) -> None:
    """The way out that errors name, to ingest again, works."""
    into = tmp_path / "stores"
    ingest_bids(bids_tree, into)
    (into / "south" / "cases" / "south001" / "case.json").write_text("{", encoding="utf-8")
    assert ingest_bids(bids_tree, into).written == 1
    assert len(list(CaseStore(into / "south"))) == 2


def test_only_the_asked_hospitals_come_in(tiny_tree: Path, tmp_path: Path) -> None:
    """Another hospital's patients do not even get a folder; the layout is the caller's."""
    report = ingest_bids(tiny_tree, tmp_path, hospitals=["south"], layout="{hospital}/store")
    (own,) = report.hospitals
    assert (own.hospital, own.written, own.store) == ("south", 2, tmp_path / "south" / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["south"]


def test_cases_from_elsewhere_are_kept_and_counted(bids_tree: Path, tmp_path: Path) -> None:
    """A patient who left the table is not deleted behind anybody's back, and is reported."""
    into = tmp_path / "stores"
    ingest_bids(bids_tree, into)
    shutil.rmtree(bids_tree / "sub-north003")
    rows = [line for line in table(bids_tree).splitlines() if "north003" not in line]
    (bids_tree / "participants.tsv").write_text("\n".join(rows), encoding="utf-8")
    north, south = ingest_bids(bids_tree, into).hospitals
    assert (north.reused, north.not_in_source, south.not_in_source) == (2, 1, 0)
    assert len(CaseStore(into / "north")) == 3


def test_sequences_are_found_by_suffix_or_label(bids_tree: Path, tmp_path: Path) -> None:
    """`T1w` finds `ce-gd_T1w` and is stored under the asked name; no wish: all, by label."""
    for folder in bids_tree.glob("sub-*/anat"):
        name = folder.parent.name
        shutil.copy(folder / f"{name}_FLAIR.nii.gz", folder / f"{name}_ce-gd_T1w.nii.gz")
    found = {}
    for label, wish in {"suffix": ["T1w", "FLAIR"], "label": ["ce-gd_T1w"], "all": None}.items():
        ingest_bids(bids_tree, tmp_path / label, sequences=wish)
        found[label] = list(CaseStore(tmp_path / label / "south").case("south001").sequences)
    assert found["suffix"] == ["T1w", "FLAIR"]
    assert found["label"] == ["ce-gd_T1w"]
    assert found["all"] == ["FLAIR", "ce-gd_T1w"]


def test_masks_can_be_optional(bids_tree: Path, tmp_path: Path) -> None:
    """A hospital that wants proposals only needs no masks, and is told how many are missing."""
    shutil.rmtree(bids_tree / "derivatives")
    report = ingest_bids(bids_tree, tmp_path / "stores", masks_required=False)
    assert [own.without_mask for own in report.hospitals] == [3, 2]
    store = CaseStore(tmp_path / "stores" / "north")
    assert store.volumes(store.case("north001")).mask is None


def test_uncompressed_images_come_in(bids_tree: Path, tmp_path: Path) -> None:
    """`.nii` is as good as `.nii.gz`."""
    packed = bids_tree / "sub-south001" / "anat" / "sub-south001_FLAIR.nii.gz"
    nib.save(nib.load(packed), packed.with_suffix(""))
    packed.unlink()
    assert ingest_bids(bids_tree, tmp_path / "stores").written == 5


def test_a_plan_writes_nothing_and_lists_every_problem(bids_tree: Path, tmp_path: Path) -> None:
    """A dry run shows all that must be mended at once."""
    for name in ("sub-north001", "sub-south002"):
        (bids_tree / name / "anat" / f"{name}_FLAIR.nii.gz").write_bytes(b"no")
    into = tmp_path / "stores"
    plan = plan_bids(bids_tree, into)
    assert [finding.split("'")[1] for finding in plan.findings] == [
        "sub-north001/anat/sub-north001_FLAIR.nii.gz",
        "sub-south002/anat/sub-south002_FLAIR.nii.gz",
    ]
    assert len(plan.cases) == 3
    with pytest.raises(DataError, match=r"sub-north001.*\(1 more; .*--dry-run"):
        ingest_bids(bids_tree, into)
    assert not into.exists()


def test_progress_counts_checking_and_writing(tiny_tree: Path, tmp_path: Path) -> None:
    """Who watches sees steady progress to the end."""
    seen: list[tuple[int, int]] = []
    ingest_bids(tiny_tree, tmp_path, progress=lambda *step: seen.append(step))
    assert seen[-1] == (10, 10)
    assert seen == sorted(seen)


@pytest.mark.skipif(
    not (SHARED / "data" / "lgg").is_dir(), reason="the shared glioma data set is not here"
)
def test_the_glioma_tree_can_be_read() -> None:
    """A real BIDS tree of five hospitals is understood: rows, sites, missing attributes."""
    people = read_participants(SHARED / "data" / "lgg")
    plan = plan_bids(SHARED / "data" / "lgg", Path("unused"), hospitals=["EZ"], sequences=["FLAIR"])
    assert len(people) == 74
    assert len({person.patient.hospital for person in people}) == 5
    assert (len(plan.cases), plan.findings) == (1, ())
