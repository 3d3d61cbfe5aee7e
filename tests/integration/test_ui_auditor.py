"""The auditor's pages: findings down to cases, privacy spent against granted, readers' figures."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.runtime.context import ContextProxy
from streamlit.testing.v1 import AppTest

from evenhand.experiment.layout import RunFolder
from evenhand.privacy.ledger import Ledger
from evenhand.review import Decision, Reason, Role, Stage, Verdict
from evenhand_ui import audit_page
from evenhand_ui.navigation import PAGES
from evenhand_ui.office import office_of
from review_run import make_review_run

TABLE = """arm,prompt,case,patient,hospital,sex,age_years,race,ethnicity,dice,hd95,nsd
federated,automatic,n001,p1,north,F,30,unknown,unknown,0.4,9,0.3
federated,automatic,n002,p2,north,M,70,unknown,unknown,0.9,2,0.8
federated,automatic,s001,p3,south,M,,unknown,unknown,0.8,3,0.7
federated,box,n001,p1,north,F,30,unknown,unknown,0.1,9,0.3
"""

FINDING = {
    "arm": "federated · automatic",
    "attribute": "sex",
    "headline": "A possible gap, not a finding.",
    "sentence": "Patients of sex F have the lowest mean Dice.",
    "sureness": "Among 45 comparisons this proves nothing.",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run with a table and a report."""
    folder = make_review_run(tmp_path / "run")
    (folder / "predictions.csv").write_text(TABLE)
    (folder / "report").mkdir()
    record = {"findings": [FINDING], "audit": {"age_edges": [40, 60]}}
    (folder / "report" / "audit.json").write_text(json.dumps(record))
    monkeypatch.setenv("EVENHAND_REVIEW_RUN", str(folder))
    monkeypatch.delenv("EVENHAND_REVIEW_ARM", raising=False)
    office_of.cache_clear()
    return folder


def draw(path):
    """One of the auditor's pages by itself."""

    def script(path):
        import os
        from pathlib import Path

        from evenhand.review import Role
        from evenhand_ui.access import Visitor
        from evenhand_ui.navigation import PAGES
        from evenhand_ui.office import office_of
        from evenhand_ui.who import Who

        (entrance,) = [one for one in PAGES if one.path == path]
        visitor = Visitor(person_id="aud", name="A", roles=frozenset({Role.AUDITOR}))
        office = office_of(Path(os.environ["EVENHAND_REVIEW_RUN"]), None, None)
        entrance.draw(office, Who(visitor, Role.AUDITOR))

    page = AppTest.from_function(script, kwargs={"path": path}, default_timeout=300).run()
    assert not page.exception
    return page


def words(page):
    """All text on a page."""
    parts = (page.markdown, page.text, page.caption, page.info)
    return " ".join(one.value for part in parts for one in part)


def decide(folder, reader, stage, verdict, case_id="n001"):
    """A decision, as the page records it."""
    office = office_of(folder, None, None)
    sha256 = office.reading(case_id, reader).proposal.sha256
    decision = Decision(
        case_id=case_id,
        hospital="north",
        arm="federated",
        verdict=verdict,
        reason=None if verdict is Verdict.ACCEPT else Reason.BOUNDARY,
        reader=reader,
        proposed_sha256=sha256,
        seconds=30.0,
        slices_seen=(),
        stage=stage,
    )
    office.store.append(decision)


class TestAudit:
    """From what was found to the cases behind it."""

    def test_findings_and_cases(self, folder):
        """A finding is told as the report tells it; a group's cases come worst first."""
        page = draw("audit")
        assert FINDING["sentence"] in words(page)
        assert FINDING["sureness"] in words(page)
        page.selectbox(key="audit_attribute").set_value("hospital").run()
        page.selectbox(key="audit_group_hospital").set_value("north").run()
        frame = page.dataframe[0].value
        assert list(frame["case"]) == ["n001", "n002"]
        assert list(frame["dice"]) == [0.4, 0.9], "of the chosen prompt only"
        assert page.selectbox(key="audit_case_hospital_north").options == ["n001", "n002"]

    def test_ages_are_grouped(self, folder):
        """Ages go by the report's own edges; one that is missing is a group as well."""
        page = draw("audit")
        page.selectbox(key="audit_attribute").set_value("age").run()
        options = page.selectbox(key="audit_group_age").options
        assert options == ["0 to 40", "60 to more", "unknown"]

    @pytest.mark.parametrize("by", ["row", "box"])
    def test_a_case_is_one_press_away(self, folder, monkeypatch, by):
        """A row of the table, or the box below it for the keyboard, leads to the case."""
        turned = []
        monkeypatch.setattr(audit_page.st, "switch_page", turned.append)
        page = draw("audit")
        page.selectbox(key="audit_attribute").set_value("hospital").run()
        page.selectbox(key="audit_group_hospital").set_value("north").run()
        page.session_state["review_page"] = "review"
        if by == "row":
            key = "audit_cases_federated · automatic_hospital_north"
            rows = {"selection": {"rows": [1], "columns": [], "cells": []}}
            page.session_state[key] = rows
        else:
            page.selectbox(key="audit_case_hospital_north").set_value("n002").run()
            page.button(key="audit_open").click()
        page.run()
        assert turned == ["review"]
        assert page.session_state["open_case"] == "n002"

    def test_drill_down_opens_the_case(self, folder, monkeypatch):
        """From the table the case itself is one press away, for looking."""
        monkeypatch.setattr(ContextProxy, "cookies", property(lambda _: {}))
        script = Path(__file__).parents[2] / "ui" / "evenhand_ui" / "script.py"
        page = AppTest.from_file(script, default_timeout=300).run()
        page.text_input(key="reader").set_value("Dr. Lee").run()
        page.selectbox(key="role").set_value(Role.AUDITOR).run()
        page.session_state["open_case"] = "n001"
        page.run()
        assert not page.exception
        assert "not yours to decide" in words(page)

    @pytest.mark.parametrize("content", [None, "{", "[]"])
    def test_without_a_report(self, folder, content):
        """A run that has none says how to get one."""
        path = folder / "report" / "audit.json"
        path.unlink()
        if content is not None:
            path.write_text(content)
        assert "no report yet" in words(draw("audit"))


def test_ledger(folder, monkeypatch):
    """Spent against granted, by hospital; one without a ledger is named as well."""
    site = SimpleNamespace(ledger_path=folder / "ledger.sqlite")
    nowhere = SimpleNamespace(ledger_path=folder / "none.sqlite")
    monkeypatch.setattr(
        RunFolder,
        "hospital",
        lambda _, name: SimpleNamespace(site=lambda: site if name == "north" else nowhere),
    )
    ledger = Ledger(site.ledger_path, "north")
    ledger.grant(8.0, 0.01, by="A. Osei", reason="pilot")
    page = draw("ledger")
    assert page.metric[0].label == "north: epsilon spent"
    assert page.metric[0].value == "0.00 of 8"
    assert "south: no ledger" in words(page)


class TestReaders:
    """How readers decide and agree."""

    def test_figures(self, folder):
        """Counts, medians and agreement of the run's decisions."""
        (folder / "review").mkdir(exist_ok=True)
        (folder / "review" / "rules.toml").write_text("second_share = 1.0")
        office_of.cache_clear()
        decide(folder, "r1", Stage.FIRST, Verdict.ACCEPT)
        decide(folder, "r2", Stage.SECOND, Verdict.REJECT)
        page = draw("readers")
        figures, agreement = (one.value for one in page.dataframe)
        assert list(figures["Reader"]) == ["r1", "r2"]
        assert list(figures["accept"]) == [1, 0]
        assert list(agreement["Cases"]) == [1, 1]
        assert list(agreement["Agreed"]) == [0, 0]

    def test_nothing_yet(self, folder):
        """Before the first decision the page says so."""
        assert "Nothing was decided yet" in words(draw("readers"))


def test_only_who_is_not_blind():
    """Pages that show all readings are the auditor's; no reading role has one of them."""
    reading = {Role.READER, Role.SECOND_READER, Role.ADJUDICATOR}
    for entrance in PAGES:
        assert entrance.path == "" or not entrance.roles & reading, entrance.title
