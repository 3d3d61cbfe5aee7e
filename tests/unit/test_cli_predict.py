"""`evenhand predict`: an adapter and an image in, a mask on the image's grid out."""

from copy import deepcopy

import nibabel as nib
import numpy as np
import pytest
from small_models import CONFIG, small_backbone
from typer.testing import CliRunner

from evenhand.cli import app
from evenhand.errors import AdapterError, DataError, UsageError
from evenhand.model.adapted import AdaptedModel
from evenhand.model.adapter_files import save_adapter

AFFINE = np.diag([-2.0, 1.5, 3.0, 1.0])
SHAPE = (30, 24, 5)


@pytest.fixture(scope="module")
def backbone():
    """Made once, copied for each use: an adapter changes its layers."""
    return small_backbone()


@pytest.fixture
def adapter(tmp_path, monkeypatch, backbone):
    """A saved adapter of two sequences, whose head takes hints."""
    monkeypatch.setattr(
        "evenhand.model.backbones.load_backbone", lambda *_args, **_kwargs: deepcopy(backbone)
    )
    config = CONFIG.model_copy(update={"head_hints": True})
    model = AdaptedModel(deepcopy(backbone), config, seed=0, sequences=("FLAIR", "T1w"))
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, model, config_fingerprint="test", training={})
    return path


def image(path, affine=AFFINE, value=None):
    """A NIfTI of noise."""
    voxels = np.random.default_rng(0).uniform(1, 9, SHAPE).astype(np.float32)
    if value is not None:
        voxels[0, 0, 0] = value
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def predict(*arguments):
    """Run the command; an error is raised as it is."""
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], catch_exceptions=True)


@pytest.mark.parametrize("box", [[], ["--box", "2,3,4,20,25"]])
def test_a_mask_lies_on_the_images_grid(adapter, tmp_path, box):
    """Same shape, same affine; the probabilities beside it agree with it."""
    flair, also = image(tmp_path / "f.nii.gz"), image(tmp_path / "t.nii.gz")
    out, probability = tmp_path / "new" / "m.nii.gz", tmp_path / "p.nii.gz"
    done = predict(
        adapter, flair, "--also", f"T1w={also}", "--out", out, "--probability", probability, *box
    )
    assert done.exit_code == 0, done.output
    assert "uncertainty 0." in done.output
    mask, likely = nib.load(out), nib.load(probability)
    assert mask.shape == likely.shape == SHAPE
    np.testing.assert_allclose(mask.affine, AFFINE)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}
    surely = np.asarray(likely.dataobj) > 0.51
    assert not (np.asarray(mask.dataobj) > surely + (likely.get_fdata() > 0.49)).any()


def test_a_sequence_may_be_lacking(adapter, tmp_path):
    """The head then sees nothing there."""
    out = tmp_path / "m.nii.gz"
    assert predict(adapter, image(tmp_path / "f.nii.gz"), "--out", out).exit_code == 0
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--box", "9,3,4,20,25"], "K under 5"),
        (["--box", "2,20,4,3,25"], "X0 under X1"),
        (["--box", "a box"], "five numbers"),
        (["--also", "T2w=x.nii.gz"], "among T1w"),
        (["--also", "t.nii.gz"], "NAME=FILE"),
    ],
)
def test_a_wrong_prompt_is_explained(adapter, tmp_path, arguments, said):
    """What was wanted, and nothing is written."""
    out = tmp_path / "m.nii.gz"
    done = predict(adapter, image(tmp_path / "f.nii.gz"), "--out", out, *arguments)
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception)
    assert not out.exists()


def test_other_grids_and_broken_numbers_are_refused(adapter, tmp_path):
    """Two sequences of different geometry, or a value that is no number."""
    flair, out = image(tmp_path / "f.nii.gz"), tmp_path / "m.nii.gz"
    moved = image(tmp_path / "t.nii.gz", affine=AFFINE + 0.5)
    done = predict(adapter, flair, "--also", f"T1w={moved}", "--out", out)
    assert isinstance(done.exception, DataError)
    assert "another grid" in str(done.exception)
    broken = image(tmp_path / "n.nii.gz", value=np.nan)
    done = predict(adapter, broken, "--out", out)
    assert isinstance(done.exception, DataError)
    assert not out.exists()


def test_the_mask_must_be_named_as_one(adapter, tmp_path):
    """Found before the model is loaded."""
    done = predict(adapter, tmp_path / "f.nii.gz", "--out", tmp_path / "mask.png")
    assert isinstance(done.exception, UsageError)


def test_an_adapter_that_is_not_whole_is_refused(adapter, tmp_path, backbone):
    """Parts that stayed at hospitals are as they were at the random start."""
    config = CONFIG.model_copy(update={"head_hints": True})
    model = AdaptedModel(deepcopy(backbone), config, seed=0, sequences=("FLAIR", "T1w"))
    save_adapter(
        adapter, model, config_fingerprint="test", training={"local_parts": ["head.leave.*"]}
    )
    done = predict(adapter, image(tmp_path / "f.nii.gz"), "--out", tmp_path / "m.nii.gz")
    assert isinstance(done.exception, AdapterError)
    assert "not whole" in str(done.exception)
