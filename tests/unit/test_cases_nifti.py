"""Rules of evenhand.cases.nifti: whole files in, equal bytes out."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from evenhand.cases.nifti import read_nifti, write_nifti
from evenhand.errors import DataError
from evenhand.geometry import Affine

AFFINE = Affine(np.diag([-2.0, -2.0, 5.0, 1.0]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_voxels_and_affine_survive(tmp_path: Path, dtype: type) -> None:
    """What is written is read back exactly, in its own type, by us and by nibabel."""
    voxels = np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(dtype)
    path = tmp_path / "x.nii.gz"
    write_nifti(path, voxels, AFFINE)
    back, affine = read_nifti(path, name="x")
    assert back.dtype == dtype
    assert np.array_equal(back, voxels)
    assert affine.is_close(AFFINE, atol_mm=0)
    assert np.array_equal(np.asarray(nib.load(path).dataobj), voxels)


def test_equal_volumes_are_equal_bytes(tmp_path: Path) -> None:
    """Neither time nor memory layout shows in a file."""
    voxels = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    write_nifti(tmp_path / "a.nii.gz", voxels, AFFINE)
    write_nifti(tmp_path / "b.nii.gz", np.asfortranarray(voxels), AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_scaled_and_second_version_files_are_read(tmp_path: Path) -> None:
    """A header's slope and intercept are applied; NIfTI-2 and uncompressed files are read."""
    voxels = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    image = nib.Nifti2Image(voxels, np.eye(4))
    image.header.set_slope_inter(2, 1)
    nib.save(image, tmp_path / "x.nii")
    back, _ = read_nifti(tmp_path / "x.nii", name="x")
    assert back.max() == 2 * 7 + 1


@pytest.mark.parametrize("keep", [0, 10, 200, -30, -1])
def test_every_kind_of_truncation_is_found(tmp_path: Path, keep: int) -> None:
    """A file that ends early is refused, even when only gzip's checksum is cut."""
    path = tmp_path / "x.nii.gz"
    write_nifti(path, np.random.default_rng(0).random((8, 8, 8)), AFFINE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="'the file' is truncated, damaged or not NIfTI"):
        read_nifti(path, name="the file")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    """Damage within the compressed stream is refused."""
    path = tmp_path / "x.nii.gz"
    write_nifti(path, np.random.default_rng(0).random((8, 8, 8)), AFFINE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        read_nifti(path, name="x")


def test_files_that_are_something_else_are_named(tmp_path: Path) -> None:
    """Text, 4-D volumes, colours and flat affines are each one sentence."""
    text = tmp_path / "text.nii.gz"
    text.write_bytes(gzip.compress(b"not an image" * 100))
    with pytest.raises(DataError, match="not NIfTI"):
        read_nifti(text, name="text")
    four = tmp_path / "four.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.uint8), np.eye(4)), four)
    with pytest.raises(DataError, match=r"3-D volume of numbers; it has shape \(2, 2, 2, 3\)"):
        read_nifti(four, name="four")
    colour = tmp_path / "colour.nii.gz"
    rgb = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), colour)
    with pytest.raises(DataError, match="volume of numbers"):
        read_nifti(colour, name="colour")
    flat = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    flat.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    (tmp_path / "flat.nii").write_bytes(flat.header.binaryblock + bytes(4 + 8))
    with pytest.raises(DataError, match="affine that cannot be inverted"):
        read_nifti(tmp_path / "flat.nii", name="flat")
    with pytest.raises(DataError, match="'gone' is missing"):
        read_nifti(tmp_path / "gone.nii", name="gone")
