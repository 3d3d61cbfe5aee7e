"""The review page without a browser: what a reader can and cannot do, and what is recorded."""

import gzip
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from evenhand.cases.store import array_sha256
from evenhand.review import Reason, ReviewStore, Verdict
from evenhand_ui.masks import read_mask
from evenhand_ui.options import ARM_VARIABLE, RUN_VARIABLE
from evenhand_ui.runs import ReviewRun
from review_run import AFFINE, SHAPE, TUMOUR_SLICES, make_review_run, proposed_mask

APP = Path(__file__).parents[2] / "ui" / "app.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run folder, named to the page as `evenhand review` does."""
    folder = make_review_run(tmp_path / "run", arms=("federated", "pooled"), empty=("n002",))
    monkeypatch.setenv(RUN_VARIABLE, str(folder))
    monkeypatch.delenv(ARM_VARIABLE, raising=False)
    return folder


def open_page():
    """Run the page once."""
    page = AppTest.from_file(APP, default_timeout=30).run()
    assert not page.exception
    return page


def widget(kind, name):
    """The widget whose key starts with `name`: keys end in the case and its mask's hash."""
    found = [one for one in kind if one.key is not None and one.key.startswith(f"{name}-")]
    assert len(found) == 1, f"{len(found)} widgets for '{name}'"
    return found[0]


def open_case(page, case_id="n001", reader="Dr. Lee"):
    """Write a name and open a case."""
    page.text_input(key="reader").set_value(reader).run()
    page.button(key=f"open-{case_id}").click().run()
    assert not page.exception
    return page


def see_all(page):
    """Look at every slice that must be seen."""
    while not widget(page.button, "Next unseen").disabled:
        widget(page.button, "Next unseen").click().run()
    return page


def entries(folder):
    """What was recorded."""
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        assert store.verify().broken_at is None
        return store.entries()


def upload(page, voxels, affine=AFFINE.ras_from_voxel):
    """Upload a NIfTI file as the corrected mask."""
    content = gzip.compress(nib.Nifti1Image(voxels, affine).to_bytes())
    widget(page.file_uploader, "upload").set_value(("mine.nii.gz", content, "application/gzip"))
    return page.run()


@pytest.mark.usefixtures("folder")
class TestWorklist:
    """The list of cases."""

    def test_lists_cases_and_counts(self):
        """Every case has a row, and each state its count."""
        page = open_page()
        assert [metric.value for metric in page.metric] == ["3", "0", "0", "0"]
        assert {"n001", "n002", "s001"} <= {text.value for text in page.text}

    def test_filter_by_hospital(self):
        """A filter leaves the rows that fit it."""
        page = open_page()
        page.multiselect(key="hospitals").set_value(["south"]).run()
        shown = {text.value for text in page.text}
        assert "s001" in shown
        assert not {"n001", "n002"} & shown

    def test_says_what_it_is(self):
        """The page says that names are not verified and that it is no clinical tool."""
        words = " ".join(one.value for one in open_page().sidebar.markdown)
        assert "not verified" in words
        assert "Not for clinical use" in words

    def test_arm_from_the_command(self, monkeypatch):
        """The arm that `evenhand review --arm` names is the one that is reviewed."""
        monkeypatch.setenv(ARM_VARIABLE, "pooled")
        assert any("pooled" in one.value for one in open_page().sidebar.caption)

    def test_without_a_run(self, monkeypatch):
        """Started by hand without a run, the page says how to start it."""
        monkeypatch.delenv(RUN_VARIABLE, raising=False)
        assert "evenhand review RUN" in open_page().error[0].value

    def test_damaged_mask(self, folder, caplog):
        """A damaged file is a sentence without paths in the browser, and its name in the log."""
        (folder / "arms/federated/masks/n001.nii.gz").write_bytes(b"broken")
        with caplog.at_level(logging.ERROR):
            page = open_page()
        assert str(folder) not in page.error[0].value
        assert "terminal" in page.error[0].value
        assert "n001.nii.gz" in caplog.text


@pytest.mark.usefixtures("folder")
class TestAccept:
    """Automation bias: nobody accepts what nobody has seen."""

    def test_closed_until_all_tumour_was_seen(self):
        """Accept opens in the step that shows the last slice with proposed tumour, not before."""
        page = open_case(open_page())
        # It opens on the largest area, which is k = 3, the fourth slice.
        assert widget(page.slider, "slice").value == 4
        for _ in range(len(TUMOUR_SLICES) - 1):
            assert widget(page.button, "accept").disabled
            widget(page.button, "Next unseen").click().run()
        assert not widget(page.button, "accept").disabled

    def test_slider_counts_as_seeing(self):
        """It does not matter how a slice came up."""
        page = open_case(open_page())
        for number in (3, 5):
            widget(page.slider, "slice").set_value(number).run()
        assert not widget(page.button, "accept").disabled

    def test_hidden_mask_does_not_count(self):
        """Looking at the bare image does not open Accept: it is the mask that is accepted."""
        page = open_case(open_page())
        widget(page.button, "hide").click().run()
        for number in (3, 5):
            widget(page.slider, "slice").set_value(number).run()
        assert widget(page.button, "accept").disabled

    def test_empty_proposal_wants_all_slices(self):
        """Where nothing is proposed, every slice could hold a missed tumour."""
        page = open_case(open_page(), "n002")
        for number in range(1, SHAPE[2] + 1):
            assert widget(page.button, "accept").disabled
            widget(page.slider, "slice").set_value(number).run()
        assert not widget(page.button, "accept").disabled

    def test_decision_lands_in_the_database(self, folder):
        """What was decided, by whom, about which voxels, after which slices, is recorded."""
        page = see_all(open_case(open_page()))
        widget(page.button, "accept").click().run()
        (entry,) = entries(folder)
        decision = entry.decision
        assert (decision.case_id, decision.hospital, decision.arm) == ("n001", "north", "federated")
        assert (decision.verdict, decision.reader) == (Verdict.ACCEPT, "Dr. Lee")
        assert decision.proposed_sha256 == array_sha256(proposed_mask())
        assert decision.slices_seen == TUMOUR_SLICES
        assert decision.seconds >= 0

    def test_next_open_case_follows(self):
        """After a decision the next open case is there, with nothing seen of it yet."""
        page = see_all(open_case(open_page()))
        widget(page.button, "accept").click().run()
        assert any("n002" in one.value for one in page.markdown)
        assert widget(page.button, "accept").disabled

    def test_needs_a_name(self):
        """Without a reader's name nothing can be decided."""
        page = see_all(open_case(open_page(), reader="  "))
        assert widget(page.button, "accept").disabled
        assert widget(page.button, "reject").disabled
        assert any("name" in one.value for one in page.info)

    def test_last_case_leads_back(self, folder):
        """When all is decided the reader is told so."""
        page = open_page()
        page.text_input(key="reader").set_value("Dr. Lee").run()
        page.button[0].click().run()
        for _ in range(3):
            widget(see_all(page).button, "accept").click().run()
        assert len(entries(folder)) == 3
        assert page.success[0].value == "All cases are decided."


class TestReject:
    """A rejection says why."""

    def test_needs_a_reason(self, folder):
        """Without a reason nothing is recorded, and the page says what is missing."""
        page = open_case(open_page())
        widget(page.button, "reject").click().run()
        assert page.error[0].value == "To reject a mask, choose a reason."
        assert entries(folder) == []

    def test_with_a_reason(self, folder):
        """Code and comment are recorded; a rejection need not wait for all slices."""
        page = open_case(open_page())
        widget(page.selectbox, "reason").set_value(Reason.WRONG_SIDE).run()
        widget(page.text_area, "comment").set_value("mirror image").run()
        widget(page.button, "reject").click().run()
        (entry,) = entries(folder)
        assert (entry.decision.verdict, entry.decision.reason) == (
            Verdict.REJECT,
            Reason.WRONG_SIDE,
        )
        assert entry.decision.comment == "mirror image"

    def test_reason_speaks_against_accepting(self, folder):
        """Who has chosen a reason and presses Accept is asked, not obeyed."""
        page = see_all(open_case(open_page()))
        widget(page.selectbox, "reason").set_value(Reason.BOUNDARY).run()
        widget(page.button, "accept").click().run()
        assert "remove it" in page.error[0].value
        assert entries(folder) == []


class TestCorrect:
    """A corrected mask comes in as a file."""

    def test_bad_mask_gets_its_sentence(self, folder):
        """A mask that does not fit is refused in words, and cannot be recorded."""
        page = open_case(open_page())
        upload(page, np.ones((3, 4, 5), dtype=np.uint8))
        assert "3 x 4 x 5 voxels where the case has 24 x 20 x 6" in page.error[0].value
        assert widget(page.button, "correct").disabled
        upload(page, proposed_mask() * 7)
        assert "values other than 0" in page.error[0].value
        assert entries(folder) == []

    def test_good_mask_is_kept(self, folder):
        """The corrected voxels are kept beside the database under their recorded hash."""
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        page = upload(open_case(open_page()), mask)
        assert not page.error
        widget(page.selectbox, "reason").set_value(Reason.MISSED_TUMOUR).run()
        widget(page.button, "correct").click().run()
        (entry,) = entries(folder)
        assert entry.decision.verdict is Verdict.CORRECT
        assert entry.decision.corrected_sha256 == array_sha256(mask)
        case = ReviewRun.open(folder).case("n001")
        kept = read_mask(folder / "review" / entry.decision.corrected_path, case)
        assert np.array_equal(kept, mask)

    def test_without_a_reason_nothing_is_kept(self, folder):
        """A correction that is not recorded leaves no file either."""
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        page = upload(open_case(open_page()), mask)
        widget(page.button, "correct").click().run()
        assert page.error[0].value == "To correct a mask, choose a reason."
        assert entries(folder) == []
        assert not (folder / "review" / "corrected").exists()

    def test_upload_is_not_forgotten(self, folder):
        """Who has uploaded a correction and presses Accept would lose it, and is stopped."""
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        page = see_all(upload(open_case(open_page()), mask))
        widget(page.button, "accept").click().run()
        assert "record the correction" in page.error[0].value
        assert entries(folder) == []


class TestUndo:
    """A decision is taken back by another one."""

    def test_withdraw(self, folder):
        """The case is open again and its history shows both."""
        page = see_all(open_case(open_page()))
        widget(page.button, "accept").click().run()
        page.button[0].click().run()  # Worklist
        page.button(key="open-n001").click().run()
        widget(page.button, "withdraw").click().run()
        assert [e.decision.verdict for e in entries(folder)] == [Verdict.ACCEPT, Verdict.WITHDRAW]
        history = [text.value for text in page.text if text.value[:2] in {"1.", "2."}]
        assert len(history) == 2
        assert widget(page.button, "accept").disabled, "it must be looked at anew"
