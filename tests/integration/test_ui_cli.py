"""`evenhand review` at the command line: what it refuses, what it checks, what it hands out."""

import csv
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import highdicom
import numpy as np
import pytest

from evenhand.cases.hashing import array_sha256
from evenhand.cases.nifti import write_nifti
from evenhand.errors import DataError, ResourceError, ReviewError, UsageError
from evenhand.export import read_source_series
from evenhand.ingest.dicom.phantom import Study, write_series
from evenhand.review import TRAIL_COLUMNS, Decision, Reason, ReviewStore, Verdict
from evenhand_ui.cli import _review, check_port_is_free
from evenhand_ui.dicom_out import write_report
from evenhand_ui.masks import keep_correction, name_correction, read_mask
from evenhand_ui.oidc import check_settings
from evenhand_ui.options import STREAMLIT_OPTIONS
from evenhand_ui.runs import ReviewRun
from evenhand_ui.trail_files import export_run, verify_trail
from review_run import AFFINE, SHAPE, make_review_run, proposed_mask
from review_schemas import behind

UI = Path(__file__).parents[2] / "ui"

SECRETS = """
[auth]
redirect_uri = "http://127.0.0.1:8501/oauth2callback"
cookie_secret = "0123456789abcdef0123456789abcdef-made-up"
client_id = "evenhand"
client_secret = "made-up"
server_metadata_url = "http://127.0.0.1:1/.well-known/openid-configuration"
"""


@pytest.fixture
def folder(tmp_path):
    """A run folder without decisions."""
    return make_review_run(tmp_path / "run")


def decide(folder, **changes):
    """Record a decision about case n001."""
    fields = {
        "case_id": "n001",
        "hospital": "north",
        "arm": "federated",
        "verdict": Verdict.ACCEPT,
        "reader": "Dr. Lee",
        "proposed_sha256": array_sha256(proposed_mask()),
        "seconds": 1.0,
        "slices_seen": (3,),
    }
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        return store.append(Decision(**(fields | changes)))


def review(*arguments):
    """Run the command as a person does."""
    command = [Path(sys.executable).with_name("evenhand"), "review", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    # The terminal wraps lines where it likes.
    return done.returncode, done.stdout, " ".join(done.stderr.split())


class TestPort:
    """A port that is taken is found before anything starts."""

    def test_busy_port(self, folder):
        """Exit 1, the port is named, and so is the command that chooses another."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            code, out, error = review(folder, "--port", port, "--no-browser")
        assert (code, out) == (1, "")
        assert f"Port {port} cannot be used" in error
        assert re.search(r"evenhand review \S+ --port \d+", error)
        assert "Traceback" not in error

    def test_highest_port_offers_a_possible_one(self, tmp_path):
        """The port that is offered instead exists: after 65535 comes no 65536."""
        with socket.socket() as other:
            try:
                other.bind(("127.0.0.1", 65535))
            except OSError:
                pytest.skip("port 65535 is taken on this machine")
            other.listen()
            with pytest.raises(ResourceError, match="--port 8501"):
                check_port_is_free(65535, tmp_path)

    def test_free_port(self, tmp_path):
        """A port that nothing listens on is let through."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        check_port_is_free(port, tmp_path)


class TestLogin:
    """A login that cannot work is refused before the page starts."""

    @pytest.fixture
    def secrets(self, tmp_path, monkeypatch):
        """Streamlit's file with secrets, of which there are two places; Authlib is there."""
        path = tmp_path / "secrets.toml"
        places = [str(tmp_path / "home.toml"), str(path)]
        monkeypatch.setattr("streamlit.get_option", lambda _: places)
        monkeypatch.setattr("evenhand_ui.oidc.find_spec", lambda name: name)
        return path

    def test_oidc_without_its_package(self, secrets, monkeypatch):
        """The package and the command that installs it are named."""
        secrets.write_text(SECRETS, encoding="utf-8")
        monkeypatch.setattr("evenhand_ui.oidc.find_spec", lambda _: None)
        with pytest.raises(UsageError, match=r"evenhand\[oidc\]"):
            check_settings()

    def test_oidc_with_all_it_needs(self, secrets):
        """Where package and settings are there, nothing is said; the later place counts."""
        secrets.with_name("home.toml").write_text("[auth]", encoding="utf-8")
        secrets.write_text(SECRETS, encoding="utf-8")
        check_settings()

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (None, r"settings are missing: write .*home.toml' or .*secrets.toml'"),
            ("[other]", "settings are missing"),
            ("auth = 1", "lacks redirect_uri, cookie_secret"),
            ("[auth", "no TOML"),
            (SECRETS.replace("client_secret", "secret"), r"lacks client_secret\."),
            (SECRETS.replace('"evenhand"', '""'), r"lacks client_id\."),
            (SECRETS.replace("/oauth2callback", ""), "oauth2callback at its end"),
            (SECRETS.replace("0123456789abcdef-made-up", ""), "32 characters or more"),
        ],
    )
    def test_oidc_settings(self, secrets, text, why):
        """What is missing or wrong in them is named at the start, and no secret is repeated."""
        if text is not None:
            secrets.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=why) as caught:
            check_settings()
        assert "made-up" not in str(caught.value)

    def test_asked_at_the_start(self, folder, secrets):
        """The command asks before it starts a page, and only where the rules want such a login."""
        (folder / "review").mkdir()
        (folder / "review" / "rules.toml").write_text('login = "oidc"', encoding="utf-8")
        assert not secrets.exists()
        with pytest.raises(UsageError, match="settings are missing"):
            _review(folder, None, 8501, no_browser=True, rules=None)


class TestRun:
    """Wrong use is exit 2 with one sentence."""

    def test_unknown_arm(self, folder):
        """The arms that could be reviewed are named."""
        code, _, error = review(folder, "--arm", "pooled")
        assert code == 2
        assert "'pooled'" in error
        assert "federated" in error

    def test_no_folder(self, tmp_path):
        """A folder that is not there is named."""
        code, _, error = review(tmp_path / "gone")
        assert code == 2
        assert "no run folder" in error


class TestVerify:
    """`verify` tells whether the trail is as it was written."""

    def test_intact(self, folder):
        """Number of decisions, and the last hash to note elsewhere."""
        decide(folder)
        head = decide(folder, verdict=Verdict.WITHDRAW).sha256
        code, out, _ = review("verify", folder)
        assert code == 0
        assert out == f"2 decisions, chain intact; hash of the last one: {head}\n"

    def test_not_reviewed_yet(self, folder):
        """A run without decisions is not made a database by looking."""
        assert verify_trail(folder).startswith("0 decisions")
        assert not (folder / "review").exists()

    def test_no_run(self, tmp_path):
        """A folder that is not there has no trail, and is not called empty."""
        with pytest.raises(UsageError, match="no run folder"):
            verify_trail(tmp_path / "gone")

    def test_broken_chain(self, folder):
        """The position of the break is named."""
        for _ in range(3):
            decide(folder)
        behind(
            folder / "review" / "review.sqlite",
            "UPDATE decisions SET reader = 'Dr. No' WHERE position = 2",
        )
        with pytest.raises(ReviewError, match="3 decisions, chain broken at decision 2"):
            verify_trail(folder)

    def test_changed_correction(self, folder):
        """The chain covers the corrected masks as well: each must still have its hash."""
        case = ReviewRun.open(folder).case("n001")
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        name, sha256 = name_correction(case, mask)
        path = folder / "review" / name
        keep_correction(path, case, mask)
        decide(
            folder,
            verdict=Verdict.CORRECT,
            reason=Reason.BOUNDARY,
            corrected_path=name,
            corrected_sha256=sha256,
        )
        assert verify_trail(folder).startswith("1 decisions, chain intact")
        write_nifti(path, proposed_mask(), AFFINE)
        with pytest.raises(DataError, match="of decision 1 was changed"):
            verify_trail(folder)


def correct(folder, mask):
    """Record a correction of case n001 as the page does."""
    case = ReviewRun.open(folder).case("n001")
    name, sha256 = name_correction(case, mask)
    keep_correction(folder / "review" / name, case, mask)
    return decide(
        folder,
        verdict=Verdict.CORRECT,
        reason=Reason.BOUNDARY,
        corrected_path=name,
        corrected_sha256=sha256,
    )


def changed_mask():
    """The proposal and one voxel more."""
    mask = proposed_mask()
    mask[0, 0, 0] = 1
    return mask


class TestExport:
    """`export` hands out decisions and the masks that stand."""

    def test_all_of_it(self, folder, tmp_path):
        """Table, page, and the mask of each accepted or corrected case; rejected ones stay."""
        decide(folder, case_id="n002")
        correct(folder, changed_mask())
        decide(
            folder,
            case_id="s001",
            hospital="south",
            verdict=Verdict.REJECT,
            reason=Reason.OTHER,
            comment="=cmd()<script>",
        )
        out = tmp_path / "out"
        code, said, error = review("export", folder, "--out", out)
        assert (code, error) == (0, "")
        assert "3 decisions, 2 masks accepted or corrected" in " ".join(said.split())
        rows = list(csv.DictReader((out / "decisions.csv").read_text("utf-8").splitlines()))
        assert [row["case_id"] for row in rows] == ["n002", "n001", "s001"]
        assert tuple(rows[0]) == TRAIL_COLUMNS
        assert rows[2]["comment"] == "'=cmd()<script>", "no formula for a spreadsheet"
        page = (out / "decisions.html").read_text(encoding="utf-8")
        assert "The chain is intact" in page
        assert "<script>" not in page
        assert sorted(path.name for path in (out / "masks").iterdir()) == [
            "n001.nii.gz",
            "n002.nii.gz",
        ]
        case = ReviewRun.open(folder).case("n001")
        assert np.array_equal(read_mask(out / "masks" / "n001.nii.gz", case), changed_mask())

    def test_changed_correction(self, folder, tmp_path):
        """A corrected mask that is no longer the recorded one does not leave."""
        entry = correct(folder, changed_mask())
        write_nifti(folder / "review" / entry.decision.corrected_path, proposed_mask(), AFFINE)
        with pytest.raises(DataError, match="of decision 1 was changed"):
            export_run(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_mask_that_stands_no_longer(self, folder, tmp_path):
        """A second export takes away what was withdrawn, and nothing that is not its own."""
        out = tmp_path / "out"
        decide(folder)
        export_run(folder, out)
        (out / "masks" / "other.nii.gz").touch()
        decide(folder, verdict=Verdict.WITHDRAW)
        export_run(folder, out)
        assert [path.name for path in (out / "masks").iterdir()] == ["other.nii.gz"]

    def test_broken_chain_is_said(self, folder, tmp_path):
        """A trail that was changed is exported as such, and the command fails."""
        decide(folder)
        decide(folder, reader="Dr. No")
        behind(
            folder / "review" / "review.sqlite",
            "UPDATE decisions SET reader = 'Dr. Who' WHERE position = 1",
        )
        out = tmp_path / "out"
        with pytest.raises(ReviewError, match="chain broken at decision 1"):
            export_run(folder, out)
        assert "broken at decision 1" in (out / "decisions.html").read_text(encoding="utf-8")

    def test_not_reviewed(self, folder, tmp_path):
        """A run that nobody reviewed is not made a database by asking."""
        with pytest.raises(UsageError, match="not been reviewed"):
            export_run(folder, tmp_path / "out")
        assert not (folder / "review").exists()


@pytest.fixture
def series(tmp_path):
    """The DICOM series that case n001 could have come from."""
    write_series(tmp_path / "series", np.zeros(SHAPE, dtype=np.int16), AFFINE, Study())
    return tmp_path / "series"


class TestReport:
    """`report` writes a mask and its measurements together, or neither."""

    def write(self, folder, series, out):
        """Write the report of case n001."""
        run = ReviewRun.open(folder)
        with ReviewStore(run.database) as store:
            return write_report(run, store, "n001", read_source_series(series), out)

    def test_both_are_written(self, folder, series, tmp_path):
        """The report names the mask beside it, and its reader as not verified."""
        decide(folder)
        assert self.write(folder, series, tmp_path / "out") == 1
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names == {"n001_mask.dcm", "n001_report.dcm"}
        seg = highdicom.seg.segread(tmp_path / "out" / "n001_mask.dcm")
        report = highdicom.sr.srread(tmp_path / "out" / "n001_report.dcm")
        (whole,) = report.content.get_volumetric_roi_measurement_groups()
        assert whole.referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert "Dr. Lee (unverified)" in str(report)

    def test_nothing_to_measure_leaves_nothing(self, folder, series, tmp_path):
        """A mask without a tumour has no report, so no mask is left without one."""
        correct(folder, np.zeros(SHAPE, dtype=np.uint8))
        with pytest.raises(DataError, match="no tumour"):
            self.write(folder, series, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_report_that_fails_leaves_no_mask(self, folder, series, tmp_path, monkeypatch):
        """Where the report cannot be written the mask does not stay alone."""
        decide(folder)

        def failing(*_, **__):
            raise ResourceError("no space")

        monkeypatch.setattr("evenhand_ui.dicom_out.write_dicom_sr", failing)
        with pytest.raises(ResourceError, match="no space"):
            self.write(folder, series, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


class TestSeg:
    """`seg` writes what the latest decision leaves, and says what it is."""

    @staticmethod
    def seg(folder, series, out):
        """Run the command; the object it wrote."""
        code, said, error = review("seg", folder, "n001", "--series", series, "--out", out)
        assert (code, error) == (0, "")
        return " ".join(said.split()), highdicom.seg.segread(out)

    def test_corrected(self, folder, series, tmp_path):
        """A corrected mask is SEMIAUTOMATIC and has the corrected voxels."""
        correct(folder, changed_mask())
        said, seg = self.seg(folder, series, tmp_path / "a.dcm")
        assert "corrected by a reader" in said
        assert seg.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
        assert np.count_nonzero(seg.get_volume().array) == np.count_nonzero(changed_mask())

    def test_accepted_and_withdrawn(self, folder, series, tmp_path):
        """An accepted mask is the model's; one that is open again is called not reviewed."""
        decide(folder)
        said, seg = self.seg(folder, series, tmp_path / "a.dcm")
        assert "accepted by a reader" in said
        assert seg.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
        decide(folder, verdict=Verdict.WITHDRAW)
        assert "not reviewed" in self.seg(folder, series, tmp_path / "b.dcm")[0]

    def test_rejected(self, folder, series, tmp_path):
        """A rejected mask does not leave."""
        decide(folder, verdict=Verdict.REJECT, reason=Reason.BOUNDARY)
        out = tmp_path / "a.dcm"
        code, _, error = review("seg", folder, "n001", "--series", series, "--out", out)
        assert code == 1
        assert "not for its mask" in error
        assert not out.exists()


def test_both_ways_to_start_set_the_same_options():
    """`streamlit run ui/app.py` is set as `evenhand review` is: loopback, no links, no details."""
    text = (UI / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    options = {
        f"{section}.{name}": value
        for section, values in tomllib.loads(text).items()
        for name, value in values.items()
    }
    assert options == STREAMLIT_OPTIONS
    assert options["server.address"] == "127.0.0.1"
    assert options["client.showErrorDetails"] == "none"
    assert options["client.showErrorLinks"] is False
