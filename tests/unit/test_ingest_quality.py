"""Rules of judging cases: what is wrong is found, what is right is left alone, nobody is shown."""

import json
import shutil
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from dicom_reading import KEY, NAMES
from scipy import ndimage
from typer.testing import CliRunner

from evenhand.cases.erase import erase_patient
from evenhand.cases.quarantine import quarantine, quarantined, release
from evenhand.cases.records import Patient
from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.errors import DataError, UsageError
from evenhand.geometry import Affine
from evenhand.ingest.admit import admit
from evenhand.ingest.people import People
from evenhand.ingest.quality.assess import assess, set_aside
from evenhand.ingest.quality.checks import check_case
from evenhand.ingest.quality.coarse import body_of, coarse_volume, fingerprint_bits, turned_to_ras
from evenhand.ingest.quality.diversity import SMALLEST, read_reference, representation
from evenhand.ingest.quality.flips import find_flips
from evenhand.ingest.quality.prints import ENOUGH, Prints, band_digests, compare_prints
from evenhand.ingest.volume_case import ImageSource, VolumeCase
from evenhand.ingest.workers import Answer

AFFINE = Affine(np.diag([-3.0, -3.0, 6.0, 1.0]))
SHAPE = (48, 48, 20)


def anatomy(seed: int) -> np.ndarray:
    """A body that has sides: an ellipsoid, a bright liver on one side, texture of its own."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    body = (i / 0.8) ** 2 + (j / 0.6) ** 2 + (k / 0.9) ** 2 < 1
    liver = ((i - 0.4) / 0.3) ** 2 + ((j + 0.1) / 0.3) ** 2 + ((k + 0.45) / 0.4) ** 2 < 1
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2.0)
    values = 100 + 80 * liver + 20 * texture / texture.std()
    return np.where(body, values, 0).astype(np.float32)


def tumour(shift: int = 0) -> np.ndarray:
    """A small mask within the body."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[20 + shift : 25 + shift, 22:26, 8:11] = 1
    return mask


def fill(store: CaseStore, name: str, image: np.ndarray, mask: np.ndarray | None, **more: object):
    """Put one case of a patient of its own into a store."""
    return store.add(
        case_id=name,
        patient=Patient(patient_id=f"p{name}", hospital=store.hospital, **more),
        affine=AFFINE,
        images={"CT": image},
        mask=mask,
        source="made",
    )


@pytest.fixture(autouse=True)
def _one_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting workers takes most of the time here; the test of the command starts them."""
    if request.node.name != "test_the_command":
        monkeypatch.setattr(
            "evenhand.ingest.quality.assess.run_isolated",
            lambda function, tasks, **_: (
                Answer(number, value=function(task)) for number, task in enumerate(tasks)
            ),
        )


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    """Six good cases."""
    made = CaseStore.create(tmp_path / "north", "north")
    for number in range(6):
        fill(made, f"c{number}", anatomy(number), tumour())
    return made


def names(store: CaseStore) -> dict[str, set[str]]:
    """Checks that found something, by case."""
    (quality,) = assess([store.path], jobs=1)
    return {r.case_id: {finding.check for finding in r.findings} for r in quality.results}


def test_good_cases_have_no_findings(store: CaseStore) -> None:
    """A check that fires on what is right teaches people to ignore it."""
    assert set().union(*names(store).values()) == set()


@pytest.mark.parametrize(
    ("check", "image", "mask"),
    [
        ("empty mask", anatomy(9), np.zeros(SHAPE, np.uint8)),
        ("mask out of the body", anatomy(9), np.roll(tumour(), 20, axis=1)),
        ("mask too large", anatomy(9), (anatomy(9) > 0).astype(np.uint8)),
        ("mask at the edge", anatomy(9), np.roll(tumour(), -8, axis=2)),
        ("constant", np.full(SHAPE, 3, np.float32), tumour()),
        ("saturated", np.minimum(anatomy(9), 90), tumour()),
        ("flipped", anatomy(9)[::-1].copy(), tumour()),
        ("flipped", anatomy(9)[:, :, ::-1].copy(), tumour()),
        ("no mask", anatomy(9), None),
    ],
)
def test_planted_faults_are_found(
    store: CaseStore, check: str, image: np.ndarray, mask: np.ndarray | None
) -> None:
    """Each fault is named at its case and at no other."""
    fill(store, "bad", image, mask)
    found = names(store)
    assert check in found.pop("bad")
    assert set().union(*found.values()) == set()


def test_geometry_that_no_scanner_has(store: CaseStore) -> None:
    """Metres for millimetres, and a tilt."""
    case = store.case("c0")
    for matrix, check in (
        (np.diag([0.003, 0.003, 0.006, 1.0]), "spacing"),
        (np.array([[3, 0, 1, 0], [0, 3, 0, 0], [0, 0, 6, 0], [0, 0, 0, 1.0]]), "shear"),
    ):
        changed = type(case)(**{**vars(case), "affine": Affine(matrix)})
        found = check_case(changed, store.volumes(case), None)
        assert [finding.check for finding in found] == [check]


def test_hounsfield_units_have_air(store: CaseStore) -> None:
    """A CT whose smallest value is not air may have lost its rescaling."""
    case = store.case("c0")
    changed = type(case)(**{**vars(case), "acquisition": MappingProxyType({"unit_CT": "HU"})})
    assert [finding.check for finding in check_case(changed, store.volumes(case), None)] == [
        "units"
    ]


def test_turning_follows_the_header() -> None:
    """A volume and its flipped twin with the matching header are one volume in RAS."""
    image = anatomy(1)
    flipped = np.diag([3.0, -3.0, 6.0, 1.0])
    flipped[0, 3] = -3.0 * (SHAPE[0] - 1)
    turned = turned_to_ras(image, AFFINE)
    assert np.array_equal(turned, turned_to_ras(image[::-1], Affine(flipped)))
    swapped = AFFINE.ras_from_voxel[:, [2, 0, 1, 3]]
    assert np.array_equal(turned, turned_to_ras(image.transpose(2, 0, 1), Affine(swapped)))


def test_nothing_is_said_where_anatomy_has_no_sides() -> None:
    """Mirror-symmetric volumes: a flip cannot be seen, so none is claimed."""
    coarse = {}
    for seed in range(8):
        half = anatomy(seed)
        both = half + half[::-1]
        image = both if seed else both + 0.3 * np.roll(both, 1, axis=1)
        coarse[str(seed)] = coarse_volume(image, body_of(image), AFFINE)
    assert not any("left" in f.why for found in find_flips(coarse).values() for f in found)


def test_a_patient_at_two_hospitals_is_found_by_digests_alone(tmp_path: Path) -> None:
    """A resampled, rescaled and cut copy is found; other people are not; another key finds none."""

    def bits(image: np.ndarray) -> np.ndarray:
        return fingerprint_bits(coarse_volume(image, body_of(image), AFFINE))

    people = [bits(anatomy(seed)) for seed in range(20)]
    copy = ndimage.zoom(anatomy(3) * 1.7 + 5, (0.8, 0.8, 1.0), order=1)
    north = Prints.of("north", people[:10], KEY)
    south = Prints.of("south", [*people[10:], bits(copy)], KEY)
    south.write(tmp_path / "south.json")
    assert Prints.read(tmp_path / "south.json") == south
    (pair,) = compare_prints([north, south])
    assert north.bands[pair[1] - 1] == band_digests(people[3], KEY)
    assert pair[4] >= ENOUGH
    other = Prints.of("south", [bits(copy)], type(KEY)(bytes(32)))
    assert compare_prints([north, other]) == []
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="not a file of prints"):
        Prints.read(tmp_path / "x.json")


def test_the_same_picture_under_two_patients_is_found(store: CaseStore) -> None:
    """In one store as well: such a pair could stand on both sides of a split."""
    fill(store, "twin", anatomy(2) * 2, tumour())
    found = names(store)
    assert {case for case, checks in found.items() if "near-duplicate" in checks} == {"c2", "twin"}


def test_quarantine_takes_a_case_out_and_back(store: CaseStore, tmp_path: Path) -> None:
    """Nobody who reads the store sees it; its reasons stay; a withdrawal reaches it there."""
    before = {p.name: p.read_bytes() for p in (store.path / "cases" / "c1").iterdir()}
    fill(store, "bad", anatomy(9), np.zeros(SHAPE, np.uint8))
    (quality,) = assess([store.path], jobs=1)
    assert set_aside(quality) == 1
    assert "bad" not in store.case_ids()
    assert quarantined(store.path)["bad"] == ("empty mask: the mask is empty",)
    quarantine(store, "c1", ["a reason"])
    release(store, "c1")
    assert {p.name: p.read_bytes() for p in (store.path / "cases" / "c1").iterdir()} == before
    with pytest.raises(UsageError, match="No case of that id"):
        release(store, "c1")
    assert erase_patient("pbad", stores=(store.path,), runs=(), nodes=())[1] == {"bad"}
    assert quarantined(store.path) == {}


def test_ingest_leaves_a_case_in_quarantine(tmp_path: Path) -> None:
    """What was set aside does not come back by running the same command again."""
    from evenhand.cases.nifti import write_nifti

    write_nifti(tmp_path / "a.nii.gz", anatomy(0), AFFINE)
    case_id, patient = People(hospital="north", names=NAMES).case("a", "case 1")
    recipe = VolumeCase(
        kind="MSD",
        label="case 1",
        case_id=case_id,
        patient=patient,
        images=(ImageSource("CT", tmp_path / "a.nii.gz"),),
        mask=None,
        labels=(),
        known=(),
        why="",
        names=NAMES,
    )
    admit([recipe], tmp_path / "s", "north", jobs=1)
    store = CaseStore(tmp_path / "s")
    quarantine(store, case_id, ["it is odd"])
    (outcome,) = admit([recipe], tmp_path / "s", "north", jobs=1).outcomes
    assert outcome.status == "refused"
    assert "quarantine (it is odd)" in outcome.why
    shutil.rmtree(store.path / "quarantine" / case_id)
    assert admit([recipe], tmp_path / "s", "north", jobs=1).count("written") == 1


def test_small_groups_do_not_leave(tmp_path: Path) -> None:
    """What may leave merges groups under five; the reference is compared by interval."""
    store = CaseStore.create(tmp_path / "north", "north")
    for number in range(30):
        sex = "O" if number < 2 else "F" if number < 12 else "M"
        fill(
            store,
            f"c{number:02d}",
            anatomy(0)[::4, ::4, ::4],
            None,
            sex=sex,
            age_years=float(number),
        )
    quality = assess([store.path], jobs=1)
    (tmp_path / "ref.csv").write_text("attribute,value,share\nsex,F,0.6\nsex,M,0.4\n", "utf-8")
    groups = representation(quality, read_reference(tmp_path / "ref.csv"))
    assert all(group.patients >= SMALLEST or group.patients == 0 for group in groups)
    sexes = {group.value: group for group in groups if group.attribute == "sex"}
    assert sexes.keys() == {"M", "smaller groups together"}
    assert sexes["M"].patients == 18
    inside = representation(quality, read_reference(tmp_path / "ref.csv"), smallest=1)
    verdicts = {g.value: g.verdict for g in inside if g.attribute == "sex"}
    assert verdicts == {"M": "more", "F": "fewer", "O": ""}
    (tmp_path / "ref.csv").write_text("attribute,value,share\nshoe size,43,0.5\n", "utf-8")
    with pytest.raises(UsageError, match="attributes are"):
        read_reference(tmp_path / "ref.csv")


def run(*words: object) -> tuple[int, str]:
    """Run the command; return its exit code and what it said."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    error = str(result.exception) if isinstance(result.exception, DataError | UsageError) else ""
    code = getattr(result.exception, "exit_code", result.exit_code)
    return code, result.output + error


def test_the_command(store: CaseStore, tmp_path: Path) -> None:
    """Report, datasheet and JSON; errors fail the command until the cases are set aside."""
    fill(store, "bad", anatomy(9), np.zeros(SHAPE, np.uint8))
    out = tmp_path / "q"
    code, text = run("quality", store.path, "--out", out, "--jobs", 1)
    assert code == 1
    assert "--quarantine" in text
    page = (out / "quality.html").read_text("utf-8")
    assert "the mask is empty" in page
    assert "bad" in page
    for name in ("datasheet.md", "diversity.json"):
        assert "bad" not in (out / name).read_text("utf-8")
    assert json.loads((out / "diversity.json").read_text("utf-8"))["smallest_group"] == SMALLEST
    code, _ = run("quality", store.path, "--out", out, "--jobs", 1, "--quarantine")
    assert code == 0
    assert len(store) == 6
    code, _ = run("quality", store.path, "--release", "bad")
    assert code == 0
    assert len(store) == 7


def test_prints_of_two_hospitals_by_the_command(store: CaseStore, tmp_path: Path) -> None:
    """Each hospital writes its own; whoever compares needs no key and sees numbers only."""
    key = tmp_path / "study.key"
    run("deidentify", "--new-key", key)
    south = CaseStore.create(tmp_path / "south", "south")
    fill(south, "elsewhere", anatomy(4), tumour())
    for each in (store, south):
        path = tmp_path / f"{each.hospital}.json"
        words = ("--out", tmp_path / "q", "--jobs", 1, "--prints", path, "--key", key)
        assert run("quality", each.path, *words)[0] == 0
    files = ("--compare", tmp_path / "north.json", "--compare", tmp_path / "south.json")
    code, text = run("quality", *files)
    assert code == 0
    assert "1 pair(s)" in text
    assert "elsewhere" not in (tmp_path / "south.json").read_text("utf-8") + text


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "Which stores"),
        (("{store}", "--prints", "x.json"), "belong together"),
        (("--compare", "{print}"), "two hospitals"),
        (("{store}", "--release", "nobody"), "No case of that id"),
    ],
)
def test_wrong_use_says_what_to_do(
    store: CaseStore, tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    """Exit code 2 and the way out."""
    Prints.of("north", [], KEY).write(tmp_path / "p.json")
    said = [word.format(store=store.path, print=tmp_path / "p.json") for word in words]
    code, text = run("quality", *said)
    assert code == 2
    assert why in text
