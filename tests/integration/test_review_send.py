"""`evenhand review send`: the mask that stands arrives in a real archive, and the trail knows."""

import csv
import os
import pwd
import re
import socket

import highdicom
import numpy as np
import pydicom
import pytest
from test_ui_cli import decide, review

from evenhand.dicomweb import Pacs, read_login
from evenhand.ingest.dicom.phantom import Study, write_series
from evenhand.review import LINK_COLUMNS, ReviewStore, SendingStep, sendings
from evenhand_ui.trail_files import export_run, verify_trail
from orthanc import PASSWORD, USER, needs_orthanc, running_orthanc
from review_run import AFFINE, SHAPE, make_review_run


def steps(folder):
    """What the trail holds of sendings."""
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        return [entry.record for entry in sendings(store)]


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
        assert steps(folder) == []
        entry = decide(folder)
        code, said, error = review(*send)
        assert (code, error) == (0, "")
        (stored,) = pacs.series(study)
        (uid,) = pacs.instances(study, stored)
        assert uid in said
        assert re.search(r"\b[0-9a-f]{64}\b", said)
        got = highdicom.seg.Segmentation.from_dataset(pacs.fetch(study, stored, uid))
    begun, stored = steps(folder)
    assert [begun.step, stored.step] == [SendingStep.BEGUN, SendingStep.STORED]
    assert (stored.object_uid, stored.case_id, stored.arm) == (uid, "n001", "federated")
    assert stored.sender == pwd.getpwuid(os.getuid()).pw_name
    assert stored.host == archive.address.split("/")[2]
    assert stored.mask_sha256 == entry.decision.proposed_sha256
    assert stored.decision_sha256 == entry.sha256
    assert re.search(r"\n2 steps of sendings, chain intact; .*[0-9a-f]{64}$", verify_trail(folder))
    export_run(folder, tmp_path / "out")
    table = (tmp_path / "out" / "sendings.csv").read_text(encoding="utf-8")
    _, row = csv.DictReader(table.splitlines())
    assert tuple(row) == LINK_COLUMNS["sendings"]
    assert (row["step"], row["object_uid"], row["host"]) == ("stored", uid, stored.host)
    page = (tmp_path / "out" / "decisions.html").read_text(encoding="utf-8")
    assert uid in page
    assert stored.sender in page
    out = tmp_path / "a.dcm"
    assert review("seg", folder, "n001", "--series", series, "--out", out)[0] == 0
    wanted = highdicom.seg.segread(out).get_volume().array
    assert wanted.any()
    assert np.array_equal(got.get_volume().array, wanted)


def test_archive_away(tmp_path):
    """An archive that does not answer: the trail says that it was tried, and that it failed."""
    folder, series = make_review_run(tmp_path / "run"), tmp_path / "series"
    write_series(series, np.zeros(SHAPE, dtype=np.int16), AFFINE, Study())
    decide(folder)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/dicom-web"
        code, _, error = review("send", folder, "n001", "--series", series, "--to", address)
    assert code == 1
    assert "cannot be reached" in error
    assert [one.step for one in steps(folder)] == [SendingStep.BEGUN, SendingStep.FAILED]


@pytest.mark.parametrize("address", ["http://pacs.example/dicom-web", "nowhere"])
def test_address(address, tmp_path):
    """A mask never goes over plain http, nor to what is no address."""
    code, _, error = review("send", tmp_path, "n001", "--series", tmp_path, "--to", address)
    assert code == 2
    assert "https" in error
