"""People with roles in a real browser, through a proxy: passphrase, signature, second reader."""

import urllib.error
import urllib.request

import pytest
from proxy_in_front import proxy_for
from review_browser import CHROMIUM, CHROMIUM_ARGS, served, wait_ready

from evenhand.review import Reason, ReviewStore, Stage, Verdict
from review_people import WORDS, with_people
from review_run import make_review_run

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]

PATIENCE_MS = 60_000


@pytest.fixture
def browser():
    """A headless Chromium."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        try:
            sync_api.expect.set_options(timeout=PATIENCE_MS)
            yield browser
        finally:
            browser.close()


def visit(browser, port):
    """A window of one's own, at the proxy of somebody."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"http://127.0.0.1:{port}")
    return page


def choose_passphrase(page):
    """What a first visit asks for."""
    page.get_by_label("Passphrase (8").fill(WORDS)
    page.get_by_label("The same again").fill(WORDS)
    page.get_by_role("button", name="Keep it").click()


def sign(page):
    """What each decision asks for."""
    page.get_by_label("Passphrase").fill(WORDS)
    page.get_by_role("button", name="Sign", exact=True).click()


def entries(folder):
    """What was recorded."""
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        assert store.verify().broken_at is None
        return store.entries()


def test_two_people_read_one_case(browser, tmp_path):
    """First visit, first reading, signature; a second reader, blind; nobody around the proxy.

    A wrong passphrase records nothing; a cancelled signature leaves the case as it was.
    """
    rules = "second_share = 1.0"
    folder = with_people(make_review_run(tmp_path / "run"), more=rules, passphrases=False)
    expect = sync_api.expect
    with (
        served(folder) as (_, port),
        proxy_for("r1", port) as first_door,
        proxy_for("r2", port) as second_door,
    ):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/")
        page = visit(browser, first_door)
        choose_passphrase(page)
        expect(page.get_by_text("Dr. R1 (r1)")).to_be_visible()
        page.get_by_role("button", name="Open the next open case").click()
        wait_ready(page)
        page.get_by_label("Reason").select_option(Reason.BOUNDARY.value)
        page.get_by_label("Comment").fill("first reader's words")
        page.get_by_role("button", name="Reject").click()
        expect(page.get_by_text("I reject the proposed mask.")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        wait_ready(page)
        assert entries(folder) == []
        reject = page.get_by_role("button", name="Reject")
        for _ in range(20):  # the page draws the form anew after a cancelled signature
            page.get_by_label("Reason").select_option(Reason.BOUNDARY.value)
            page.get_by_label("Comment").fill("first reader's words")
            page.wait_for_timeout(500)
            if reject.is_enabled():
                break
        reject.click()
        page.get_by_label("Passphrase").fill("wrong words")
        page.get_by_role("button", name="Sign", exact=True).click()
        expect(page.get_by_text("This is not your passphrase")).to_be_visible()
        assert entries(folder) == []
        sign(page)
        expect(page.get_by_text("n002", exact=True)).to_be_visible()

        other = visit(browser, second_door)
        choose_passphrase(other)
        expect(other.get_by_text("Dr. R2 (r2)")).to_be_visible()
        other.get_by_role("combobox", name="Act as").click()
        other.get_by_role("option", name="Second reader").click()
        other.get_by_role("button", name="Open the next open case").click()
        wait_ready(other)
        expect(other.get_by_text("n001", exact=True)).to_be_visible()
        assert "first reader's words" not in other.content()
        other.get_by_label("Reason").select_option(Reason.POOR_IMAGE.value)
        other.get_by_role("button", name="Reject").click()
        sign(other)
        expect(other.get_by_text("n002", exact=True)).to_be_visible()
    first, second = (entry.decision for entry in entries(folder))
    assert (first.reader, first.stage, first.verdict) == ("r1", Stage.FIRST, Verdict.REJECT)
    assert (second.reader, second.stage) == ("r2", Stage.SECOND)
    assert (first.signature.name, second.signature.name) == ("Dr. R1", "Dr. R2")
