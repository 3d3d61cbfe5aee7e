"""Nothing is lost, and nothing overwritten: drafts in a real browser, through the real command."""

import signal

import pytest
from review_browser import (
    CHROMIUM,
    STATUS,
    VOLUMES,
    brush_stroke,
    open_case,
    open_first,
    served,
    served_with_short_tickets,
    wait_ready,
)

from evenhand_federated.serve import free_port

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


def test_nothing_is_lost(page, phantom):
    """Undo and redo; a reload; another case and back; a server that is killed and comes again."""
    expect = sync_api.expect
    port = free_port()
    with served(phantom, port) as (process, _):
        open_first(page, port)
        start = page.locator(VOLUMES).text_content()
        brush_stroke(page)
        expect(page.locator(STATUS)).to_have_text("Saved")
        first = page.locator(VOLUMES).text_content()
        assert "mine" in first
        page.keyboard.press("Control+z")
        expect(page.locator(VOLUMES)).to_have_text(start)
        page.keyboard.press("Control+y")
        expect(page.locator(VOLUMES)).to_have_text(first)
        expect(page.locator(STATUS)).to_have_text("Saved")

        page.reload()  # the cookie knows the reader, the address the case
        wait_ready(page)
        expect(page.locator(VOLUMES)).to_have_text(first)

        page.get_by_role("button", name="Skip to the next open case").click()
        expect(page.locator(VOLUMES)).to_have_text(start)
        page.get_by_role("button", name="Worklist").click()
        page.locator(".stMain").get_by_role("button", name="Open", exact=True).first.click()
        wait_ready(page)
        expect(page.locator(VOLUMES)).to_have_text(first)
        process.send_signal(signal.SIGINT)
        process.wait(30)

    brush_stroke(page, down=26.0)  # nobody is there to save it
    expect(page.locator(STATUS)).to_contain_text("kept in this browser")
    second = page.locator(VOLUMES).text_content()
    assert second != first
    with served(phantom, port):
        expect(page.locator(STATUS)).to_have_text("Saved", timeout=30_000)
        page.reload()
        wait_ready(page)
        expect(page.locator(VOLUMES)).to_have_text(second)


def test_lost_server_and_closed_tab(context, phantom):
    """A stroke that only the browser has comes back when the page is opened anew."""
    expect = sync_api.expect
    page, port = context.new_page(), free_port()
    with served(phantom, port):
        open_first(page, port)
        brush_stroke(page)
        expect(page.locator(STATUS)).to_have_text("Saved")
    brush_stroke(page, down=26.0)
    expect(page.locator(STATUS)).to_contain_text("kept in this browser")
    painted = page.locator(VOLUMES).text_content()
    page.close()
    page = context.new_page()
    with served(phantom, port):
        page.goto(f"http://127.0.0.1:{port}")
        page.locator(".stMain").get_by_role("button", name="Open", exact=True).first.click()
        wait_ready(page)
        expect(page.locator(VOLUMES)).to_have_text(painted)
        expect(page.locator(STATUS)).to_have_text("Saved")


@pytest.mark.parametrize("status", [422, 412])
def test_strokes_after_a_refused_save_are_kept(page, desk, status):
    """Once the server has refused a mask, the browser still keeps each stroke; a reload has it."""
    expect = sync_api.expect
    refusal = {"error": "Refused for a test.", "revision": 0}
    open_case(page, desk, {422: 0, 412: 1}[status])
    page.route(
        "**/draft",
        lambda route: (
            route.fulfill(status=status, json=refusal)
            if route.request.method == "PUT"
            else route.continue_()
        ),
    )
    brush_stroke(page)
    said = {422: "Refused for a test.", 412: "Nothing was overwritten"}[status]
    expect(page.get_by_text(said)).to_be_visible()
    brush_stroke(page, down=26.0)
    painted = page.locator(VOLUMES).text_content()
    page.wait_for_timeout(1_000)
    page.unroute("**/draft")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    wait_ready(page)
    expect(page.locator(VOLUMES)).to_have_text(painted)
    expect(page.locator(STATUS)).to_have_text("Saved")


def test_the_proposal_changed(page, desk):
    """Who paints on a proposal that is none any more is told, keeps the stroke until they look."""
    expect = sync_api.expect
    open_case(page, desk, 4)
    start = page.locator(VOLUMES).text_content()
    sent = []

    def refuse(route):
        if route.request.method != "PUT":
            route.continue_()
            return
        sent.append(route.request.headers)
        route.fulfill(status=409, json={"error": "Changed.", "changed": True})

    page.route("**/draft", refuse)
    brush_stroke(page)
    expect(page.get_by_text("The proposal has changed; look again")).to_be_visible()
    painted = page.locator(VOLUMES).text_content()
    assert painted != start
    assert sent[0]["x-evenhand-reading"]
    page.unroute("**/draft")
    page.get_by_role("button", name="Look again").click()
    expect(page.get_by_text("The proposal has changed; look again")).to_have_count(0)
    wait_ready(page)
    expect(page.locator(STATUS)).to_have_text("Saved")  # it was the same proposal after all
    expect(page.locator(VOLUMES)).to_have_text(painted)


def test_the_answer_to_a_decision_is_lost(page, desk):
    """Nobody hears that nothing was recorded when it was: the case comes anew."""
    expect = sync_api.expect
    open_case(page, desk, 5)
    brush_stroke(page)
    expect(page.locator(STATUS)).to_have_text("Saved")
    sent = []

    def lose(route):
        sent.append(route.fetch().status)
        route.abort()

    page.route("**/decision", lose)
    page.get_by_role("combobox", name="Reason").select_option("missed-tumour")
    page.get_by_role("button", name="Record correction").click()
    expect(page.get_by_text("The answer to your decision was lost")).to_be_visible()
    assert sent == [200]
    wait_ready(page)
    expect(page.get_by_text("nothing was recorded")).to_have_count(0)
    expect(page.get_by_role("button", name="Record correction")).to_be_enabled()


def test_taking_the_other_where_there_is_none(page, desk):
    """Where the server has no draft any more, the screen goes back to the proposal as well."""
    expect = sync_api.expect
    open_case(page, desk, 2)
    start = page.locator(VOLUMES).text_content()
    page.route(
        "**/draft",
        lambda route: (
            route.fulfill(status=412, json={"error": "Behind.", "revision": 0})
            if route.request.method == "PUT"
            else route.continue_()
        ),
    )
    brush_stroke(page)
    assert page.locator(VOLUMES).text_content() != start
    page.get_by_role("button", name="Take the other").click()
    expect(page.locator(VOLUMES)).to_have_text(start)


def test_old_tickets_are_renewed(page, phantom, tmp_path):
    """A reader who thinks for longer than a ticket lasts loses nothing and is asked nothing."""
    with served_with_short_tickets(phantom, tmp_path, seconds=8) as port:
        open_first(page, port)
        page.wait_for_timeout(9_000)
        refused = []
        page.on("response", lambda answer: answer.status == 401 and refused.append(answer.url))
        brush_stroke(page)
        sync_api.expect(page.locator(STATUS)).to_have_text("Saved")
        assert refused, "the ticket was old"


def test_two_tabs_on_one_case(context, desk):
    """The tab that is behind overwrites nothing: it asks, and either answer is kept."""
    expect = sync_api.expect
    one, two = context.new_page(), context.new_page()
    open_case(one, desk, 3)
    open_case(two, desk, 3)
    brush_stroke(one)
    expect(one.locator(STATUS)).to_have_text("Saved")
    first = one.locator(VOLUMES).text_content()
    brush_stroke(two, down=30.0)
    expect(two.get_by_text("Nothing was overwritten")).to_be_visible()
    expect(two.get_by_role("button", name="Keep mine")).to_be_visible()
    two.get_by_role("button", name="Take the other").click()
    expect(two.locator(VOLUMES)).to_have_text(first)
    brush_stroke(two, down=30.0)
    expect(two.locator(STATUS)).to_have_text("Saved")
    brush_stroke(one, down=34.0)  # now this one is behind
    own = one.locator(VOLUMES).text_content()
    one.get_by_role("button", name="Keep mine").click()
    expect(one.locator(STATUS)).to_have_text("Saved")
    two.reload()
    wait_ready(two)
    expect(two.locator(VOLUMES)).to_have_text(own)
