"""The review page without a browser: what a reader can and cannot do, and what is recorded."""

import gzip
import json
import logging
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from streamlit.runtime.context import ContextProxy
from streamlit.testing.v1 import AppTest

from evenhand.review import Decision, Reason, ReviewStore, Verdict
from evenhand_ui.deciding import corrected_mask, decide
from evenhand_ui.office import office_of
from evenhand_ui.options import ARM_VARIABLE, RUN_VARIABLE
from evenhand_ui.tickets import READ, WRITE
from review_answers import about_its_boundary
from review_run import AFFINE, SHAPE, TUMOUR_SLICES, make_review_run, proposed_mask

APP = Path(__file__).parents[2] / "ui" / "evenhand_ui" / "script.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run folder, named to the page as `evenhand review` does."""
    folder = make_review_run(tmp_path / "run", arms=("federated", "pooled"), empty=("n002",))
    monkeypatch.setenv(RUN_VARIABLE, str(folder))
    monkeypatch.delenv(ARM_VARIABLE, raising=False)
    return folder


@pytest.fixture(autouse=True)
def cookies(monkeypatch):
    """The browser's cookies, which AppTest does not know."""
    jar = {}
    monkeypatch.setattr(ContextProxy, "cookies", property(lambda _: jar))
    return jar


def open_page():
    """Run the page once."""
    page = AppTest.from_file(APP, default_timeout=300).run()
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


def button(page, label):
    """The button with this label."""
    (found,) = [one for one in page.button if one.label == label]
    return found


def viewer_data(page):
    """What the page hands to the viewer."""
    (found,) = [one for one in page.main if one.type == "bidi_component"] or list(
        viewers(page.main)
    )
    return json.loads(found.proto.json)


def viewers(block):
    """The viewer, however deep in columns and fragments."""
    for child in block.children.values():
        if getattr(child, "proto", None) is not None and hasattr(child.proto, "component_name"):
            yield child
        elif hasattr(child, "children"):
            yield from viewers(child)


def office(folder):
    """The run as page and routes of this process share it."""
    return office_of(folder, None, None)


def grant(folder, page):
    """What the page's ticket allows."""
    data = viewer_data(page)
    return office(folder).tickets.check(data["ticket"], data["case"], READ, now_s=time.time())


def draft(folder, reader="Dr. Lee"):
    """The reader's draft of case n001."""
    return office(folder).drafts.read(office(folder).reading("n001", reader).place)


def accept(folder, case_id):
    """Record an acceptance, as the route does."""
    item = office(folder).reading(case_id, "Dr. Lee")
    office(folder).store.append(
        Decision(
            case_id=case_id,
            hospital=item.case.patient.hospital,
            arm="federated",
            verdict=Verdict.ACCEPT,
            reader="Dr. Lee",
            proposed_sha256=item.proposal.sha256,
            seconds=1.0,
            slices_seen=TUMOUR_SLICES,
        )
    )


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
        assert [metric.value for metric in page.metric] == ["3", "0", "0", "0", "0"]
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


class TestWho:
    """Nobody works without a name, and two readers do not work on one case unawares."""

    @pytest.mark.usefixtures("folder")
    def test_needs_a_name(self):
        """Without a reader's name no case opens."""
        page = open_page()
        page.text_input(key="reader").set_value("  ").run()
        assert page.button(key="open-n001").disabled
        assert any("name" in one.value for one in page.info)

    def test_second_reader_looks_only(self, folder):
        """Who comes second is told who has the case, may look, and may take it over."""
        open_case(open_page())
        second = open_case(open_page(), reader="Dr. No")
        assert "Dr. Lee has had this case open" in second.warning[0].value
        assert not second.file_uploader
        assert grant(folder, second).action == READ
        button(second, "Take the case over").click().run()
        assert not second.warning
        assert grant(folder, second).action == WRITE

    @pytest.mark.usefixtures("folder")
    def test_worklist_shows_who_reads(self):
        """A case that somebody has open says so; one that was left does not."""
        first = open_case(open_page())
        other = open_page()
        other.text_input(key="reader").set_value("Dr. No").run()
        assert any("Dr. Lee reads it now" in text.value for text in other.text)
        button(first, "Worklist").click().run()
        assert not any("reads it now" in text.value for text in other.run().text)

    @pytest.mark.usefixtures("folder")
    def test_filter_by_reader(self, folder):
        """The list can be narrowed to what one reader has decided."""
        accept(folder, "n001")
        page = open_page()
        page.multiselect(key="readers").set_value(["Dr. Lee"]).run()
        shown = {text.value for text in page.text}
        assert "n001" in shown
        assert "s001" not in shown


class TestCase:
    """An open case: the viewer's data, and no more."""

    def test_viewer_gets_what_it_needs(self, folder):
        """Geometry, slices to see, reasons, and names that tell nothing."""
        data = viewer_data(open_case(open_page()))
        assert data["shape"] == list(SHAPE)
        assert data["letters"] == [["L", "R"], ["P", "A"], ["I", "S"]]
        assert data["must"] == data["missing"] == list(TUMOUR_SLICES)
        assert [code for code, _ in data["reasons"]] == [reason.value for reason in Reason]
        assert not {"n001", "p-n001", "north"} & set(map(str, data.values()))

    def test_address_has_no_case_id(self, folder):
        """The address names the case by its opaque name, and leads back to it."""
        page = open_case(open_page())
        opaque = page.query_params["case"]
        assert opaque == viewer_data(page)["case"]
        again = AppTest.from_file(APP, default_timeout=300)
        again.query_params["case"] = opaque
        again.run()
        again.text_input(key="reader").set_value("Dr. Lee").run()
        assert viewer_data(again.run())["case"] == opaque

    @pytest.mark.usefixtures("folder")
    @pytest.mark.parametrize("case", ["n001", "../../x", "0" * 20])
    def test_address_that_was_made_up(self, case):
        """An address that was never handed out leads to the worklist."""
        page = AppTest.from_file(APP, default_timeout=300)
        page.query_params["case"] = case
        page.run()
        assert not page.exception
        assert page.metric

    @pytest.mark.usefixtures("folder")
    def test_skip(self):
        """The next open case comes without a decision, and the one before is given back."""
        page = open_case(open_page())
        button(page, "Skip to the next open case").click().run()
        assert any("n002" in one.value for one in page.markdown)

    @pytest.mark.usefixtures("folder")
    def test_reload_comes_back(self, cookies):
        """After a reload the same reader is at the same case; a forged cookie is nobody."""
        before = viewer_data(open_case(open_page()))
        for cookie, known in ((before["readerCookie"], True), ("RHIuIE5v.00", False)):
            cookies["evenhand_reader"] = cookie
            page = AppTest.from_file(APP, default_timeout=300)
            page.query_params["case"] = before["case"]
            page.run()
            assert (len(list(viewers(page.main))) == 1) is known


class TestFiles:
    """A mask that was drawn elsewhere comes in as a file and becomes the draft."""

    def test_bad_mask_gets_its_sentence(self, folder):
        """A mask that does not fit is refused in words, and is no draft."""
        page = open_case(open_page())
        upload(page, np.ones((3, 4, 5), dtype=np.uint8))
        assert "3 x 4 x 5 voxels where the case has 24 x 20 x 6" in page.error[0].value
        upload(page, proposed_mask() * 7)
        assert "values other than 0" in page.error[0].value
        assert draft(folder).revision == 0

    def test_good_mask_is_the_draft(self, folder):
        """The uploaded voxels are what the viewer shows as the reader's own."""
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        page = upload(open_case(open_page()), mask)
        assert not page.error
        reading = office(folder).reading("n001", "Dr. Lee")
        assert np.array_equal(corrected_mask(office(folder), reading), mask)


class TestHistory:
    """A decision is taken back by another one, and a correction can be gone on with."""

    def test_withdraw(self, folder):
        """The case is open again and its history shows both."""
        accept(folder, "n001")
        page = open_case(open_page())
        page.button(key="withdraw").click().run()
        assert [e.decision.verdict for e in entries(folder)] == [Verdict.ACCEPT, Verdict.WITHDRAW]
        history = [text.value for text in page.text if text.value[:2] in {"1.", "2."}]
        assert len(history) == 2
        assert "accepted" in history[1]

    def test_withdraw_drops_no_work(self, folder):
        """What the reader has painted since is not thrown away: withdrawing says so and waits."""
        accept(folder, "n001")
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        page = upload(open_case(open_page()), mask)
        page.button(key="withdraw").click().run()
        assert "painted something that is not recorded" in page.error[0].value
        assert [e.decision.verdict for e in entries(folder)] == [Verdict.ACCEPT]
        reading = office(folder).reading("n001", "Dr. Lee")
        assert np.array_equal(corrected_mask(office(folder), reading), mask)

    def test_withdraw_of_a_correction(self, folder):
        """The draft that only repeats the recorded correction is no work that would be lost."""
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        upload(open_case(open_page()), mask)
        reading = office(folder).reading("n001", "Dr. Lee")
        answer = about_its_boundary(reading, Verdict.CORRECT, revision=1)
        decide(office(folder), reading, answer, now_s=time.time())
        open_case(open_page()).button(key="withdraw").click().run()
        assert entries(folder)[-1].decision.verdict is Verdict.WITHDRAW

    def test_withdraw_respects_who_reads(self, folder):
        """A case that another reader has open is not opened again under their hands."""
        accept(folder, "n001")
        open_case(open_page())
        second = open_case(open_page(), reader="Dr. No")
        second.button(key="withdraw").click().run()
        assert any("Dr. Lee has this case open" in one.value for one in second.error)
        assert [e.decision.verdict for e in entries(folder)] == [Verdict.ACCEPT]

    def test_corrected_case_opens_with_the_correction(self, folder):
        """Who opens a corrected case sees the mask that was recorded, as a draft."""
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        upload(open_case(open_page()), mask)
        reading = office(folder).reading("n001", "Dr. Lee")
        answer = about_its_boundary(reading, Verdict.CORRECT, revision=1)
        decide(office(folder), reading, answer, now_s=time.time())
        assert draft(folder).revision == 0
        open_case(open_page(), reader="Dr. No")
        reading = office(folder).reading("n001", "Dr. No")
        assert np.array_equal(corrected_mask(office(folder), reading), mask)

    def test_all_done(self, folder):
        """When all is decided the reader is told so."""
        for case_id in ("n001", "n002", "s001"):
            accept(folder, case_id)
        assert open_page().success[0].value == "All cases are decided."
