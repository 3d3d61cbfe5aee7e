"""A mask that leaves as DICOM SEG is read back voxel for voxel, by highdicom and by dcmqi."""

import shutil
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_reading import grid, voxels

from evenhand.errors import DataError, ResourceError
from evenhand.export import MaskOrigin, read_source_series, write_dicom_seg
from evenhand.geometry import Affine
from evenhand.ingest.dicom.phantom import Study, write_series

SHAPE = (13, 11, 7)
GRIDS = {
    "axial": grid(),
    "oblique": grid(degrees=(10, -20, 35)),
    "feet first": grid(flips=(-1, -1, -1)),
    "sagittal": grid(degrees=(90, 0, 90)),
}


def tumour():
    """An asymmetric mask."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[2:5, 3:9, 1:4] = 1
    mask[9, 1, 6] = 1
    return mask


@pytest.fixture(params=GRIDS)
def affine(request):
    """Where the series lies."""
    return GRIDS[request.param]


@pytest.fixture
def series(tmp_path, affine):
    """A CT series on disk."""
    folder = tmp_path / "series"
    write_series(folder, voxels(SHAPE), affine, Study())
    return folder


def write(path, series, affine, mask=None, *, origin=MaskOrigin.CORRECTED):
    """Write the tumour as SEG."""
    write_dicom_seg(
        path,
        tumour() if mask is None else mask,
        affine,
        read_source_series(series),
        origin=origin,
        model="mobile_sam",
        version="a" * 64,
    )
    return path


def points(found):
    """RAS millimetres of a mask's voxels, sorted: where the tumour is, whatever the axes."""
    array, ras_from_voxel = found
    where = np.argwhere(array)
    ras = (ras_from_voxel @ np.c_[where, np.ones(len(where))].T)[:3].T
    return np.array(sorted(map(tuple, np.round(ras, 1) + 0.0)))


LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class TestReadBack:
    """Two readers that are not ours find the same voxels at the same place."""

    def test_by_highdicom(self, tmp_path, series, affine):
        """Read by highdicom: each voxel of the mask where the patient has it, no other."""
        seg = hd.seg.segread(write(tmp_path / "m.dcm", series, affine))
        volume = seg.get_volume(segment_numbers=[1], combine_segments=True)
        found = (np.asarray(volume.array), LPS @ volume.affine)
        expected = points((tumour(), affine.ras_from_voxel))
        assert np.allclose(points(found), expected, atol=0.11)

    def test_by_dcmqi(self, tmp_path, series, affine):
        """Read by segimage2itkimage of dcmqi: the same voxels as NIfTI."""
        tool = shutil.which("segimage2itkimage") or shutil.which(
            "segimage2itkimage", path=str(Path(sys.executable).parent)
        )
        if tool is None:
            pytest.skip("dcmqi is not installed")
        import nibabel as nib

        path = write(tmp_path / "m.dcm", series, affine)
        subprocess.run(
            [
                *(tool, "--inputDICOM", path, "--outputDirectory", tmp_path),
                *("--prefix", "back", "--outputType", "nii"),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        (written,) = tmp_path.glob("back*.nii*")
        image = nib.load(written)
        found = (np.asarray(image.dataobj), image.affine)
        expected = points((tumour(), affine.ras_from_voxel))
        assert np.allclose(points(found), expected, atol=0.11)

    def test_other_order_of_axes(self, tmp_path, series, affine):
        """A mask stored another way round than the series lands on the same voxels."""
        flip = np.eye(4)
        flip[0, 0], flip[0, 3] = -1, SHAPE[0] - 1
        other = Affine((affine.ras_from_voxel @ flip)[:, [1, 0, 2, 3]])
        mask = np.swapaxes(tumour()[::-1], 0, 1)
        straight = hd.seg.segread(write(tmp_path / "a.dcm", series, affine))
        turned = hd.seg.segread(write(tmp_path / "b.dcm", series, other, mask))
        assert np.array_equal(
            straight.get_volume(combine_segments=True).array,
            turned.get_volume(combine_segments=True).array,
        )

    def test_empty_mask(self, tmp_path, series, affine):
        """No tumour at all is a finding too."""
        path = write(tmp_path / "m.dcm", series, affine, np.zeros(SHAPE, dtype=np.uint8))
        assert not hd.seg.segread(path).get_volume(combine_segments=True).array.any()


class TestHeader:
    """Who looks at the object in a PACS can tell what made it."""

    @pytest.fixture
    def affine(self):
        """One grid will do."""
        return GRIDS["axial"]

    @pytest.mark.parametrize(
        ("origin", "kind", "name"),
        [
            (MaskOrigin.ACCEPTED, "AUTOMATIC", "mobile_sam"),
            (MaskOrigin.PROPOSED, "AUTOMATIC", "mobile_sam"),
            (MaskOrigin.CORRECTED, "SEMIAUTOMATIC", "mobile_sam, edited by hand"),
        ],
    )
    def test_algorithm(  # noqa: PLR0917 - three of them are fixtures
        self, tmp_path, series, affine, origin, kind, name
    ):
        """Algorithm type, family, name and version; the description in words."""
        seg = pydicom.dcmread(write(tmp_path / "m.dcm", series, affine, origin=origin))
        segment = seg.SegmentSequence[0]
        assert segment.SegmentAlgorithmType == kind
        who = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (who.AlgorithmName, who.AlgorithmVersion) == (name, "a" * 64)
        assert who.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
        assert seg.ContentDescription == str(origin)

    def test_form(self, tmp_path, series, affine):
        """BINARY, a frame for each slice, in the study and frame of reference of the series."""
        seg = pydicom.dcmread(write(tmp_path / "m.dcm", series, affine))
        source = read_source_series(series)[0]
        assert (seg.SegmentationType, seg.NumberOfFrames) == ("BINARY", SHAPE[2])
        assert seg.StudyInstanceUID == source.StudyInstanceUID
        assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert seg.SeriesInstanceUID != source.SeriesInstanceUID

    def test_dciodvfy(self, tmp_path, series, affine):
        """David Clunie's validator finds no error."""
        if shutil.which("dciodvfy") is None:
            pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
        path = write(tmp_path / "m.dcm", series, affine)
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


class TestRefused:
    """Nothing is written that does not fit."""

    @pytest.fixture
    def affine(self):
        """One grid will do."""
        return GRIDS["axial"]

    @pytest.mark.parametrize(
        "other",
        [grid(origin=(0, 0, 0)), grid(spacing_mm=(0.7, 0.9, 2.0)), grid(degrees=(0, 0, 3))],
    )
    def test_another_grid(self, tmp_path, series, other):
        """A mask from elsewhere is refused, not resampled."""
        with pytest.raises(DataError, match="does not lie on the grid"):
            write(tmp_path / "m.dcm", series, other)
        assert list(tmp_path.glob("*.dcm")) == []

    def test_a_slice_is_missing(self, tmp_path, affine):
        """A series with a gap is no grid."""
        folder = tmp_path / "gap"
        write_series(folder, voxels(SHAPE), affine, Study(), leave_out=(3,))
        with pytest.raises(DataError, match="does not lie on the grid"):
            write(tmp_path / "m.dcm", folder, affine)

    def test_tilted_gantry(self, tmp_path, series, affine):
        """A sheared mask cannot be said in DICOM SEG: a sentence names the tilt."""
        leaning = affine.ras_from_voxel.copy()
        leaning[:3, 2] += 0.3 * leaning[:3, 1]
        with pytest.raises(DataError, match="tilted gantry"):
            write(tmp_path / "m.dcm", series, Affine(leaning))
        assert list(tmp_path.glob("*.dcm")) == []

    def test_no_frame_of_reference(self, tmp_path, series, affine):
        """A series that says nothing of its frame of reference is named as such."""
        headers = read_source_series(series)
        for header in headers:
            del header.FrameOfReferenceUID
        how = {"origin": MaskOrigin.CORRECTED, "model": "m", "version": "1"}
        with pytest.raises(DataError, match="no FrameOfReferenceUID"):
            write_dicom_seg(tmp_path / "m.dcm", tumour(), affine, headers, **how)

    def test_a_failed_write_leaves_no_draft(self, tmp_path, series, affine, monkeypatch):
        """Whatever stops the writing, no half a file stays under a hidden name."""

        def half(_self, path, *_more, **_options):
            Path(path).write_bytes(b"half")
            raise ValueError("a value that cannot be written")

        monkeypatch.setattr(hd.seg.Segmentation, "save_as", half)
        with pytest.raises(ValueError, match="cannot be written"):
            write(tmp_path / "m.dcm", series, affine)
        assert [path.name for path in tmp_path.iterdir()] == ["series"]

    def test_two_series(self, tmp_path, series, affine):
        """Which of two series is meant is not guessed."""
        write_series(series / "more", voxels(SHAPE), affine, Study(), series="other")
        with pytest.raises(DataError, match="2 series"):
            read_source_series(series)

    def test_no_series(self, tmp_path):
        """A folder without DICOM is named."""
        (tmp_path / "note.txt").write_text("hello", encoding="utf-8")
        with pytest.raises(DataError, match="no series"):
            read_source_series(tmp_path)

    def test_nowhere_to_write(self, tmp_path, series, affine):
        """Where nothing can be written, nothing is left."""
        (tmp_path / "file").touch()
        with pytest.raises(ResourceError, match="cannot be written"):
            write(tmp_path / "file" / "m.dcm", series, affine)
