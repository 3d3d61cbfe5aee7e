"""Burned-in text at the door: what can be read is refused, what cannot is listed for a person."""

from pathlib import Path

import numpy as np
import pytest
from dicom_reading import NAMES
from PIL import Image, ImageDraw, ImageFont

from evenhand.cases.store import CaseStore
from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.ingest import text_guard
from evenhand.ingest.admit import _make, _Task
from evenhand.ingest.dicom.phantom import Study, write_series
from evenhand.ingest.dicom.plan import DicomOptions, plan_dicom
from evenhand.ingest.quality.assess import _look
from evenhand.ingest.recipes import Content, Recipe
from evenhand.ingest.text_guard import TEXT, free_of_text

AFFINE = Affine(np.diag([-1.0, -1.0, 3.0, 1.0]))
SHAPE = (96, 64, 5)


def content(image: np.ndarray) -> Content:
    """What a recipe reads."""
    return Content(affine=AFFINE, images={"CT": image}, mask=None, evidence={"source": "a test"})


def plan(folder: Path, **attributes: object):
    """Plan a series of that header."""
    voxels = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
    write_series(folder, voxels, AFFINE, Study(attributes=attributes))
    options = DicomOptions(hospital="north", names=NAMES, masks_required=False, jobs=1)
    return plan_dicom(folder, options)


def recipe(folder: Path) -> Recipe:
    """A recipe of a CT without any text."""
    (made,) = plan(folder).recipes
    return made


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list:
    """What the OCR library would say of each view; filled by a test, and shapes of the views."""
    answers: list = []
    views: list = []

    def find(view: np.ndarray) -> list:
        views.append(view.shape)
        return answers

    monkeypatch.setattr(text_guard, "find_text", find)
    return [answers, views]


def test_readable_text_is_refused_with_the_way_out(seen: list) -> None:
    """A certain reading refuses the case; rows and columns are the picture's."""
    seen[0].append(((1, 2, 30, 12), 0.9))
    with pytest.raises(DataError, match=r"CT shows text in 1 place.*clean-pixels"):
        free_of_text(content(np.zeros(SHAPE, np.float32)))
    assert seen[1] == [(64, 96, 3)] * 4


def test_what_may_be_text_is_listed_by_quality(seen: list, tmp_path: Path) -> None:
    """An uncertain region is stored as evidence, and the report asks a person to look."""
    seen[0].append(((1, 2, 30, 12), 0.3))
    CaseStore.create(tmp_path / "store", "north")
    own = recipe(tmp_path / "dicom")
    draft = _make(_Task(tmp_path / "store", own, None, look_for_text=True))
    store = CaseStore(tmp_path / "store")
    case = store.commit(draft)
    assert store.evidence(case)[TEXT]["perhaps"] == {"CT": [[1, 2, 30, 12]]}
    texts = [each for each in _look((store.path, case.case_id)).findings if each.check == "text"]
    assert [each.severity for each in texts] == ["warning"]
    assert "CT may show text at (1, 2) to (30, 12)" in texts[0].why
    assert _make(_Task(tmp_path / "store", own, None, look_for_text=True)) is None
    again = _make(_Task(tmp_path / "store", own, None, look_for_text=False))
    assert again.case.source != case.source, "it is known which rule a case was stored by"


def test_text_in_a_slice_is_read(tmp_path: Path) -> None:
    """The real library reads a name in the last slice, and nothing in a smooth one."""
    pytest.importorskip("rapidocr")
    picture = Image.new("L", (256, 128), 30)
    draw = ImageDraw.Draw(picture)
    draw.text((20, 40), "SMITH JOHN", fill=220, font=ImageFont.load_default(size=28))
    volume = np.full((256, 128, 3), 30, np.float32)
    assert free_of_text(content(volume)).evidence[TEXT]["perhaps"] == {}
    volume[:, :, 2] = np.asarray(picture).T
    with pytest.raises(DataError, match="shows text") as raised:
        free_of_text(content(volume))
    assert "SMITH" not in str(raised.value)


@pytest.mark.parametrize(
    ("attributes", "taken"),
    [
        ({"Modality": "US"}, False),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, True),
        ({"Modality": "XC"}, False),
        ({"BurnedInAnnotation": "YES"}, False),
        ({}, True),
    ],
)
def test_kinds_of_pictures_with_names_in_them(
    attributes: dict[str, str], taken: bool, tmp_path: Path
) -> None:
    """Ultrasound, photographs and screens are refused unless their header says: no text."""
    voxels = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
    write_series(tmp_path, voxels, AFFINE, Study(), **attributes)
    options = DicomOptions(hospital="north", names=NAMES, masks_required=False, jobs=1)
    findings = plan_dicom(tmp_path, options).findings
    said = " ".join(finding.why for finding in findings)
    assert ("clean-pixels" in said or "burned-in" in said) != taken
