"""Rules of taking DICOM in: who, what and why is shown; nothing is guessed, nobody is named."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_reading import NAMES, grid, voxels
from typer.testing import CliRunner

from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.errors import DataError, UsageError
from evenhand.ingest.admit import admit
from evenhand.ingest.deid import HospitalKey
from evenhand.ingest.dicom.files import find_files, opened
from evenhand.ingest.dicom.patients import manufacturer, patient_of
from evenhand.ingest.dicom.phantom import Study, write_rtstruct, write_series
from evenhand.ingest.dicom.plan import DicomOptions, plan_dicom
from evenhand.ingest.recipes import SourcePlan
from evenhand.ingest.sources import SourceKind, guess_kind

NOBODY = "Aardvark"
"""Stands in every free text and file name, and must stand nowhere else."""
ATTRIBUTES = {
    "PatientName": f"{NOBODY}^Zoe",
    "PatientSex": "F",
    "PatientBirthDate": "19600301",
    "EthnicGroup": "Asian",
    "SeriesDescription": f"flair {NOBODY}",
    "StudyDescription": NOBODY,
}


def plan(source: Path, **choices: object) -> SourcePlan:
    """Plan with one process; masks are not asked for unless said."""
    given = {"hospital": "north", "names": NAMES, "masks_required": False, "jobs": 1, **choices}
    return plan_dicom(source, DicomOptions(**given))  # type: ignore[arg-type]


def square(k: float) -> np.ndarray:
    """A contour in slice k of the usual grid, in RAS mm."""
    corners = np.array([[2.5, 2.5], [8.5, 2.5], [8.5, 6.5], [2.5, 6.5]]).T
    return (grid().ras_from_voxel @ np.vstack([corners, np.full(4, k), np.ones(4)]))[:3].T


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patient with a FLAIR, its RTSTRUCT and a file that is no DICOM. Read only."""
    folder = tmp_path_factory.mktemp("in") / f"{NOBODY} Zoe"
    study = Study(patient_id=NOBODY, attributes=ATTRIBUTES)
    write_series(folder / "1", voxels(), grid(), study, modality="MR")
    write_rtstruct(folder / "rs", {f"GTV {NOBODY}": [square(2), square(3)]}, study)
    (folder / "note.txt").write_text("hello", encoding="utf-8")
    return folder


def test_a_study_becomes_a_case(study_folder: Path, tmp_path: Path) -> None:
    """Voxels, mask, patient and evidence, under a pseudonym."""
    found = plan(study_folder)
    assert len(found.recipes) == 1
    report = admit(found.recipes, tmp_path / "s", "north", jobs=1)
    assert [outcome.status for outcome in report.outcomes] == ["written"]
    store = CaseStore(tmp_path / "s")
    (case,) = store
    person = case.patient
    assert person.patient_id == NAMES.pseudonym(NOBODY)
    assert case.case_id.startswith(person.patient_id)
    assert (person.sex, person.age_years, person.ethnicity) == ("F", 59.0, "asian")
    assert person.race == "unknown"
    volumes = store.volumes(case)
    assert np.array_equal(volumes.images["FLAIR"], voxels())
    assert volumes.mask is not None
    assert volumes.mask.sum() == 2 * 6 * 4
    assert volumes.mask[3:9, 3:7, 2:4].all()
    evidence = store.evidence(case)
    assert evidence is not None
    assert evidence["mask"]["from"] == "RTSTRUCT"
    assert case.acquisition["unit_FLAIR"] == "arbitrary"
    assert "20200229" not in case.acquisition["study_date_shifted"].replace("-", "")


def test_nothing_that_is_shown_or_stored_names_anybody(study_folder: Path, tmp_path: Path) -> None:
    """Names in tags, file names and folder names reach neither the screen nor the store."""
    key = tmp_path / "key"
    HospitalKey.create(key)
    words = ["ingest", study_folder, "--into", tmp_path / "stores", "--hospital", "north"]
    words += ["--key", key, "--jobs", 1]
    for more in (["--dry-run"], []):
        done = CliRunner().invoke(app, [str(word) for word in (*words, *more)])
        assert done.exit_code == 0, done.output
        shown = done.output.replace(str(tmp_path), "").replace(str(study_folder), "")
        assert NOBODY.lower() not in shown.lower()
    assert "FLAIR, because" in " ".join(done.output.split())
    files = [path for path in (tmp_path / "stores").rglob("*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        assert NOBODY.encode() not in path.read_bytes()
        assert NOBODY not in str(path.relative_to(tmp_path))


def test_the_mapping_is_written_only_where_asked_and_for_its_owner(
    study_folder: Path, tmp_path: Path
) -> None:
    """Numbers can be traced back in the hospital, by a file of mode 0600."""
    key, mapping = tmp_path / "key", tmp_path / "mapping.json"
    HospitalKey.create(key)
    words = ["ingest", study_folder, "--into", tmp_path / "s", "--hospital", "north", "--dry-run"]
    words += ["--key", key, "--jobs", 1, "--mapping", mapping]
    assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    assert mapping.stat().st_mode & 0o777 == 0o600
    assert any(NOBODY in name for name in json.loads(mapping.read_text("utf-8")).values())
    assert not (tmp_path / "s").exists()


def test_without_a_key_no_dicom_comes_in(study_folder: Path, tmp_path: Path) -> None:
    """Patients get pseudonyms by the hospital's key, or stay outside."""
    words = ["ingest", study_folder, "--into", tmp_path, "--hospital", "north", "--keep-names"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(done.exception, UsageError)
    assert "--key" in str(done.exception)


def test_a_zip_is_a_folder(study_folder: Path, tmp_path: Path) -> None:
    """Members of an archive are read as they lie in it."""
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for ref in find_files(study_folder):
            zipped.write(ref.path, Path(ref.path).relative_to(study_folder))
    assert guess_kind(archive) is SourceKind.DICOM
    plain, packed = plan(study_folder).recipes[0], plan(archive).recipes[0]
    assert plain.case_id == packed.case_id
    assert np.array_equal(plain.read().images["FLAIR"], packed.read().images["FLAIR"])


def test_a_damaged_member_of_a_zip(tmp_path: Path) -> None:
    """Bytes that cannot be unpacked are a sentence, as every other damage is."""
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("slice.dcm", bytes(128) + b"DICM" + bytes(5000))
    content = bytearray(archive.read_bytes())
    at = content.index(b"slice.dcm") + len(b"slice.dcm")
    content[at : at + 4] = b"\xff\xff\xff\xff"
    archive.write_bytes(content)
    (ref,) = find_files(archive)
    with pytest.raises(DataError, match="damaged, encrypted or gone"), opened(ref):
        pass


def whys(found: SourcePlan) -> str:
    """All reasons for which something was not taken."""
    return " | ".join(finding.why for finding in found.findings if not finding.taken)


def test_two_series_of_one_name_are_not_chosen_between(tmp_path: Path) -> None:
    """The segmented one is meant; where none is, the user decides."""
    study = Study()
    for name in ("a", "b"):
        write_series(tmp_path / name, voxels(), grid(), study, series=name)
    found = plan(tmp_path)
    assert found.recipes == ()
    assert "series 1 and series 2 would all be CT" in whys(found)
    write_rtstruct(tmp_path / "rs", {"GTV": [square(1)]}, study, series="b")
    (recipe,) = plan(tmp_path).recipes
    assert recipe.has_mask


def test_several_segmentations_or_labels_are_not_chosen_between(tmp_path: Path) -> None:
    """--tumour and --masks-from decide; names of regions stand in the mapping alone."""
    study = Study()
    write_series(tmp_path / "s", voxels(), grid(), study)
    regions = {f"GTV {NOBODY}": [square(1)], "GTV 2": [square(2)]}
    write_rtstruct(tmp_path / "rs", regions, study)
    found = plan(tmp_path, masks_required=True)
    assert "several labels could be the tumour (2 labels)" in whys(found)
    assert NOBODY not in whys(found)
    assert f"GTV {NOBODY}" in found.names.values()  # for the mapping that a user asks for
    assert plan(tmp_path, masks_required=True, tumour=("gtv 2",)).recipes[0].has_mask
    write_rtstruct(tmp_path / "rs2", {"GTV 2": [square(1)]}, study)
    assert "several segmentations" in whys(plan(tmp_path, tumour=("gtv 2",)))
    assert "no segmentation" in whys(plan(tmp_path, masks_required=True, masks_from="seg"))


def test_another_grid_is_resampled_only_where_asked(tmp_path: Path) -> None:
    """The first sequence gives the grid; without a common frame of reference nothing moves."""
    study = Study()
    flair, t1 = {"SeriesDescription": "flair"}, {"SeriesDescription": "t1 tse"}
    write_series(tmp_path / "a", voxels(), grid(), study, modality="MR", series="a", **flair)
    other = grid((1.4, 1.8, 5.0))
    ramp = np.tile(np.arange(6, dtype=np.int16)[:, None, None] * 100, (1, 5, 4))
    write_series(tmp_path / "b", ramp, other, study, modality="MR", series="b", **t1)
    assert "lie on different grids" in whys(plan(tmp_path))
    (recipe,) = plan(tmp_path, sequences=("FLAIR", "T1w")).recipes
    content = recipe.read()
    assert content.images["T1w"].shape == (13, 11, 7)
    assert np.allclose(content.images["T1w"][:11, 4, 2], np.arange(11) * 50)
    assert "resampled" in content.evidence["series"]["T1w"]["notes"][-1]
    shutil.rmtree(tmp_path / "b")
    foreign = {"FrameOfReferenceUID": "1.2.3", **t1}
    write_series(tmp_path / "b", ramp, other, study, modality="MR", series="b", **foreign)
    assert "no common frame" in whys(plan(tmp_path, sequences=("FLAIR", "T1w")))


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    """A segmentation that lies elsewhere is no reference."""
    study = Study()
    write_series(tmp_path / "s", voxels(), grid(), study)
    write_rtstruct(tmp_path / "rs", {"GTV": [square(40)]}, study)
    report = admit(plan(tmp_path).recipes, tmp_path / "store", "north", jobs=1)
    assert "the mask is empty" in report.outcomes[0].why
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("age", "born", "studied", "years"),
    [
        ("045Y", "", "", 45.0),
        ("018M", "", "", 1.5),
        ("", "19600229", "20200228", 59.0),
        ("", "19600229", "20200229", 60.0),
        ("097Y", "", "", 90.0),
        ("", "", "20200229", None),
        ("", "20200301", "20200229", None),
        ("Y45", "", "", None),
        ("999Y", "", "", None),
    ],
)
def test_ages(age: str, born: str, studied: str, years: float | None) -> None:
    """From the header, else from the birth date; above 90 stays 90, what is odd stays unknown."""
    person = patient_of(
        pseudonym="p",
        hospital="north",
        sex="x",
        age=age,
        birth_date=born,
        study_date=studied,
        ethnic_group=NOBODY,
    )
    assert (person.age_years, person.sex, person.ethnicity) == (years, "unknown", "unlisted")


def test_makers_have_one_name_and_strangers_none() -> None:
    """Free text of a scanner is matched against a closed list."""
    assert manufacturer("SIEMENS Healthineers") == "Siemens"
    assert manufacturer("GE MEDICAL SYSTEMS") == "GE"
    assert manufacturer(f"{NOBODY} Imaging") == "other"
    assert manufacturer("") == "unknown"
    assert not re.search(NOBODY, manufacturer(NOBODY))
