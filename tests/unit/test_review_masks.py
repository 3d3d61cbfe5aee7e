"""Masks that come in from a reader: each fault has its sentence, and nothing gets through."""

import errno
import gzip
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from evenhand.cases.hashing import array_sha256
from evenhand.cases.nifti import write_nifti
from evenhand.errors import DataError, ResourceError
from evenhand.geometry import Affine
from evenhand_ui import masks
from evenhand_ui.masks import (
    check_uploaded_mask,
    keep_correction,
    name_correction,
    read_mask,
    summarise_mask,
)
from evenhand_ui.runs import ReviewRun
from review_run import AFFINE, SHAPE, make_review_run, proposed_mask


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run to review. Read only."""
    return ReviewRun.open(make_review_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def case(run):
    """One of its cases."""
    return run.case("n001")


def corrected_mask():
    """The proposed mask with one voxel more."""
    mask = proposed_mask()
    mask[20, 15, 5] = 1
    return mask


def packed(voxels, affine=AFFINE.ras_from_voxel, *, zipped=True, kind=nib.Nifti1Image):
    """A NIfTI file in memory."""
    plain = kind(voxels, affine).to_bytes()
    return gzip.compress(plain) if zipped else plain


class TestUpload:
    """An uploaded corrected mask."""

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_good_ones_are_taken(self, case, dtype, zipped):
        """Tools save masks in many number types, packed or not; the voxels come out as uint8."""
        content = packed(corrected_mask().astype(dtype), zipped=zipped)
        mask = check_uploaded_mask(content, case, proposed_mask())
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, corrected_mask())

    def test_our_own_files_are_taken(self, tmp_path):
        """A large volume that this program wrote, in several gzip members, comes back whole."""
        voxels = np.zeros((256, 256, 72), dtype=np.uint8)
        voxels[100:120, 100:120, 70] = 1
        path = tmp_path / "own.nii.gz"
        write_nifti(path, voxels, AFFINE)
        large = SimpleNamespace(shape=voxels.shape, affine=AFFINE)
        mask = check_uploaded_mask(path.read_bytes(), large, np.zeros_like(voxels))
        assert np.array_equal(mask, voxels)
        with pytest.raises(DataError, match="damaged or cut short"):
            check_uploaded_mask(path.read_bytes()[:-9], large, np.zeros_like(voxels))

    def test_no_tumour_at_all_is_a_correction(self, case):
        """An empty mask is taken: the proposal may have been wrong altogether."""
        content = packed(np.zeros(SHAPE, dtype=np.uint8))
        assert not check_uploaded_mask(content, case, proposed_mask()).any()

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (
                packed(np.ones((24, 20, 5), dtype=np.uint8)),
                "24 x 20 x 5 voxels where .* 24 x 20 x 6",
            ),
            (packed(np.ones((*SHAPE, 1), dtype=np.uint8)), "24 x 20 x 6 x 1 voxels where"),
            (packed(corrected_mask(), np.diag([2.0, 2, 5, 1])), "affine differs"),
            (packed(corrected_mask() * 2), "values other than 0 .* and 1"),
            (packed(corrected_mask() * np.float32(0.5)), "values other than 0 .* and 1"),
            (packed(np.where(corrected_mask(), np.nan, 0).astype("f4")), "values other than 0"),
            (packed(proposed_mask()), "equals the proposed one"),
            (b"", "not a readable NIfTI"),
            (b"PK\x03\x04 some zip", "not a readable NIfTI"),
            (b"\x5c\x01\x00\x00" + b"\xff" * 400, "not a readable NIfTI|voxels where|affine"),
            (packed(corrected_mask())[:-20], "damaged or cut short"),
            (packed(corrected_mask(), zipped=False)[:-20], "not a readable NIfTI"),
            (b"\x1f\x8b broken", "damaged or cut short"),
            (gzip.compress(b"\0" * (4 << 20)), "unpacks to more"),
            (b"\0" * (4 << 20), "unpacks to more"),
        ],
    )
    def test_bad_ones_get_their_sentence(self, case, content, sentence):
        """Each fault is told in one sentence of its own."""
        with pytest.raises(DataError, match=sentence) as caught:
            check_uploaded_mask(content, case, proposed_mask())
        assert str(caught.value).endswith(".")

    def test_size_cap(self, case, monkeypatch):
        """A file over the cap is refused before it is unpacked."""
        monkeypatch.setattr(masks, "UPLOAD_LIMIT_MIB", 0)
        with pytest.raises(DataError, match="a mask may have 0"):
            check_uploaded_mask(packed(corrected_mask()), case, proposed_mask())

    def test_header_that_lies_about_its_size(self, case):
        """A header that promises a huge volume costs no memory: shapes are compared first."""
        plain = bytearray(packed(corrected_mask(), zipped=False))
        plain[40:56] = np.array([3, 32767, 32767, 32767, 1, 1, 1, 1], dtype="<i2").tobytes()
        with pytest.raises(DataError, match="32767 x 32767 x 32767 voxels where"):
            check_uploaded_mask(bytes(plain), case, proposed_mask())


class TestKeeping:
    """A corrected mask on disk."""

    def test_comes_back_voxel_for_voxel(self, case, tmp_path):
        """What is kept has the uploaded voxels, the case's affine, and the recorded hash."""
        name, sha256 = name_correction(case, corrected_mask())
        keep_correction(tmp_path / name, case, corrected_mask())
        back = read_mask(tmp_path / name, case)
        assert np.array_equal(back, corrected_mask())
        assert sha256 == array_sha256(back)

    def test_other_content_gets_another_name(self, case):
        """A second correction of a case does not overwrite the first."""
        names = {name_correction(case, mask)[0] for mask in (corrected_mask(), proposed_mask())}
        assert len(names) == 2

    def test_full_disk_leaves_nothing(self, case, tmp_path, monkeypatch):
        """When the disk fills up in the middle, the reader is told and no part is left."""

        def write_half(path, *_):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(masks, "write_nifti", write_half)
        with pytest.raises(ResourceError, match=r"No space left.*Nothing was recorded"):
            keep_correction(tmp_path / "m.nii.gz", case, corrected_mask())
        assert list(tmp_path.iterdir()) == []

    def test_no_folder_to_be_had(self, case, tmp_path):
        """Where not even the folder can be made, the sentence is the same."""
        (tmp_path / "corrected").touch()
        with pytest.raises(ResourceError, match="Nothing was recorded"):
            keep_correction(tmp_path / "corrected" / "m.nii.gz", case, corrected_mask())


class TestProposed:
    """The mask that a model proposed."""

    def test_summary(self, run):
        """Hash, slices and volume of the mask in the file; voxels have 2 x 2 x 5 mm."""
        summary = summarise_mask(run.mask_path("n001"))
        voxels = (4 + 8 + 6) * 6
        assert (summary.voxels, summary.tumour_slices) == (voxels, 3)
        assert summary.volume_mm3 == pytest.approx(voxels * 20)
        assert summary.sha256 == array_sha256(proposed_mask())

    def test_volume_on_a_sheared_grid(self, tmp_path):
        """Slices that lean over (a tilted gantry) are not counted larger than they are."""
        leaning = AFFINE.ras_from_voxel.copy()
        leaning[1, 2] = 3.0
        path = tmp_path / "leaning.nii.gz"
        write_nifti(path, proposed_mask(), Affine(leaning))
        voxels = int(proposed_mask().sum())
        assert summarise_mask(path).volume_mm3 == pytest.approx(voxels * 20)

    def test_summary_follows_the_file(self, tmp_path):
        """A mask that was made again is read again, not remembered."""
        path = tmp_path / "m.nii.gz"
        write_nifti(path, proposed_mask(), AFFINE)
        before = summarise_mask(path)
        write_nifti(path, corrected_mask(), AFFINE)
        assert summarise_mask(path).voxels == before.voxels + 1

    def test_missing(self, tmp_path):
        """A missing mask is named."""
        with pytest.raises(DataError, match=r"'gone\.nii\.gz' is missing"):
            summarise_mask(tmp_path / "gone.nii.gz")

    def test_of_another_case(self, case, tmp_path):
        """A mask that does not fit its case is never drawn over it."""
        write_nifti(tmp_path / "m.nii.gz", np.ones((3, 3, 3), dtype=np.uint8), AFFINE)
        with pytest.raises(DataError, match="3 x 3 x 3 voxels where"):
            read_mask(tmp_path / "m.nii.gz", case)
