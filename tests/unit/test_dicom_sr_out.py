"""Measurements leave as a structured report (TID 1500) that others read without a fault."""

import shutil
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_reading import grid, voxels

from evenhand.errors import DataError
from evenhand.export import MaskOrigin, read_source_series, write_dicom_seg, write_dicom_sr
from evenhand.ingest.dicom.phantom import Study, write_series
from evenhand.metrics.lesion_sizes import measure_lesions

SHAPE = (13, 11, 7)


@pytest.fixture
def written(tmp_path):
    """SEG and report of a mask with two lesions; the lesions as they were measured."""
    affine = grid(degrees=(10, -20, 35))
    folder = tmp_path / "series"
    write_series(folder, voxels(SHAPE), affine, Study())
    series = read_source_series(folder)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[2:5, 3:9, 1:4] = 1
    mask[9:11, 1, 6] = 1
    seg, report = tmp_path / "mask.dcm", tmp_path / "report.dcm"
    write_dicom_seg(seg, mask, affine, series, origin=MaskOrigin.CORRECTED, model="m", version="1")
    lesions = measure_lesions(mask, affine)
    write_dicom_sr(report, seg, series, lesions, observer="Dr. J. Lee")
    return seg, report, lesions


def values(group):
    """A group's measurements by name."""
    return {one.name.meaning: float(one.value) for one in group.get_measurements()}


def test_read_back(written):
    """Read by highdicom: the whole names the segment, each lesion has its figures, and who said."""
    seg, path, lesions = written
    report = hd.sr.srread(path)
    (whole,) = report.content.get_volumetric_roi_measurement_groups()
    total = sum(one.volume_mm3 for one in lesions)
    assert values(whole) == {"Volume": pytest.approx(total, abs=0.01)}
    assert whole.referenced_segment.referenced_sop_instance_uid == (
        pydicom.dcmread(seg).SOPInstanceUID
    )
    groups = report.content.get_image_measurement_groups()
    assert [values(group) for group in groups] == [
        {
            "Volume": pytest.approx(one.volume_mm3, abs=0.01),
            "Long Axis": pytest.approx(one.long_axis_mm, abs=0.01),
            "Short Axis": pytest.approx(one.short_axis_mm, abs=0.01),
        }
        for one in lesions
    ]
    assert "Dr. J. Lee" in str(pydicom.dcmread(path))


def test_dciodvfy(written):
    """The checker of DICOM objects finds no error."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools)")
    done = subprocess.run([tool, written[1]], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "SR" in said
    assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_nothing_to_measure(written, tmp_path):
    """Without a lesion there is no report."""
    with pytest.raises(DataError, match="nothing to measure"):
        write_dicom_sr(tmp_path / "x.dcm", written[0], [], [], observer="A")
    assert not (tmp_path / "x.dcm").exists()
