"""The page for people whose names are checked: passphrase, lock, roles, signature, blindness."""

import time
from pathlib import Path

import pytest
from streamlit.runtime.context import ContextProxy
from streamlit.testing.v1 import AppTest

from evenhand.errors import ConfigError, UsageError
from evenhand.review import (
    Decision,
    Reason,
    ReviewStore,
    Role,
    Stage,
    Verdict,
    active_claims,
    check_passphrase,
    claim_case,
    person_by_login,
)
from evenhand_ui.cli import _review
from evenhand_ui.deciding import keep_for_signature
from evenhand_ui.gate import LOGIN_HEADER
from evenhand_ui.office import office_of
from evenhand_ui.oidc import is_over, login_from
from evenhand_ui.options import ARM_VARIABLE, RUN_VARIABLE
from evenhand_ui.rules import Rules, keep_rules, rules_of
from review_answers import about_its_boundary
from review_people import WORDS, rules_text, with_people
from review_run import make_review_run

APP = Path(__file__).parents[2] / "ui" / "evenhand_ui" / "script.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run whose cases are all read twice, by people behind a proxy."""
    folder = with_people(make_review_run(tmp_path / "run"), more="second_share = 1.0")
    monkeypatch.setenv(RUN_VARIABLE, str(folder))
    monkeypatch.delenv(ARM_VARIABLE, raising=False)
    office_of.cache_clear()
    return folder


@pytest.fixture(autouse=True)
def headers(monkeypatch):
    """What the gate hands on, which AppTest does not know."""
    jar = {}
    monkeypatch.setattr(ContextProxy, "headers", property(lambda _: jar))
    monkeypatch.setattr(ContextProxy, "cookies", property(lambda _: {}))
    return jar


def office(folder):
    """The run as page and routes of this process share it."""
    return office_of(folder, None, None)


def visit(folder, headers, who):
    """Open the page as somebody; as whom it is known is what the gate has signed."""
    headers[LOGIN_HEADER] = office(folder).tickets.sign_login(f"{who}@hospital")
    page = AppTest.from_file(APP, default_timeout=300).run()
    assert not page.exception
    return page


def words(page):
    """All text on a page."""
    parts = (page.markdown, page.text, page.error, page.info, page.title, page.caption)
    return " ".join(one.value for part in parts for one in part)


def first_reading(folder, verdict=Verdict.REJECT):
    """The first reader decides about n001."""
    item = office(folder).reading("n001", "r1")
    office(folder).store.append(
        Decision(
            case_id="n001",
            hospital="north",
            arm="federated",
            verdict=verdict,
            reader="r1",
            reason=Reason.BOUNDARY if verdict is Verdict.REJECT else None,
            comment="a very telling comment",
            proposed_sha256=item.proposal.sha256,
            seconds=1.0,
            slices_seen=(),
            login="proxy",
        )
    )


class TestLogin:
    """Only who the gate has named comes in."""

    @pytest.mark.parametrize("header", ["", "cjFAaG9zcGl0YWw=.00", "é"])
    def test_nobody(self, folder, headers, header):
        """Without a rightly signed login there is no case on the page, and no name field."""
        headers[LOGIN_HEADER] = header
        page = AppTest.from_file(APP, default_timeout=300).run()
        assert "not on the list" in page.error[0].value
        assert not page.text_input
        assert "n001" not in words(page)

    @pytest.mark.parametrize(
        ("user", "claim", "login"),
        [
            ({"email": "r1@hospital", "email_verified": True}, "email", "r1@hospital"),
            ({"email": "r1@hospital", "email_verified": False}, "email", ""),
            ({"email": "r1@hospital", "email_verified": "true"}, "email", ""),
            ({"email": "r1@hospital"}, "email", ""),
            ({"sub": "0815"}, "sub", "0815"),
            ({}, "sub", ""),
        ],
        ids=["verified", "denied", "text", "not-said", "subject", "no-subject"],
    )
    def test_unverified_e_mail_is_nobody(self, user, claim, login):
        """An e-mail that the provider has not verified names nobody: anybody can write one."""
        assert login_from(user, claim) == login

    @pytest.mark.parametrize(
        ("user", "over"),
        [
            ({"iat": 1000}, False),
            ({"iat": 1000 - 12 * 3600}, False),
            ({"iat": 1000 - 12 * 3600 - 1}, True),
            ({"iat": "1000"}, True),
            ({"iat": True}, True),
            ({}, True),
        ],
    )
    def test_login_does_not_last(self, user, over):
        """A login by OIDC lasts so many hours; one that does not say its age is over."""
        assert is_over(user, hours=12, now_s=1000) is over

    def test_no_demo(self, folder, headers):
        """The page says who is there and does not speak of a demo."""
        page = visit(folder, headers, "r1")
        assert "Dr. R1 (r1)" in words(page)
        assert "demo" not in words(page)
        assert not page.text_input

    def test_administrator_sees_no_case(self, folder, headers):
        """Who may only administrate has no page with cases; what they add is there."""
        page = visit(folder, headers, "adm")
        assert "n001" not in words(page)
        page.text_input(key="new_id").set_value("r9")
        page.text_input(key="new_login").set_value("r9@hospital")
        page.text_input(key="new_name").set_value("Dr. Nine")
        page.multiselect(key="new_roles").set_value([Role.AUDITOR, Role.READER])
        button(page, "Keep").click().run()
        assert "An auditor sees all readings" in page.error[0].value
        page.text_input(key="new_id").set_value("r9")
        page.text_input(key="new_login").set_value("r9@hospital")
        page.text_input(key="new_name").set_value("Dr. Nine")
        page.multiselect(key="new_roles").set_value([Role.READER])
        button(page, "Keep").click().run()
        assert not page.exception
        assert "Dr. Nine (r9)" not in words(visit(folder, headers, "r8"))
        assert person_by_login(office(folder).store, "r9@hospital").roles == {Role.READER}

    def test_passphrase_is_chosen_first(self, tmp_path, monkeypatch, headers):
        """A first visit asks for a passphrase, twice the same; then the page opens."""
        folder = with_people(make_review_run(tmp_path / "new"), passphrases=False)
        monkeypatch.setenv(RUN_VARIABLE, str(folder))
        office_of.cache_clear()
        page = visit(folder, headers, "r1")
        assert "n001" not in words(page)
        for first, second, why in (("one", "two", "not the same"), ("short", "short", "8 char")):
            page.text_input[0].set_value(first)
            page.text_input[1].set_value(second)
            page.button[0].click().run()
            assert why in page.error[0].value
        page.text_input[0].set_value(WORDS)
        page.text_input[1].set_value(WORDS)
        page.button[0].click().run()
        assert "n001" in words(page)
        check_passphrase(office(folder).store, "r1", WORDS, now_s=0)

    def test_locks_after_a_pause(self, folder, headers):
        """After a pause no case is on the page until the passphrase is given."""
        page = visit(folder, headers, "r1")
        office(folder).presence._last["r1"] -= 1000
        page.run()
        assert "Locked after a pause" in words(page)
        assert "n001" not in words(page)
        page.text_input[0].set_value("wrong words")
        page.button[0].click().run()
        assert "not your passphrase" in page.error[0].value
        page.text_input[0].set_value(WORDS)
        page.button[0].click().run()
        assert "n001" in words(page)

    def test_no_button_after_a_pause(self, folder, headers):
        """A click after a pause does nothing: a colleague's case is not taken over by it."""
        own = office(folder)
        claim_case(own.store, "federated", "n001", "r2", now_s=time.time())
        page = visit(folder, headers, "r1")
        page.button(key="open-n001").click().run()
        own.presence._last["r1"] -= 1000
        button(page, "Take the case over").click().run()
        assert "Locked after a pause" in words(page)
        assert active_claims(own.store, "federated", now_s=time.time())["n001"].reader == "r2"
        page.text_input[0].set_value(WORDS)
        page.button[0].click().run()
        button(page, "Take the case over").click().run()
        assert active_claims(own.store, "federated", now_s=time.time())["n001"].reader == "r1"


class TestSigning:
    """The passphrase is asked for under a sentence that says what is signed."""

    def test_sign(self, folder, headers):
        """A wrong passphrase records nothing and may be tried again; the right one records."""
        page = visit(folder, headers, "r1")
        page.button(key="open-n001").click().run()
        reading = office(folder).reading("n001", "r1")
        answer = about_its_boundary(reading, Verdict.REJECT)
        keep_for_signature(office(folder), reading, answer, now_s=time.time())
        page.session_state["to_sign"] = "n001"
        page.run()
        assert "I reject the proposed mask." in words(page)
        assert "Dr. R1" in words(page)
        page.text_input(key="sign_passphrase").set_value("wrong words")
        button(page, "Sign").click().run()
        assert "not your passphrase" in page.error[0].value
        assert office(folder).store.entries() == []
        page.text_input(key="sign_passphrase").set_value(WORDS)
        button(page, "Sign").click().run()
        (entry,) = office(folder).store.entries()
        assert entry.decision.signature.name == "Dr. R1"
        assert page.session_state["open_case"] == "n002", "the next one comes"


def button(page, label):
    """The button with this label."""
    (found,) = [one for one in page.button if one.label == label]
    return found


class TestBlind:
    """What the second reader's page shows does not depend on the first reading."""

    def test_worklist_and_case(self, folder, headers):
        """Worklist, history and case are the same before and after the first reader decided."""

        def look():
            page = visit(folder, headers, "r2")
            page.selectbox(key="role").set_value(Role.SECOND_READER).run()
            listed = words(page)
            page.button(key="open-n001").click().run()
            return listed, words(page), [one.label for one in page.expander]

        before = look()
        first_reading(folder)
        after = look()
        assert before == after
        assert "telling comment" not in " ".join(map(str, after))

    def test_first_reader_sees_nothing_of_the_second(self, folder, headers):
        """Nor the other way round: the reader's list does not tell that a second has read."""
        page = visit(folder, headers, "r1")
        before = words(page)
        with ReviewStore(folder / "review" / "review.sqlite") as store:
            item = office(folder).reading("n001", "r2", Role.SECOND_READER)
            store.append(
                Decision(
                    case_id="n001",
                    hospital="north",
                    arm="federated",
                    verdict=Verdict.ACCEPT,
                    reader="r2",
                    proposed_sha256=item.proposal.sha256,
                    seconds=1.0,
                    slices_seen=(),
                    stage=Stage.SECOND,
                )
            )
        assert words(page.run()) == before

    def test_auditor_looks(self, folder, headers):
        """The auditor sees what was said, and nothing to decide with."""
        first_reading(folder)
        page = visit(folder, headers, "aud")
        page.button(key="open-n001").click().run()
        assert "telling comment" in words(page)
        assert "not yours to decide" in words(page)
        assert not [one for one in page.button if "Withdraw" in one.label]
        assert not page.file_uploader


class TestRules:
    """Rules are checked before they are kept, and kept whole."""

    def test_kept(self, tmp_path):
        """What the command names is kept beside the decisions, its secret by its full path."""
        folder = make_review_run(tmp_path / "run")
        given = tmp_path / "given.toml"
        given.write_text(rules_text(folder, more="second_share = 0.25"))
        kept = keep_rules(given, folder / "review", decided=False)
        assert rules_of(folder / "review") == kept
        assert (kept.second_share, kept.proxy.secret_file.is_absolute()) == (0.25, True)
        assert rules_of(tmp_path) == Rules()

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ('login = "proxy"', r"\[proxy\] belongs"),
            ("second_share = 1.5", "second_share"),
            ("secnd_share = 0.5", "second_share"),
        ],
    )
    def test_wrong(self, tmp_path, text, why):
        """A wrong key or value is named."""
        given = tmp_path / "given.toml"
        given.write_text(text)
        with pytest.raises(ConfigError, match=why):
            keep_rules(given, tmp_path / "review", decided=False)
        assert not (tmp_path / "review").exists()

    def test_no_way_back_to_a_demo(self, tmp_path):
        """Checked names and made-up ones are not mixed in one trail unawares."""
        folder = make_review_run(tmp_path / "run")
        given = tmp_path / "given.toml"
        given.write_text(rules_text(folder))
        keep_rules(given, folder / "review", decided=False)
        given.write_text('login = "demo"')
        with pytest.raises(ConfigError, match="would mix both"):
            keep_rules(given, folder / "review", decided=False)

    def test_share_is_not_lowered(self, folder, tmp_path):
        """Once something is decided, no rule lets first readings stand that wait for a second."""
        first_reading(folder)
        given = tmp_path / "given.toml"
        given.write_text(rules_text(folder, more="second_share = 0.5"))
        with pytest.raises(ConfigError, match="second_share = 1 or more"):
            _review(folder, None, 8501, no_browser=True, rules=given)
        assert rules_of(folder / "review").second_share == 1.0

    def test_demo_stays_on_this_machine(self, tmp_path):
        """A page that checks nobody's name is not opened to others."""
        folder = make_review_run(tmp_path / "run")
        with pytest.raises(UsageError, match="from this machine only"):
            _review(folder, None, 8501, no_browser=True, rules=None, address="0.0.0.0")  # noqa: S104
