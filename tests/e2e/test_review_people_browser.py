"""People with roles in a real browser, through a proxy: passphrase, signature, second reader."""

import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest
from proxy_in_front import proxy_for
from review_browser import CHROMIUM, CHROMIUM_ARGS, STATUS, served, wait_ready

from evenhand.review import Person, Reason, ReviewStore, Role, Stage, Verdict, put_person
from evenhand_ui.runs import ReviewRun
from review_people import BY, WORDS, with_people
from review_run import make_review_run

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]

PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose people have no passphrase yet: two who read, and a third."""
    rules = "second_share = 1.0"
    folder = make_review_run(tmp_path_factory.mktemp("people") / "run")
    with_people(folder, more=rules, passphrases=False)
    third = Person(
        person_id="r3", login="r3@hospital", name="Dr. R3", roles=frozenset({Role.READER})
    )
    with ReviewStore(ReviewRun.open(folder).database) as store:
        put_person(store, third, by=BY)
    return folder


@pytest.fixture(scope="module")
def port(folder):
    """Where the run is served, behind nobody."""
    with served(folder) as (_, port):
        yield port


@pytest.fixture(scope="module")
def door_of(port):
    """The proxy of a person: its port, by their name."""
    with ExitStack() as doors:
        yield lambda name: doors.enter_context(proxy_for(name, port))


@pytest.fixture(scope="module")
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


def test_two_people_read_one_case(browser, folder, port, door_of):
    """First visit, first reading, signature; a second reader, blind; nobody around the proxy.

    A wrong passphrase records nothing; a cancelled signature leaves the case as it was.
    """
    expect = sync_api.expect
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/")
    page = visit(browser, door_of("r1"))
    choose_passphrase(page)
    expect(page.get_by_text("Dr. R1 (r1)")).to_be_visible()
    page.get_by_role("button", name="Open the next open case").click()
    wait_ready(page)
    page.get_by_label("Reason").select_option(Reason.BOUNDARY.value)
    page.get_by_label("Comment").fill("first reader's words")
    page.get_by_role("button", name="Reject").click()
    expect(page.get_by_text("I reject the proposed mask.")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    reject = page.get_by_role("button", name="Reject")
    expect(reject).to_be_enabled()
    assert entries(folder) == []
    reject.click()
    page.get_by_label("Passphrase").fill("wrong words")
    page.get_by_role("button", name="Sign", exact=True).click()
    expect(page.get_by_text("This is not your passphrase")).to_be_visible()
    assert entries(folder) == []
    sign(page)
    expect(page.get_by_text("n002", exact=True)).to_be_visible()

    other = visit(browser, door_of("r2"))
    choose_passphrase(other)
    expect(other.get_by_text("Dr. R2 (r2)")).to_be_visible()
    other.get_by_role("combobox", name="Act as").click()
    other.get_by_role("option", name="Second reader").click()
    expect(other.get_by_text("0 of 3 cases decided")).to_be_visible()  # that role's own list
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


def form(page):
    """What stands in the form of the decision."""
    reason, comment = page.get_by_label("Reason"), page.get_by_label("Comment")
    return reason.input_value(), comment.input_value()


def test_a_cancelled_signature_takes_nothing_away(browser, door_of):
    """What was typed before it, in the moment of it, and right after it stays; so does the undo.

    A reload keeps what was typed, too.
    """
    page, expect = visit(browser, door_of("r3")), sync_api.expect
    choose_passphrase(page)
    # The third row; rows come one after the other.
    page.locator(".stMain").get_by_role("button", name="Open", exact=True).nth(2).click()
    wait_ready(page)
    page.keyboard.press("b")
    box = page.locator("[data-plane=axial] canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4, steps=4)
    page.mouse.up()
    expect(page.locator(STATUS)).to_have_text("Saved")
    comment = page.get_by_label("Comment")
    comment.fill("before")
    page.get_by_label("Reason").select_option(Reason.BOUNDARY.value)
    page.get_by_role("button", name="Record correction").click()
    page.get_by_role("button", name="Cancel").click()
    for word in (" one", " two", " three"):  # while the page runs again
        comment.evaluate(TYPE, word)
        page.wait_for_timeout(150)
    expect(page.get_by_role("button", name="Record correction")).to_be_enabled()
    assert form(page) == (Reason.BOUNDARY.value, "before one two three")
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    page.reload()
    wait_ready(page)
    assert form(page) == (Reason.BOUNDARY.value, "before one two three")


TYPE = """
(field, word) => {
  field.value += word;
  field.dispatchEvent(new InputEvent("input", { bubbles: true }));
}
"""
