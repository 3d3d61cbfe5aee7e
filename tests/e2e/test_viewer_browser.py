"""The viewer's tools in a real browser: prompts to the model, and what is measured and shown.

One server and one browser for all; each test has a case of its own.
"""

import pytest
from review_browser import (
    CHROMIUM,
    CHROMIUM_ARGS,
    on_plane,
    open_case,
    served_changed,
)

from review_model import give_model
from review_run import asymmetric, make_run_of, stored_as

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]

SHAPE = (32, 40, 24)
VOXEL_ML = 1.5 / 1000
TUMOUR_ML = 4 * 5 * 4 * VOXEL_ML
PATIENCE_MS = 30_000
CASES = ("a-prompts",)
"""One for each test, in the order of the worklist."""

SMALL_MODEL = """
import review_model
from evenhand.model.adapted import AdaptedModel
review_model.install(setattr, Path({folder!r}))
AdaptedModel.answer_prompts = review_model.answer_box
"""

HERE = ".evenhand:not([data-left])"
STATUS = f"{HERE} .status"
VOLUMES = f"{HERE} .volumes"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A run with a small model under review; its folder and port."""
    image, mask = asymmetric(SHAPE)
    stored, affine = stored_as(image, "LPS")
    proposal, _ = stored_as(mask, "LPS")
    scratch = tmp_path_factory.mktemp("viewer")
    folder = make_run_of(scratch / "run", dict.fromkeys(CASES, (stored, proposal, affine)))
    give_model(folder)
    with served_changed(folder, scratch, SMALL_MODEL.format(folder=str(folder))) as port:
        yield folder, port


@pytest.fixture(scope="module")
def browser():
    """One headless Chromium."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        sync_api.expect.set_options(timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A fresh page, which must not complain on its console."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


def show(page, served, case):
    """Open a case, and wait until it can be edited."""
    open_case(page, served[1], CASES.index(case))


def mine_ml(page):
    """Size of the reader's mask; the proposal's while there is no other."""
    return float(page.locator(VOLUMES).text_content().rpartition(" ml")[0].split()[-1])


def drag(page, start, end):
    """Drag on the axial plane between two places, in pixels of the slice."""
    page.mouse.move(*on_plane(page, "axial", start, SHAPE[:2]))
    page.mouse.down()
    page.mouse.move(*on_plane(page, "axial", end, SHAPE[:2]), steps=3)
    page.mouse.up()


def test_prompts(page, served):
    """A box or points bring a suggestion that changes nothing until it is taken.

    Taken, it is one stroke among the others: undo and redo go across it. What was painted by hand
    stays, unless the reader asks for its place.
    """
    expect = sync_api.expect
    show(page, served, "a-prompts")
    start = page.locator(VOLUMES).text_content()
    box = page.locator(HERE).get_by_role("button", name="Box", exact=True)
    expect(box).to_be_enabled()
    suggestion = page.locator(f"{HERE} .suggestion")

    page.keyboard.press("a")
    drag(page, (16, 20), (26, 28))
    expect(suggestion).to_be_visible()
    assert page.locator(VOLUMES).text_content() == start
    page.keyboard.press("Backspace")
    expect(suggestion).to_be_hidden()
    assert page.locator(VOLUMES).text_content() == start

    # A stroke by hand, then a suggestion beside it.
    page.keyboard.press("b")
    drag(page, (14, 34), (18, 34))
    by_hand = mine_ml(page)
    page.keyboard.press("a")
    drag(page, (16, 20), (26, 28))
    expect(suggestion).to_be_visible()
    page.keyboard.press("Enter")
    expect(suggestion).to_be_hidden()
    taken = mine_ml(page)
    assert taken - by_hand == pytest.approx(10 * 8 * VOXEL_ML, abs=0.03)
    page.keyboard.press("Control+z")
    assert mine_ml(page) == by_hand
    page.keyboard.press("Control+z")
    assert page.locator(VOLUMES).text_content() == start
    page.keyboard.press("Control+y")
    page.keyboard.press("Control+y")
    assert mine_ml(page) == taken

    # Points: one inside, then one outside takes a part away; a point back brings it again.
    page.keyboard.press("q")
    at = on_plane(page, "axial", (26, 30), SHAPE[:2])
    page.mouse.click(*at)
    expect(page.locator(STATUS)).to_contain_text("Suggested")
    first = page.locator(STATUS).text_content()
    page.keyboard.down("Shift")
    page.mouse.click(*on_plane(page, "axial", (27, 30), SHAPE[:2]))
    page.keyboard.up("Shift")
    expect(page.locator(STATUS)).to_contain_text("Suggested")
    expect(page.locator(STATUS)).not_to_have_text(first)
    page.keyboard.press("Backspace")
    expect(page.locator(STATUS)).to_have_text(first)

    # In the place of what is on this slice: the tumour's 4 x 5 voxels there go, and come back.
    size = int(first.split()[1]) * VOXEL_ML
    page.locator(HERE).get_by_role("button", name="Replace", exact=True).click()
    assert mine_ml(page) == pytest.approx(TUMOUR_ML - 20 * VOXEL_ML + size, abs=0.006)
    page.keyboard.press("Control+z")
    assert mine_ml(page) == taken
    expect(page.locator(STATUS)).to_have_text("Saved")


def test_no_model_is_told(page, tmp_path):
    """Without a model the tools are off, and a sentence says why."""
    image, mask = asymmetric(SHAPE)
    stored, affine = stored_as(image, "LPS")
    proposal, _ = stored_as(mask, "LPS")
    folder = make_run_of(tmp_path / "run", {"n001": (stored, proposal, affine)})
    with served_changed(folder, tmp_path, "") as port:
        open_case(page, port, 0)
        sync_api.expect(page.locator(f"{HERE} .model")).to_contain_text("without the model")
        assert page.locator(HERE).get_by_role("button", name="Box", exact=True).is_disabled()
        page.keyboard.press("a")
        assert page.locator(f"{HERE} .planes").get_attribute("data-tool") == "look"
