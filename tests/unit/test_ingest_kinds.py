"""Rules of the other kinds of source: recognised, read on their terms, and patients kept apart."""

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_reading import NAMES, grid
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from evenhand.cases.nifti import write_nifti
from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.errors import DataError, UsageError
from evenhand.ingest.datalist import plan_datalist
from evenhand.ingest.deid import HospitalKey
from evenhand.ingest.labels import choose_labels
from evenhand.ingest.nnunet import plan_nnunet
from evenhand.ingest.people import People, read_people
from evenhand.ingest.png_table import plan_png_table
from evenhand.ingest.sources import Choices, SourceKind, guess_kind, plan_source

PLAIN = People(hospital="north", names=None)
KEYED = People(hospital="north", names=NAMES)
IMAGE = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
LABELS = (IMAGE > 0).astype(np.uint8) + (IMAGE > 1)


def nnunet(folder: Path, **changes: object) -> Path:
    """A data set with two channels, three labels and two cases."""
    content = {
        "channel_names": {"0": "FLAIR", "1": "T1 gd"},
        "labels": {"background": 0, "oedema": 1, "tumour": 2},
        "file_ending": ".nii.gz",
        **changes,
    }
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    for case in ("Aardvark_1", "Aardvark_2"):
        for channel in range(2):
            path = folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"
            write_nifti(path, IMAGE + channel, grid())
        write_nifti(folder / "labelsTr" / f"{case}.nii.gz", LABELS, grid())
    return folder


def test_nnunet_channels_and_labels(tmp_path: Path) -> None:
    """Channels get their names, the label that is called a tumour becomes the mask."""
    plan = plan_nnunet(nnunet(tmp_path / "d"), PLAIN)
    assert [recipe.case_id for recipe in plan.recipes] == ["Aardvark_1", "Aardvark_2"]
    content = plan.recipes[0].read()
    assert list(content.images) == ["FLAIR", "T1-gd"]
    assert np.array_equal(content.images["T1-gd"], IMAGE + 1)
    assert content.mask is not None
    assert np.array_equal(content.mask, LABELS == 2)
    merged = plan_nnunet(tmp_path / "d", PLAIN, tumour=("oedema", "2"), sequences=("FLAIR",))
    other = merged.recipes[0].read()
    assert np.array_equal(other.mask, LABELS > 0)
    assert list(other.images) == ["FLAIR"]


def test_with_a_key_names_of_files_are_gone(tmp_path: Path) -> None:
    """Names of cases may be names of people."""
    plan = plan_nnunet(nnunet(tmp_path / "d"), KEYED)
    for recipe in plan.recipes:
        shown = f"{recipe.label} {recipe.case_id} {recipe.patient} {recipe.fingerprint()}"
        assert "Aardvark" not in shown


def test_a_table_says_whose_cases_are(tmp_path: Path) -> None:
    """Two cases of one person are one patient; a case without a row is refused."""
    nnunet(tmp_path / "d")
    table = tmp_path / "people.csv"
    rows = "case,patient,sex,age\nAardvark_1,7,F,61\nAardvark_2,7,F,62\n"
    table.write_text(rows, encoding="utf-8")
    people = People(hospital="north", names=NAMES, rows=read_people(table))
    one, two = plan_nnunet(tmp_path / "d", people).recipes
    assert one.patient.patient_id == two.patient.patient_id == NAMES.pseudonym("7")
    assert one.case_id != two.case_id
    assert (one.patient.sex, one.patient.age_years) == ("F", 61.0)
    table.write_text("case,patient\nAardvark_1,7\n", encoding="utf-8")
    people = People(hospital="north", names=NAMES, rows=read_people(table))
    plan = plan_nnunet(tmp_path / "d", people)
    assert len(plan.recipes) == 1
    assert "no row" in plan.findings[0].why


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "regions"),
        ({"labels": {"background": 0, "tumour": 1, "ignore": 2}}, "ignore"),
        ({"file_ending": ".png"}, "NIfTI is read"),
        ({"channel_names": {"0": "a", "1": "a"}}, "one name"),
        ({"channel_names": ["a"]}, "channels"),
    ],
)
def test_what_nnunet_allows_and_we_do_not_is_said(
    tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    """A data set that would be misread is refused whole."""
    with pytest.raises(UsageError, match=why):
        plan_nnunet(nnunet(tmp_path / "d", **changes), PLAIN)


def test_the_tumour_is_never_guessed_among_several() -> None:
    """One label, one that is named like a tumour, or the user's word."""
    assert choose_labels([(3, "thing")], [])[0] == (3,)
    assert choose_labels([(1, "liver"), (2, "Liver Tumor")], [])[0] == (2,)
    assert choose_labels([(1, "a"), (2, "b"), (3, "ab")], ["A*"])[0] == (1, 3)
    with pytest.raises(DataError, match="'enhancing tumour'"):
        choose_labels([(1, "core tumour"), (2, "enhancing tumour")], [])
    with pytest.raises(DataError, match="no label fits"):
        choose_labels([(1, "core")], ["edge"])
    with pytest.raises(DataError, match="no label but"):
        choose_labels([], [])


def test_msd_splits_channels(tmp_path: Path) -> None:
    """A task's four-dimensional image becomes one volume a channel."""
    content = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "tumour"},
        "training": [{"image": "./im/a.nii.gz", "label": "./la/a.nii.gz"}],
    }
    (tmp_path / "im").mkdir()
    (tmp_path / "la").mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    write_nifti(tmp_path / "im" / "a.nii.gz", np.stack([IMAGE, IMAGE * 2], axis=3), grid())
    write_nifti(tmp_path / "la" / "a.nii.gz", LABELS, grid())
    assert guess_kind(tmp_path) is SourceKind.DATALIST
    plan = plan_datalist(tmp_path, PLAIN)
    assert plan.kind == "MSD"
    made = plan.recipes[0].read()
    assert np.array_equal(made.images["T1w"], IMAGE * 2)
    assert np.array_equal(made.mask, LABELS == 2)


def test_a_datalist_stays_in_its_folder(tmp_path: Path) -> None:
    """Entries that lead elsewhere, or nowhere, are refused; strange label values too."""
    folder = tmp_path / "d"
    folder.mkdir()
    write_nifti(tmp_path / "out.nii.gz", IMAGE, grid())
    write_nifti(folder / "a.nii.gz", IMAGE, grid())
    write_nifti(folder / "m.nii.gz", LABELS, grid())
    entries = [
        {"image": "a.nii.gz", "label": "m.nii.gz"},
        {"image": "../out.nii.gz", "label": "m.nii.gz"},
        {"image": "none.nii.gz", "label": "m.nii.gz"},
        {"image": ["a.nii.gz", "a.nii.gz"]},
        {"label": "m.nii.gz"},
    ]
    (folder / "list.json").write_text(json.dumps({"training": entries}), encoding="utf-8")
    plan = plan_datalist(folder / "list.json", PLAIN)
    whys = [finding.why for finding in plan.findings]
    parts = ("outside", "not there", "no label", "names no")
    assert all(part in why for part, why in zip(parts, whys, strict=True))
    with pytest.raises(DataError, match=r"the mask of case 1 has \d+ voxel"):
        plan.recipes[0].read()  # a plain list's mask must be 0 and 1


def pictures(folder: Path) -> Path:
    """Two patients, three pictures, masks in a folder of their own, text in the PNG."""
    chance = np.random.default_rng(3)
    (folder / "Images").mkdir(parents=True)
    (folder / "Masks").mkdir()
    hidden = PngImagePlugin.PngInfo()
    hidden.add_text("Comment", "Aardvark")
    for name in ("0001-l", "0001-r", "0002-l"):
        values = chance.integers(0, 256, (7, 9), np.uint8)
        Image.fromarray(values).save(folder / "Images" / f"bus_{name}.png", pnginfo=hidden)
        Image.fromarray((values > 200).astype(np.uint8) * 255).save(
            folder / "Masks" / f"mask_{name}.png"
        )
    rows = "ID,Case,Sex\nbus_0001-l,1,F\nbus_0001-r,1,F\nbus_0002-l,2,\n"
    (folder / "table.csv").write_text(rows, encoding="utf-8")
    return folder


def test_pictures_with_a_table(tmp_path: Path) -> None:
    """Each picture is a volume of one slice, paired with its mask; patients come from the table."""
    folder = pictures(tmp_path / "p")
    assert guess_kind(folder) is SourceKind.PNG
    plan = plan_png_table(folder, KEYED, pixel_mm=0.1)
    assert "Column 'ID' names the picture, column 'Case' the patient." in plan.notes
    one, two, three = plan.recipes
    assert one.patient.patient_id == two.patient.patient_id != three.patient.patient_id
    assert (one.patient.sex, three.patient.sex) == ("F", "unknown")
    content = one.read()
    values = np.asarray(Image.open(folder / "Images" / "bus_0001-l.png"))
    assert content.images["image"].shape == (9, 7, 1)
    assert np.array_equal(content.images["image"][:, :, 0].T, values)
    assert content.mask is not None
    assert np.array_equal(content.mask[:, :, 0].T, values > 200)
    assert content.affine.spacing_mm == pytest.approx((0.1, 0.1, 0.1))


def test_columns_of_the_table_become_attributes(tmp_path: Path) -> None:
    """Columns that are named go with the patient, blank as unknown; rows are chosen by others."""
    folder = pictures(tmp_path / "p")
    rows = "ID,Case,Device,Pathology\nbus_0001-l,1,A,benign\nbus_0001-r,1,A,benign\n"
    (folder / "table.csv").write_text(rows + "bus_0002-l,2,B 2,\n", encoding="utf-8")
    every = plan_png_table(folder, KEYED, attributes=("Pathology",)).recipes
    assert [dict(one.patient.extra) for one in every] == [
        {"pathology": "benign"},
        {"pathology": "benign"},
        {"pathology": "unknown"},
    ]
    one = plan_png_table(folder, KEYED, only={"Device": "B 2"})
    assert [recipe.case_id for recipe in one.recipes] == [every[2].case_id]
    assert "2 picture(s) are in no row that is taken, and were passed over." in one.notes
    for wrong in ({"attributes": ("Grade",)}, {"only": {"Grade": "3"}}):
        with pytest.raises(UsageError, match="no column 'Grade'; it has ID, Case"):
            plan_png_table(folder, KEYED, **wrong)
    with pytest.raises(UsageError, match="No row"):
        plan_png_table(folder, KEYED, only={"Device": "C"})


def test_pictures_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Colour, another size, grey masks, missing files; each refusal names a row, not a file."""
    folder = pictures(tmp_path / "p")
    colour = np.zeros((7, 9, 3), np.uint8)
    colour[..., 0] = 9
    Image.fromarray(colour).save(folder / "Images" / "bus_0001-l.png")
    Image.fromarray(np.zeros((7, 8), np.uint8)).save(folder / "Masks" / "mask_0001-r.png")
    (folder / "Masks" / "mask_0002-l.png").unlink()
    plan = plan_png_table(folder, KEYED)
    assert [(finding.what, finding.why) for finding in plan.findings] == [
        ("row 3", "it has no mask")
    ]
    for recipe, why in zip(plan.recipes, ("in colour", "8 x 7 pixels"), strict=True):
        with pytest.raises(DataError, match=why) as refusal:
            recipe.read()
        assert "bus_" not in str(refusal.value)


def test_the_patients_column_is_asked_for(tmp_path: Path) -> None:
    """Without knowing whose a picture is, privacy has no unit."""
    folder = pictures(tmp_path / "p")
    table = folder / "table.csv"
    table.write_text(table.read_text("utf-8").replace("Case", "Number"), encoding="utf-8")
    with pytest.raises(UsageError, match="--patient-column"):
        plan_png_table(folder, KEYED)
    assert len(plan_png_table(folder, KEYED, patient_column="Number").recipes) == 3


def test_kinds_are_told_apart(tmp_path: Path, tiny_tree: Path) -> None:
    """And what is none of them is said to be none."""
    assert guess_kind(tiny_tree) is SourceKind.BIDS
    assert guess_kind(nnunet(tmp_path / "n")) is SourceKind.NNUNET
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="of no kind that is read"):
        guess_kind(tmp_path / "empty")
    with pytest.raises(UsageError, match="no file or folder"):
        guess_kind(tmp_path / "none")


def test_sources_without_patients_come_with_a_warning(tmp_path: Path) -> None:
    """Who has not said whose cases are is told what that means."""
    nnunet(tmp_path / "d")
    key = tmp_path / "key"
    HospitalKey.create(key)
    choices = Choices(hospital="north", key=key)
    plan = plan_source(tmp_path / "d", SourceKind.NNUNET, choices)
    assert "a patient of its own" in plan.notes[-1]
    with pytest.raises(UsageError, match="--keep-names"):
        plan_source(tmp_path / "d", SourceKind.NNUNET, Choices(hospital="north"))


def test_a_store_is_not_a_source(tmp_path: Path, tiny_stores: dict[str, CaseStore]) -> None:
    """Whoever names the store where the source was meant is told what it is."""
    with pytest.raises(UsageError, match="a case store already"):
        guess_kind(tiny_stores["north"].path)


def test_what_the_command_line_cannot_mean_is_said_once(tmp_path: Path) -> None:
    """A name that no folder can have is wrong use; a dry run without a case fails like the run."""
    HospitalKey.create(tmp_path / "key")
    words = ["ingest", str(pictures(tmp_path / "p")), "--into", str(tmp_path / "s"), "--dry-run"]
    words += ["--key", str(tmp_path / "key"), "--hospital"]
    for name in ("Rio de Janeiro", "../else", "-"):
        result = CliRunner().invoke(app, [*words, name])
        assert isinstance(result.exception, UsageError)
        assert "1 to 64 letters" in str(result.exception)
    result = CliRunner().invoke(app, [*words, "rio", "--kind", "dicom"])
    assert isinstance(result.exception, DataError)
    assert not (tmp_path / "s").exists()
