"""Rules of faces: none enters a store unnoticed; what removes one leaves brain and tumour alone."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from dicom_reading import NAMES
from scipy import ndimage
from typer.testing import CliRunner

from evenhand.cases.nifti import write_nifti
from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.errors import DataError, EvenhandError, ResourceError
from evenhand.geometry import Affine
from evenhand.ingest.bids import ingest_bids, plan_bids
from evenhand.ingest.faces import guard
from evenhand.ingest.faces.deface import MARGIN_MM, deface, face_left
from evenhand.ingest.faces.guard import FacePolicy, guarded
from evenhand.ingest.faces.judge import judge
from evenhand.ingest.recipes import Content

MM = 4.0
SHAPE = (52, 64, 60)
AFFINE = Affine(np.array([[MM, 0, 0, -104], [0, MM, 0, -128], [0, 0, MM, -120], [0, 0, 0, 1.0]]))


def ball(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    """An ellipsoid, in RAS mm."""
    i, j, k = np.indices(SHAPE)
    place = [MM * index + start for index, start in zip((i, j, k), (-104, -128, -120), strict=True)]
    terms = [((p - c) / r) ** 2 for p, c, r in zip(place, centre, radii, strict=True)]
    return np.asarray(sum(terms) < 1)


BRAIN = ball((0, 0, 40), (66, 82, 62))


def head(noise: float = 1.0) -> np.ndarray:
    """Scalp, skull, brain, and below them a face with a nose; the front is at +y."""
    whole = ball((0, 0, 35), (80, 98, 80)) | ball((0, 25, -45), (60, 70, 75))
    whole |= ball((0, 100, -20), (10, 16, 16))
    image = np.random.default_rng(0).normal(0, noise, SHAPE)
    image += 90 * whole
    image -= 70 * (ball((0, 0, 38), (73, 90, 70)) & ~BRAIN)
    return np.asarray(image, np.float32)


def tumour() -> np.ndarray:
    """A mask at the skull's edge of the brain."""
    return ball((50, 0, 50), (18, 12, 12)).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "said", "header", "face"),
    [
        (head(), "", "", True),
        (head(), "head", "", True),
        (head(), "other", "", False),
        (head(), "brain", "", False),
        (head(), "", "other", False),
        (head(), "head", "other", True),
        (head(), "", "head", True),
        (np.where(BRAIN, head(), 0).astype(np.float32), "", "", False),
        (np.where(BRAIN, head(), 0).astype(np.float32), "", "head", False),
        (head()[:, :, :10], "", "", False),
        (head(0) * ball((0, 0, 0), (300, 300, 300)), "", "", True),
        (ball((0, 0, 0), (150, 90, 300)) * np.float32(9), "", "", True),
    ],
)
def test_in_doubt_there_may_be_a_face(
    image: np.ndarray, said: str, header: str, face: bool
) -> None:
    """The user's word, then the header's, then the voxels; a zeroed background is no proof."""
    found = judge({"T1w": image}, AFFINE, said=said, header=header)
    assert found.face is face
    assert found.why


def test_a_chest_is_no_head() -> None:
    """What is wider than any head needs no defacing, whether or not its header says so."""
    wide = Affine(AFFINE.ras_from_voxel @ np.diag([2.0, 1, 1, 1]))
    body = ball((0, 0, 0), (75, 90, 300)).astype(np.float32) * 90
    assert not judge({"CT": body}, wide, said="", header="").face


def test_defacing_leaves_brain_and_tumour_to_the_bit() -> None:
    """Not one voxel of either differs, of any sequence; the face's surface is gone."""
    images = {"T1w": head(), "T2w": head(3.0)}
    made = deface(images, tumour(), BRAIN, AFFINE)
    sacred = BRAIN | (tumour() > 0)
    for name, image in images.items():
        assert np.array_equal(made.images[name][sacred], image[sacred])
        far = ndimage.distance_transform_edt(~sacred, sampling=AFFINE.spacing_mm) > MARGIN_MM
        assert (made.images[name][far] == image.min()).all()
    assert made.facts["brain_or_tumour_voxels_changed"] == 0
    assert face_left(images["T1w"], images["T1w"], AFFINE) == 1
    assert (
        made.facts["face_surface_left"] == 0 == face_left(images["T1w"], made.images["T1w"], AFFINE)
    )


def test_a_brain_mask_that_is_the_whole_head_does_not_pass() -> None:
    """If the brain was found wrongly and the face stays, nothing is stored."""
    with pytest.raises(DataError, match="still there"):
        deface({"T1w": head()}, None, head() > 40, AFFINE)


def content() -> Content:
    """A case with a face."""
    return Content(affine=AFFINE, images={"T1w": head()}, mask=tumour(), evidence={"source": "x"})


def test_the_door_removes_keeps_with_a_reason_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was done stands in the evidence, beside what stood there."""
    with pytest.raises(DataError, match="may show a face") as refusal:
        guarded(content(), FacePolicy())
    assert all(way in str(refusal.value) for way in ("--deface", "--body-part", "--keep-faces"))
    kept = guarded(content(), FacePolicy(keep_because="consent of 2 May"))
    assert kept.evidence["faces"]["kept because"] == "consent of 2 May"
    assert np.array_equal(kept.images["T1w"], content().images["T1w"])
    monkeypatch.setattr(guard, "find_brain", lambda *_: BRAIN)
    made = guarded(content(), FacePolicy(deface=True))
    assert made.evidence["faces"]["face_surface_left"] == 0
    assert made.evidence["source"] == "x"
    assert not np.array_equal(made.images["T1w"], content().images["T1w"])
    assert np.array_equal(made.mask, content().mask)


@pytest.mark.skipif(importlib.util.find_spec("deepbet") is not None, reason="deepbet is installed")
def test_without_the_tool_it_is_named() -> None:
    """Who asks for defacing without the optional part learns how to get it."""
    with pytest.raises(ResourceError, match=r"evenhand\[deface\]"):
        guarded(content(), FacePolicy(deface=True))


def test_a_tree_of_heads_is_refused_and_the_phantoms_pass(bids_tree: Path, tmp_path: Path) -> None:
    """Stripped phantoms are recognised; a head among them stops the ingest before it writes."""
    assert ingest_bids(bids_tree, tmp_path / "s", faces=FacePolicy()).written == 5
    (case, *_) = CaseStore(tmp_path / "s" / "north")
    evidence = CaseStore(tmp_path / "s" / "north").evidence(case)
    assert evidence is not None
    assert "face" not in evidence["faces"]["judged"]
    folder = bids_tree / "sub-north001" / "anat"
    write_nifti(folder / "sub-north001_FLAIR.nii.gz", head(), AFFINE)
    (mask,) = (bids_tree / "derivatives").glob("*/sub-north001/anat/*_mask.nii.gz")
    write_nifti(mask, tumour(), AFFINE)
    (finding,) = plan_bids(bids_tree, tmp_path / "t", faces=FacePolicy()).findings
    assert "may show a face" in finding
    (finding,) = plan_bids(bids_tree, tmp_path / "t", names=NAMES, faces=FacePolicy()).findings
    assert "north001" not in finding


def test_the_command_refuses_and_takes_with_a_reason(bids_tree: Path, tmp_path: Path) -> None:
    """The way out that the refusal names works, and contradictions are wrong use."""
    folder = bids_tree / "sub-north001" / "anat"
    write_nifti(folder / "sub-north001_FLAIR.nii.gz", head(), AFFINE)
    (mask,) = (bids_tree / "derivatives").glob("*/sub-north001/anat/*_mask.nii.gz")
    write_nifti(mask, tumour(), AFFINE)

    def run(*words: str) -> int:
        into = ["ingest", str(bids_tree), "--into", str(tmp_path / "s")]
        result = CliRunner().invoke(app, [*into, *words])
        error = result.exception
        return error.exit_code if isinstance(error, EvenhandError) else result.exit_code

    assert run() == 1
    assert not (tmp_path / "s").exists()
    assert run("--body-part", "foot") == 2
    assert run("--deface", "--keep-faces", "why not") == 2
    assert run("--keep-faces", "consent") == 0
    store = CaseStore(tmp_path / "s" / "north")
    evidence = store.evidence(store.case("north001"))
    assert evidence is not None
    assert evidence["faces"]["kept because"] == "consent"
