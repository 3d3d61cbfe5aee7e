"""`evenhand review send`: the mask that stands arrives in a real archive, and only that."""

import re

import highdicom
import numpy as np
import pydicom
import pytest
from test_ui_cli import decide, review

from evenhand.dicomweb import Pacs, read_login
from evenhand.ingest.dicom.phantom import Study, write_series
from orthanc import PASSWORD, USER, needs_orthanc, running_orthanc
from review_run import AFFINE, SHAPE, make_review_run


@needs_orthanc
def test_send(tmp_path, monkeypatch):
    """Nothing leaves before a decision; then the archive has the mask, voxel for voxel."""
    monkeypatch.setenv("EVENHAND_PACS_USER", USER)
    monkeypatch.setenv("EVENHAND_PACS_PASSWORD", PASSWORD)
    folder, series = make_review_run(tmp_path / "run"), tmp_path / "series"
    write_series(series, np.zeros(SHAPE, dtype=np.int16), AFFINE, Study())
    study = pydicom.dcmread(next(p for p in series.rglob("*") if p.is_file())).StudyInstanceUID
    decide(folder, case_id="n002")
    (tmp_path / "pacs").mkdir()
    with running_orthanc(tmp_path / "pacs") as archive:
        pacs = Pacs(archive.address, read_login(None))
        send = ("send", folder, "n001", "--series", series, "--to", archive.address)
        code, _, error = review(*send)
        assert code == 1
        assert "not decided yet" in error
        assert pacs.series(study) == []
        decide(folder)
        code, said, error = review(*send)
        assert (code, error) == (0, "")
        (stored,) = pacs.series(study)
        (uid,) = pacs.instances(study, stored)
        assert uid in said
        assert re.search(r"\b[0-9a-f]{64}\b", said)
        got = highdicom.seg.Segmentation.from_dataset(pacs.fetch(study, stored, uid))
    out = tmp_path / "a.dcm"
    assert review("seg", folder, "n001", "--series", series, "--out", out)[0] == 0
    wanted = highdicom.seg.segread(out).get_volume().array
    assert wanted.any()
    assert np.array_equal(got.get_volume().array, wanted)


@pytest.mark.parametrize("address", ["http://pacs.example/dicom-web", "nowhere"])
def test_address(address, tmp_path):
    """A mask never goes over plain http, nor to what is no address."""
    code, _, error = review("send", tmp_path, "n001", "--series", tmp_path, "--to", address)
    assert code == 2
    assert "https" in error
