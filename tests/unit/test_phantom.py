"""Rules of evenhand.ingest.phantom: what is planted is there, and nothing else is."""

import csv
import errno
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from evenhand.config import PhantomConfig
from evenhand.errors import ConfigError, ResourceError, UsageError
from evenhand.ingest import phantom
from evenhand.ingest.phantom import contrast_to_noise, make_phantoms
from evenhand.ingest.phantom_anatomy import make_brain

SMALL = {"shape": (40, 40, 6), "patients": {"north": 8, "south": 8}}


def table(tree: Path) -> list[dict[str, str]]:
    """Return the rows of the participants table."""
    with (tree / "participants.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def voxels(tree: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask of a patient, which must share an affine."""
    image = nib.load(tree / name / "anat" / f"{name}_FLAIR.nii.gz")
    folder = tree / "derivatives" / "manual_masks" / name / "anat"
    mask = nib.load(folder / f"{name}_label-tumour_mask.nii.gz")
    assert np.array_equal(image.affine, mask.affine)
    return np.asarray(image.dataobj), np.asarray(mask.dataobj)


def content(tree: Path) -> dict[str, bytes]:
    """Return all files of a tree."""
    files = (path for path in tree.rglob("*") if path.is_file())
    return {str(path.relative_to(tree)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tree of 16 small patients of two hospitals. Read only."""
    return make_phantoms(PhantomConfig(**SMALL), tmp_path_factory.mktemp("p") / "tree", seed=3)


def test_equal_seeds_make_equal_files_and_others_do_not(tree: Path, tmp_path: Path) -> None:
    """A phantom data set is named by its config and seed alone, to the byte."""
    again = make_phantoms(PhantomConfig(**SMALL), tmp_path / "again", seed=3)
    other = make_phantoms(PhantomConfig(**SMALL), tmp_path / "other", seed=4)
    assert content(again) == content(tree)
    name = "sub-north001/anat/sub-north001_FLAIR.nii.gz"
    assert content(other)[name] != content(tree)[name]


def test_every_patient_has_image_mask_and_row(tree: Path) -> None:
    """The tree is whole: uint8 or int16 images, masks of 0 and 1 with some tumour, one grid."""
    rows = table(tree)
    assert [row["site"] for row in rows].count("north") == 8
    for row in rows:
        image, mask = voxels(tree, row["participant_id"])
        assert image.shape == mask.shape == (40, 40, 6)
        assert image.dtype in {np.dtype(np.uint8), np.dtype(np.int16)}
        assert set(np.unique(mask)) == {0, 1}
        assert (image[mask == 1] > 0).all()
        assert ndimage.label(mask)[1] == 1
        assert not mask.any(axis=(0, 1)).all(), "some slices must be free of tumour"


def test_some_attributes_are_missing(tree: Path) -> None:
    """Phantoms exercise unknown attributes, each of them, without ever losing the site."""
    rows = table(tree)
    for attribute in ("sex", "age", "race", "ethnicity"):
        missing = sum(row[attribute] == "n/a" for row in rows)
        assert 1 <= missing <= 4, attribute
    assert {row["site"] for row in rows} == {"north", "south"}


def test_truth_says_what_is_in_the_files(tree: Path) -> None:
    """The truth's group means are those of the stored images, measured here once more."""
    truth = json.loads((tree / "phantom_truth.json").read_text(encoding="utf-8"))
    measured: dict[str, list[float]] = {}
    for row in table(tree):
        image, mask = voxels(tree, row["participant_id"])
        group = "unknown" if row["sex"] == "n/a" else row["sex"]
        ratio = contrast_to_noise(image.astype(np.float32), mask == 1)
        measured.setdefault(group, []).append(ratio)
    assert set(truth["groups"]) == set(measured)
    for group, values in measured.items():
        told = truth["groups"][group]
        assert told["n"] == len(values)
        assert told["mean_contrast_to_noise"] == pytest.approx(np.mean(values), abs=1e-3)
    assert (truth["attribute"], truth["value"], truth["contrast_ratio"]) == ("sex", "F", 0.45)


def test_contrast_to_noise_of_a_known_picture() -> None:
    """(tumour - ring) / deviation, the ring 2 to 4 steps away in the slice, fluid left out.

    Left of the tumour lies fluid of brightness 12, right of it rows of 14 and 16 in
    turn. Fluid is the darkest tenth and what equals it, so the ring is the right
    side alone: its places are counted out below.
    """
    image = np.full((21, 21, 1), 12, dtype=np.float32)
    image[:, 11:] = 14
    image[::2, 11:] = 16
    mask = np.zeros(image.shape, dtype=bool)
    mask[10, 10] = True
    image[mask] = 30
    ring = [(i, j) for i in range(-4, 5) for j in range(1, 5) if 2 <= abs(i) + j <= 4]
    values = [16.0 if i % 2 == 0 else 14.0 for i, _ in ring]
    expected = (30 - np.mean(values)) / np.std(values)
    assert contrast_to_noise(image, mask) == pytest.approx(expected, rel=1e-6)


def test_bias_lowers_the_contrast_of_its_group_only(tree: Path, tmp_path: Path) -> None:
    """Women's tumours stand out less in proportion to what was planted; without bias they do not.

    Men's images are the same bytes with and without the bias.
    """
    fair = make_phantoms(PhantomConfig(**SMALL, bias_contrast=1.0), tmp_path / "fair", seed=3)
    ratios = []
    for row in table(tree):
        name = row["participant_id"]
        (biased, mask), (image, _) = voxels(tree, name), voxels(fair, name)
        if row["sex"] == "F":
            with_bias = contrast_to_noise(biased.astype(np.float32), mask == 1)
            ratios.append(with_bias / contrast_to_noise(image.astype(np.float32), mask == 1))
        else:
            assert np.array_equal(biased, image)
    # Blur, gamma and texture bend brightness, so that the ratio is near 0.45, not equal.
    assert 0.35 < np.mean(ratios) < 0.65


def test_both_sexes_have_tumours_of_one_size(tree: Path) -> None:
    """Tumour size is no second, hidden bias: pairs of a woman and a man share a size."""
    sizes = [int(voxels(tree, row["participant_id"])[1].sum()) for row in table(tree)]
    for first, second in zip(sizes[::2], sizes[1::2], strict=True):
        assert first == pytest.approx(second, rel=0.35)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_flip_can_be_noticed(axis: int) -> None:
    """New brains resemble the average of others more than its mirror image, left-right too."""
    draws = [make_brain((48, 48, 8), 0.02, np.random.default_rng(n)).tissue for n in range(20)]
    template = np.mean(draws[:10], axis=0)
    mirrored = np.flip(template, axis)
    for brain in draws[10:]:
        assert np.corrcoef(brain.ravel(), [template.ravel(), mirrored.ravel()])[0, 1:].argmax() == 0


def test_the_left_ventricle_is_larger() -> None:
    """The side that is documented as larger is the larger one: i grows to the patient's left."""
    sides = []
    for n in range(8):
        brain = make_brain((48, 48, 8), 0.02, np.random.default_rng(n))
        fluid = (brain.tissue < 0.2) & brain.brain & ~brain.mask
        fluid[:, :14], fluid[:, 36:] = False, False  # the fissures in front and behind
        sides.append((fluid[13:24].sum(), fluid[24:35].sum()))
    right, left = np.sum(sides, axis=0)
    assert left > 1.15 * right


def test_scanners_differ_only_when_asked(tmp_path: Path) -> None:
    """Without scanner shift all hospitals have equal brightness statistics but for anatomy."""
    spread = {}
    for shift in (0.0, 1.0):
        config = PhantomConfig(**SMALL, scanner_shift=shift)
        tree = make_phantoms(config, tmp_path / f"shift{shift}", seed=5)
        means: dict[str, list[float]] = {}
        for row in table(tree):
            image = voxels(tree, row["participant_id"])[0].astype(float)
            image /= 800 if image.max() > 255 else 160  # what one unit of brightness is stored as
            means.setdefault(row["site"], []).append(float(np.median(image[image > 0])))
        north, south = (np.mean(means[site]) for site in ("north", "south"))
        spread[shift] = abs(np.log(north / south))
    assert spread[0.0] < 0.05
    assert spread[1.0] > 0.15


def test_heads_show_what_lies_around_the_brain(tree: Path, tmp_path: Path) -> None:
    """A head has more than a brain around its tumour, and tumours are less alike."""
    heads = make_phantoms(PhantomConfig(**SMALL, heads=True), tmp_path / "heads", seed=3)
    tissue = {}
    for name, made in (("brains", tree), ("heads", heads)):
        pictures = [voxels(made, row["participant_id"]) for row in table(made)]
        assert all(set(np.unique(mask)) == {0, 1} for _, mask in pictures)
        # Fat is bright, and lies outside of a ring that is dark: from the middle outwards there
        # is more than one piece.
        tissue[name] = [
            ndimage.label(image[:, :, 3] > 0.4 * image.max())[1] for image, _ in pictures
        ]
        contrast = [
            image[mask == 1].mean() / image[(mask == 0) & (image > 0)].mean()
            for image, mask in pictures
        ]
        tissue[name + " contrast"] = np.std(contrast)
    assert np.mean(tissue["heads"]) > 2 * np.mean(tissue["brains"])
    assert tissue["heads contrast"] > tissue["brains contrast"]


def test_phantoms_of_before_heads_are_kept(tree: Path) -> None:
    """A tree that was made before a key came is what the key's default makes."""
    path = tree / "phantom_truth.json"
    before = path.read_text(encoding="utf-8")
    truth = json.loads(before)
    del truth["config"]["heads"]
    path.write_text(json.dumps(truth), encoding="utf-8")
    try:
        assert make_phantoms(PhantomConfig(**SMALL), tree, seed=3) == tree
    finally:
        path.write_text(before, encoding="utf-8")


def test_the_same_phantoms_are_kept_and_others_refused(tree: Path, tmp_path: Path) -> None:
    """A rerun costs nothing; nobody's files are overwritten."""
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    assert make_phantoms(PhantomConfig(**SMALL), tree, seed=3) == tree
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before
    with pytest.raises(UsageError, match="already holds other phantoms"):
        make_phantoms(PhantomConfig(**SMALL), tree, seed=4)
    (tmp_path / "precious.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="already holds files that are not phantoms"):
        make_phantoms(PhantomConfig(**SMALL), tmp_path, seed=3)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"patients": {}}, "data.phantom.patients"),
        ({"patients": {"a-b": 1, "ab": 1}}, "data.phantom.patients"),
        ({"shape": (16, 32, 6)}, "data.phantom.shape"),
        ({"bias_value": "X"}, "data.phantom.bias_value"),
    ],
)
def test_what_phantoms_cannot_have_is_refused_by_key(
    change: dict[str, object], key: str, tmp_path: Path
) -> None:
    """The error names the config's key and nothing is written."""
    config = PhantomConfig(**{**SMALL, **change})
    with pytest.raises(ConfigError, match=key):
        make_phantoms(config, tmp_path / "tree", seed=0)
    assert not any(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree appears whole or not at all."""
    written = []

    def full(*args: object) -> None:
        written.append(args)
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(phantom, "write_nifti", full)
    with pytest.raises(ResourceError, match=r"No space left on device.*Free some disk space"):
        make_phantoms(PhantomConfig(**SMALL), tmp_path / "tree", seed=0)
    assert not any(tmp_path.iterdir())


def test_progress_ends_at_all_patients(tmp_path: Path) -> None:
    """Who watches sees every patient pass."""
    seen: list[tuple[int, int]] = []
    config = PhantomConfig(shape=(32, 32, 6), patients={"a": 2})
    make_phantoms(config, tmp_path / "t", seed=0, progress=lambda *step: seen.append(step))
    assert seen == [(0, 2), (1, 2), (2, 2)]
