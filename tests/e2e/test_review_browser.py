"""The review page as a clinician meets it: the real command, a real browser."""

import signal

import numpy as np
import pytest
from review_browser import (
    CHROMIUM,
    CHROMIUM_ARGS,
    colours,
    free_port,
    is_listening,
    on_plane,
    open_case,
    open_first,
    served,
    served_with_short_tickets,
    wait_ready,
)

from evenhand.cases.hashing import array_sha256
from evenhand.review import Reason, ReviewStore, Verdict
from evenhand_ui.masks import read_mask
from evenhand_ui.runs import ReviewRun
from review_run import (
    TUMOUR_SLICES,
    asymmetric,
    make_review_run,
    make_run_of,
    proposed_mask,
    stored_as,
)

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]

SHAPE = (32, 40, 24)
SPACING_MM = (1.0, 1.0, 1.5)
PATIENCE_MS = 30_000
"""Machines that share cores stall at times."""


@pytest.fixture
def context():
    """A fresh headless Chromium."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        try:
            sync_api.expect.set_options(timeout=PATIENCE_MS)
            yield browser.new_context(viewport={"width": 1440, "height": 900})
        finally:
            browser.close()


@pytest.fixture
def page(context):
    """One page of it, which must not complain on its console."""
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert complaints == []


def entries(folder):
    """What was recorded."""
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        assert store.verify().broken_at is None
        return store.entries()


def test_look_accept_recorded(page, tmp_path):
    """A reader steps through the tumour by keyboard, accepts, and the decision is in SQLite.

    Nothing but the page's own address is asked for: a hospital network is closed. No address and no
    header's name gives a patient away.
    """
    folder = make_review_run(tmp_path / "run")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with served(folder) as (_, port):
        open_first(page, port)
        accept = page.get_by_role("button", name="Accept")
        expect = sync_api.expect
        # It opens on the largest proposed area, k = 3.
        expect(page.locator("[data-plane=axial] .caption")).to_have_text("Axial, slice 4 of 6")
        expect(page.get_by_text(f"Seen 1 of {len(TUMOUR_SLICES)} slices")).to_be_visible()
        expect(accept).to_be_disabled()
        page.keyboard.press("h")  # a hidden mask is not seen
        page.keyboard.press("ArrowUp")
        page.wait_for_timeout(700)
        expect(page.get_by_text(f"Seen 1 of {len(TUMOUR_SLICES)} slices")).to_be_visible()
        page.keyboard.press("h")
        expect(page.get_by_text(f"Seen 2 of {len(TUMOUR_SLICES)} slices")).to_be_visible()
        page.keyboard.press("n")
        expect(accept).to_be_enabled()
        page.keyboard.press("Control+Enter")
        expect(page.get_by_text("n002", exact=True)).to_be_visible()
        wait_ready(page)
    (entry,) = entries(folder)
    decision = entry.decision
    assert (decision.case_id, decision.reader, decision.verdict) == (
        "n001",
        "Dr. Lee",
        Verdict.ACCEPT,
    )
    assert decision.slices_seen == TUMOUR_SLICES
    assert decision.proposed_sha256 == array_sha256(proposed_mask())
    assert decision.seconds > 0
    own = (f"http://127.0.0.1:{port}/", f"ws://127.0.0.1:{port}/", "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []
    assert [url for url in asked if "n001" in url or "Lee" in url] == []


# For each plane: which block of `asymmetric` is seen in which corner, by the radiological rule
# (right on the left, anterior or superior up, sagittal facing left), and the letters around it.
CORNERS = {"left top": (0, 0), "right top": (1, 0), "left bottom": (0, 1), "right bottom": (1, 1)}
RULE = {
    "axial": ({"left top": 200, "right top": 150, "left bottom": 100, "right bottom": 10}, "RLAP"),
    "coronal": ({"left top": 200, "right top": 150, "left bottom": 50, "right bottom": 10}, "RLSI"),
    "sagittal": (
        {"left top": 200, "right top": 100, "left bottom": 50, "right bottom": 10},
        "APSI",
    ),
}
AXES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
OBLIQUE = {"R": "RA", "L": "LP", "A": "AL", "P": "PR", "S": "S", "I": "I"}


CODES = {"flipped": "LAI", "lps": "LPS", "oblique": "LPS", "ras": "RAS", "turned": "SPL"}
"""How the phantom is stored, by case id; in the order of the worklist."""


def stored_phantom(kind):
    """The asymmetric phantom as one of the cases: image, proposal and affine."""
    degrees = 30 if kind == "oblique" else 0
    image, mask = asymmetric(SHAPE)
    stored, affine = stored_as(image, CODES[kind], degrees=degrees)
    proposal, _ = stored_as(mask, CODES[kind], degrees=degrees)
    return stored, proposal, affine


@pytest.fixture(scope="module")
def all_ways(tmp_path_factory):
    """A run with the phantom stored in five ways, and the port at which it is reviewed."""
    cases = {kind: stored_phantom(kind) for kind in CODES}
    folder = make_run_of(tmp_path_factory.mktemp("ways") / "run", cases)
    with served(folder) as (_, port):
        yield folder, port


@pytest.mark.parametrize("kind", CODES)
def test_right_is_right(page, all_ways, kind):
    """Pixels, masks and letters are right in all planes, and paint lands where it was put.

    The asymmetric phantom is stored in five ways; each must look the same, and one stroke on the
    patient's left anterior superior block must come back there in the stored file.
    """
    folder, port = all_ways
    stored, proposal, _ = stored_phantom(kind)
    open_case(page, port, list(CODES).index(kind))
    # The tumour is what the page opens on, and lies in the brightest block.
    main = "sagittal" if kind == "turned" else "axial"
    assert page.locator(".plane").first.get_attribute("data-plane") == main
    for plane, (values, letters) in RULE.items():
        look_at_corners(page, plane, values)
        shown = [
            page.locator(f"[data-plane={plane}] .letter.{place}").text_content()
            for place in ("left", "right", "top", "bottom")
        ]
        wanted = [OBLIQUE[letter] if kind == "oblique" else letter for letter in letters]
        assert shown == wanted, plane
    # A stroke on the block of 150: left, anterior, superior.
    page.keyboard.press("b")
    x, y = on_plane(page, "axial", (SHAPE[0] - 4.5, 4.5), SHAPE[:2])
    page.mouse.click(x, y)
    sync_api.expect(page.locator(STATUS)).to_have_text("Saved")
    page.get_by_role("combobox", name="Reason").select_option("missed-tumour")
    page.get_by_role("button", name="Record correction").click()
    sync_api.expect(page.get_by_text(f": {kind}")).to_be_visible()
    (entry,) = [one for one in entries(folder) if one.decision.case_id == kind]
    run = ReviewRun.open(folder)
    kept = read_mask(folder / "review" / entry.decision.corrected_path, run.case(kind))
    painted = np.argwhere((kept != proposal).astype(bool))
    assert len(painted) > 4
    assert {float(value) for value in stored[tuple(painted.T)]} == {150.0}
    assert entry.decision.strokes == 1
    assert 0 < entry.decision.dice < 1


def look_at_corners(page, plane, values):
    """Each block has its grey, and only one is the brightest; blocks lie on one shared slice."""
    size = [SHAPE[axis] for axis in AXES[plane]]
    spacing = [SPACING_MM[axis] for axis in AXES[plane]]
    box = page.locator(f".plane[data-plane={plane}] canvas").bounding_box()
    # Two pixels in from each corner of the slice, outside tumour and crosshair.
    points = []
    for across, down in CORNERS.values():
        place = (size[0] - 1 if across else 1, size[1] - 1 if down else 1)
        x, y = on_plane(page, plane, place, size, spacing)
        points.append(((x - box["x"]) / box["width"], (y - box["y"]) / box["height"]))
    greys = [red for red, _, _ in colours(page, plane, points)]
    expected = [values[corner] for corner in CORNERS]
    assert np.argsort(greys, kind="stable").tolist() == np.argsort(expected).tolist(), plane
    assert max(greys) > 200


def brush_stroke(page, across=8.0, down=20.0):
    """One stroke on the axial plane of the phantom."""
    page.keyboard.press("b")
    x, y = on_plane(page, "axial", (across, down), SHAPE[:2])
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 30, steps=5)
    page.mouse.up()


@pytest.fixture
def phantom(tmp_path):
    """A run with two asymmetric phantoms."""
    image, mask = asymmetric(SHAPE)
    stored, affine = stored_as(image, "LPS")
    proposal, _ = stored_as(mask, "LPS")
    case = (stored, proposal, affine)
    return make_run_of(tmp_path / "run", {"n001": case, "n002": case})


STATUS = ".evenhand:not([data-left]) .status"
VOLUMES = ".evenhand:not([data-left]) .volumes"


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
def test_strokes_after_a_refused_save_are_kept(page, phantom, status):
    """Once the server has refused a mask, the browser still keeps each stroke; a reload has it."""
    expect = sync_api.expect
    refusal = {"error": "Refused for a test.", "revision": 0}
    with served(phantom) as (_, port):
        open_first(page, port)
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


def test_taking_the_other_where_there_is_none(page, phantom):
    """Where the server has no draft any more, the screen goes back to the proposal as well."""
    expect = sync_api.expect
    with served(phantom) as (_, port):
        open_first(page, port)
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


def test_two_tabs_on_one_case(context, phantom):
    """The tab that is behind overwrites nothing: it asks, and either answer is kept."""
    expect = sync_api.expect
    with served(phantom) as (_, port):
        one, two = context.new_page(), context.new_page()
        open_first(one, port)
        open_first(two, port)
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


def click_all(page, *places):
    """Click places of the axial plane, one after the other."""
    for place in places:
        page.mouse.click(*on_plane(page, "axial", place, SHAPE[:2]))


def measured_mm(page, start, end):
    """What the ruler says between two places of the coronal plane."""
    size, spacing = (SHAPE[0], SHAPE[2]), (SPACING_MM[0], SPACING_MM[2])
    page.keyboard.press("m")
    page.mouse.move(*on_plane(page, "coronal", start, size, spacing))
    page.mouse.down()
    page.mouse.move(*on_plane(page, "coronal", end, size, spacing), steps=3)
    page.mouse.up()
    return float(page.locator(STATUS).text_content().removesuffix(" mm"))


def test_tools(page, phantom):
    """Ruler, eraser, polygon, fill and "Like this": each does what it says."""
    expect = sync_api.expect

    def mine():
        return float(page.locator(VOLUMES).text_content().partition("mine ")[2].split()[0])

    with served(phantom) as (_, port):
        open_first(page, port)
        # 10 mm across and 12 mm up: 8 slices of 1.5 mm.
        assert measured_mm(page, (10, 14), (20, 6)) == pytest.approx(np.hypot(10, 12), abs=0.3)

        page.keyboard.press("p")
        click_all(page, (4, 14), (16, 14), (16, 28), (4, 28))
        page.keyboard.press("Enter")
        polygon = 12 * 14 * 1.5 / 1000
        tumour = 4 * 5 * 4 * 1.5 / 1000
        assert mine() == pytest.approx(tumour + polygon, abs=0.011)

        # The same shape three slices on, then the two between.
        for _ in range(3):
            page.keyboard.press("ArrowUp")
        click_all(page, (4, 14), (16, 14), (16, 28), (4, 28))
        page.keyboard.press("Enter")
        before = mine()
        assert before == pytest.approx(tumour + 2 * polygon, abs=0.02)
        page.keyboard.press("i")
        assert 0.9 * 2 * polygon < mine() - before < 2 * polygon + tumour
        page.keyboard.press("Control+z")
        assert mine() == pytest.approx(before, abs=0.001)

        # A hole, made by erasing inside, is closed by Fill.
        click_all(page, (7, 18), (12, 18), (12, 24), (7, 24))
        page.keyboard.press("Shift+Enter")
        assert mine() == pytest.approx(before - 5 * 6 * 1.5 / 1000, abs=0.011)
        page.keyboard.press("f")
        click_all(page, (9.5, 21.5))
        assert mine() == pytest.approx(before, abs=0.001)

        page.keyboard.press("e")
        click_all(page, (10, 20))
        assert mine() < before
        page.keyboard.press("Control+z")
        assert mine() == pytest.approx(before, abs=0.001)

        # "Like this" takes only what is about as bright: the block of 150, not its surroundings.
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("t")
        for _ in range(12):
            page.keyboard.press("]")
        click_all(page, (SHAPE[0] - 2.5, 2.5))
        assert mine() > before
        assert mine() - before <= 8 * 10 * 1.5 / 1000 + 0.011
        expect(page.locator(STATUS)).to_have_text("Saved")

        # All at once back, and that too can be undone.
        after = mine()
        page.get_by_role("button", name="Back to proposal").click()
        assert "mine" not in page.locator(VOLUMES).text_content()
        page.keyboard.press("Control+z")
        assert mine() == pytest.approx(after, abs=0.001)


BETWEEN = """
async () => {
  const entry = performance.getEntriesByType("resource").find((e) => e.name.endsWith("shapes.js"));
  const { between } = await import(entry.name);
  const [width, height, spacing] = [40, 30, [1, 2]];
  const disc = (radius) => Uint8Array.from({ length: width * height }, (_, n) =>
    Math.hypot((n % width) - 20, (Math.trunc(n / width) - 15) * 2) <= radius ? 1 : 0);
  const at = between(disc(6), disc(14), width, height, spacing);
  return [0.25, 0.5, 0.75].map((share) => at(share).reduce((sum, m) => sum + m, 0));
}
"""


def test_slices_between_two_discs_are_discs(page, phantom):
    """Halfway between discs of 6 and 14 mm lies one of 10 mm, whatever the voxels' shape."""
    with served(phantom) as (_, port):
        open_first(page, port)
        areas = page.evaluate(BETWEEN)
    expected = [np.pi * radius**2 / 2 for radius in (8, 10, 12)]
    assert areas == pytest.approx(expected, rel=0.08)


def test_reject_by_keyboard_and_form(page, phantom):
    """A reason opens Reject; letters typed into the comment are text, not commands."""
    with served(phantom) as (_, port):
        open_first(page, port)
        reject = page.get_by_role("button", name="Reject")
        sync_api.expect(reject).to_be_disabled()
        page.get_by_role("combobox", name="Reason").select_option("other")
        reject.click()
        sync_api.expect(page.get_by_text("needs a comment")).to_be_visible()
        page.get_by_role("textbox", name="Comment").fill("")
        page.get_by_role("textbox", name="Comment").press_sequentially("hbn")
        reject.click()
        sync_api.expect(page.get_by_text("n002", exact=True)).to_be_visible()
    (entry,) = entries(phantom)
    assert (entry.decision.verdict, entry.decision.reason, entry.decision.comment) == (
        Verdict.REJECT,
        Reason.OTHER,
        "hbn",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_whole(tmp_path, number):
    """Ctrl-C and a polite kill end the command and the server behind it: nobody listens on."""
    with served(make_review_run(tmp_path / "run")) as (process, port):
        assert is_listening(port)
        process.send_signal(number)
        assert process.wait(30) == 0
        assert not is_listening(port)
