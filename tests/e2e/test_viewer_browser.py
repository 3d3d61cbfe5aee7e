"""The viewer's tools in a real browser: prompts to the model, and what is measured and shown.

One server and one browser for all; each test has a case of its own.
"""

import numpy as np
import pytest
from review_browser import (
    CHROMIUM,
    CHROMIUM_ARGS,
    FOCUSED,
    colours,
    grave_faults,
    on_plane,
    open_case,
    served_changed,
    sign_in,
)

from evenhand.cases.nifti import write_nifti
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
CASES = ("a-prompts", "b-lesions", "c-keyboard", "d-heat", "e-prior", "f-carry")
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


def probability():
    """Of tumour (x, y, z): even in a block at the left, posterior, on all slices; else certain."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[2:8, 2:8] = 128
    return values


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A run with a small model under review; its folder and port."""
    image, mask = asymmetric(SHAPE)
    stored, affine = stored_as(image, "LPS")
    proposal, _ = stored_as(mask, "LPS")
    scratch = tmp_path_factory.mktemp("viewer")
    # Every second slice, stored the other way round; the block of the left is not there yet.
    earlier = np.ascontiguousarray(image[:, :, ::2])
    earlier[earlier == 150] = 10
    old, old_affine = stored_as(earlier, "LAI", spacing_mm=(1.0, 1.0, 3.0))
    cases = dict.fromkeys(CASES, (stored, proposal, affine))
    folder = make_run_of(
        scratch / "run",
        {**cases, "z-old": (old, None, old_affine)},
        patients={"e-prior": "p-one", "z-old": "p-one"},
        dates={"e-prior": "20200301", "z-old": "20200201"},
    )
    give_model(folder)
    (folder / "arms/federated/probabilities").mkdir()
    doubtful, _ = stored_as(probability(), "LPS")
    path = folder / "arms/federated/probabilities/d-heat.nii.gz"
    write_nifti(path, np.ascontiguousarray(doubtful), affine)
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
    page.set_default_timeout(2 * PATIENCE_MS)
    page.set_default_navigation_timeout(4 * PATIENCE_MS)  # the server imports torch first
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
    answer = page.locator(f"{HERE} .suggestion > span")
    page.mouse.click(*on_plane(page, "axial", (26, 30), SHAPE[:2]))
    expect(suggestion).to_be_visible()
    first = answer.text_content()
    page.keyboard.down("Shift")
    page.mouse.click(*on_plane(page, "axial", (27, 30), SHAPE[:2]))
    page.keyboard.up("Shift")
    expect(answer).not_to_have_text(first)
    page.keyboard.press("Backspace")
    expect(answer).to_have_text(first)

    # In the place of what is on this slice: the tumour's 4 x 5 voxels there go, and come back.
    size = float(first.split()[-2])
    page.locator(HERE).get_by_role("button", name="Replace", exact=True).click()
    assert mine_ml(page) == pytest.approx(TUMOUR_ML - 20 * VOXEL_ML + size, abs=0.011)
    page.keyboard.press("Control+z")
    assert mine_ml(page) == taken
    expect(page.locator(STATUS)).to_have_text("Saved")


def test_carry_on(page, served):
    """An answer, or one's own mask, goes on to the slices beside it: a suggestion, never an edit.

    The block at the left, anterior, superior is bright on the last six slices, and only there.
    Taken it is one stroke; stopped on the way it leaves what was there.
    """
    expect = sync_api.expect
    show(page, served, "f-carry")
    suggestion, walk = page.locator(f"{HERE} .suggestion"), page.locator(f"{HERE} .walk")
    carry = page.locator(HERE).get_by_role("button", name="Carry on")
    expect(carry).to_be_enabled()
    start = page.locator(VOLUMES).text_content()
    page.keyboard.press("a")
    drag(page, (SHAPE[0] - 7.8, 0.2), (SHAPE[0] - 0.2, 9.8))
    expect(suggestion).to_be_visible()
    page.keyboard.press("g")
    last = SHAPE[2]
    expect(suggestion).to_contain_text(f"on slices {last - 5} to {last}")
    expect(walk).to_be_hidden()
    assert page.locator(VOLUMES).text_content() == start
    page.keyboard.press("Enter")
    taken = mine_ml(page)
    assert taken - TUMOUR_ML > 6 * 8 * 10 * VOXEL_ML - 0.02
    page.keyboard.press("Control+z")
    assert page.locator(VOLUMES).text_content() == start
    page.keyboard.press("Control+y")
    assert mine_ml(page) == taken
    expect(page.locator(STATUS)).to_have_text("Saved")

    # From one's own mask on this slice; the server hangs, and the reader stops it.
    page.route("**/carry", lambda _: None)
    page.keyboard.press("g")
    expect(walk).to_be_visible()
    page.keyboard.press("Backspace")
    expect(walk).to_be_hidden()
    expect(page.locator(STATUS)).to_have_text("Stopped")
    page.unroute("**/carry")
    page.keyboard.press("g")
    expect(suggestion).to_contain_text("on slices")
    expect(walk).to_be_hidden()  # while it is under way Backspace stops it
    assert mine_ml(page) == taken
    page.keyboard.press("Backspace")
    expect(suggestion).to_be_hidden()
    assert mine_ml(page) == taken


def lesions(page):
    """The list of lesions as it is written: size, diameters, slice."""
    rows = page.locator(f"{HERE} .lesions li")
    return [rows.nth(n).locator("span").all_text_contents() for n in range(rows.count())]


def test_lesions(page, served):
    """Each part of the mask is listed with size, diameters and slice; a click leads there.

    The list follows edits. A block of 4 x 5 pixels is longest from the middle of one outer edge to
    that of the opposite one: the root of 3 x 3 + 5 x 5.
    """
    expect = sync_api.expect
    show(page, served, "b-lesions")
    rows = page.locator(f"{HERE} .lesions li")
    expect(rows).to_have_count(1)
    (first,) = lesions(page)
    assert first[0] == f"{TUMOUR_ML:.2f} ml"
    assert first[1].startswith(f"{np.hypot(3, 5):.1f} \u00d7 ")
    assert first[2] in {f"slice {k + 1}" for k in range(SHAPE[2] - 5, SHAPE[2] - 1)}

    for _ in range(3):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("p")
    for place in ((20, 20), (26, 20), (26, 32), (20, 32)):
        page.mouse.click(*on_plane(page, "axial", place, SHAPE[:2]))
    page.keyboard.press("Enter")
    expect(rows).to_have_count(2)
    largest, second = lesions(page)
    assert largest[0] == f"{TUMOUR_ML:.2f} ml"
    assert float(second[0].split()[0]) == pytest.approx(6 * 12 * VOXEL_ML, abs=0.006)
    long, _, wide, unit = second[1].split()
    assert float(long) == pytest.approx(np.hypot(5, 12), abs=0.06)
    assert unit == "mm"
    assert float(wide) == pytest.approx(6 * 13 / 12, abs=0.06)  # across, between the long sides
    caption = page.locator(f"{HERE} [data-plane=axial] .caption")
    assert caption.text_content() == f"Axial, {second[2]} of {SHAPE[2]}"

    rows.nth(0).get_by_role("button").click()
    expect(caption).to_have_text(f"Axial, {largest[2]} of {SHAPE[2]}")
    page.keyboard.press("Control+z")
    expect(rows).to_have_count(1)
    # A ball of 25 voxels across is as long as it is wide; one voxel of 1 x 2 mm is 2 mm long.
    even, tall = page.evaluate(BALL)
    assert [one["voxels"] for one in even] == [even[0]["voxels"], 1]
    assert even[0]["length"] == pytest.approx(25, abs=0.1)
    assert even[0]["width"] == pytest.approx(25, abs=0.1)
    assert tall[1]["length"] == pytest.approx(2)
    assert tall[0]["length"] == pytest.approx(50, abs=0.1)


BALL = """
async () => {
  const own = (name) => performance.getEntriesByType("resource")
    .find((e) => e.name.endsWith(`/${name}.js`)).name;
  const { findLesions } = await import(own("lesions"));
  const { Volume, PLANES, MINE } = await import(own("volume"));
  const volume = new Volume({ shape: [40, 40, 40], spacing: [1, 1, 1], letters: [] });
  const bytes = new Uint8Array(40 ** 3);
  for (let z = 0, at = 0; z < 40; z++) for (let y = 0; y < 40; y++) for (let x = 0; x < 40; x++) {
    bytes[at++] = Math.hypot(x - 20, y - 20, z - 20) <= 12 ? 1 : 0;
  }
  bytes[0] = 1;
  volume.setMask(bytes, [0, 40, 0, 40, 0, 40], MINE);
  return [[1, 1, 1], [1, 2, 1]].map((size) => findLesions(volume, PLANES.axial, size));
}
"""


def press(page, *keys):
    """Press keys one after the other; "ArrowUp*3" three times."""
    for key in keys:
        name, _, times = key.partition("*")
        for _ in range(int(times or 1)):
            page.keyboard.press(name)


def test_everything_by_keyboard(page, served):
    """No mouse: brush, eraser, polygon, ruler, box and points, by a cursor that arrows move."""
    expect = sync_api.expect
    show(page, served, "c-keyboard")
    page.locator(f"{HERE} [data-plane=axial] canvas").focus()
    press(page, "ArrowUp", "b", "k")
    start = mine_ml(page)
    # Away from the tumour, down, along ten pixels, up.
    press(page, "Shift+ArrowDown*2", "Space", "Shift+ArrowRight", "Space")
    painted = mine_ml(page) - start
    assert painted > 10 * 4 * VOXEL_ML
    press(page, "ArrowDown*2")  # the tool is up: nothing more is drawn
    assert mine_ml(page) - start == pytest.approx(painted, abs=1e-9)
    press(page, "e", "Space", "Shift+ArrowLeft", "Space")
    assert mine_ml(page) - start < painted
    press(page, "Control+z*2")
    assert mine_ml(page) == pytest.approx(start, abs=0.001)

    press(page, "p", "Space", "ArrowRight*8", "Space", "ArrowDown*6", "Space")
    press(page, "ArrowLeft*8", "Space", "Enter")
    assert mine_ml(page) - start == pytest.approx(8 * 6 * VOXEL_ML, abs=0.02)
    press(page, "Control+z")

    expect(page.locator(STATUS)).to_have_text("Saved")
    press(page, "m", "Space", "ArrowRight*9", "Space")
    expect(page.locator(STATUS)).to_have_text("9.0 mm")

    expect(page.locator(HERE).get_by_role("button", name="Box", exact=True)).to_be_enabled()
    press(page, "a", "Space", "ArrowLeft*9", "ArrowUp*9", "Space")
    expect(page.locator(f"{HERE} .suggestion")).to_be_visible()
    press(page, "Enter")
    assert mine_ml(page) - start == pytest.approx(81 * VOXEL_ML, abs=0.03)
    press(page, "q", "Space")
    expect(page.locator(f"{HERE} .suggestion")).to_be_visible()
    press(page, "Backspace", "k", "ArrowDown")
    assert page.locator(f"{HERE} .suggestion").is_hidden()
    # Zoom, pan and back.
    press(page, "+*3", "Shift+ArrowLeft", "-", "0")
    expect(page.locator(STATUS)).not_to_have_text("Saving ...")


def test_uncertainty(page, served):
    """Where the model was even, the picture glows; where it was sure, it does not."""
    show(page, served, "d-heat")
    # Left and posterior are at the right and below.
    inside, outside = (SHAPE[0] - 5, SHAPE[1] - 5), (SHAPE[0] // 2, SHAPE[1] - 5)
    box = page.locator(f"{HERE} [data-plane=axial] canvas").bounding_box()
    points = []
    for place in (inside, outside):
        x, y = on_plane(page, "axial", place, SHAPE[:2])
        points.append([(x - box["x"]) / box["width"], (y - box["y"]) / box["height"]])
    before = colours(page, "axial", points)
    page.keyboard.press("u")
    sync_api.expect(page.locator(f"{HERE} .legend")).to_be_visible()
    page.wait_for_timeout(300)
    glowing, dark = colours(page, "axial", points)
    assert dark == before[1]
    assert glowing[0] > before[0][0] + 100
    page.keyboard.press("u")
    page.wait_for_timeout(300)
    assert colours(page, "axial", points) == before


def test_prior_study(page, served):
    """Another study of the patient stands beside it, at the same place, whatever its grid.

    Right is on the left there as well. The other has every second slice only, and takes no paint.
    """
    expect = sync_api.expect
    show(page, served, "e-prior")
    assert page.locator(f"{HERE} .plane").count() == 3
    page.get_by_role("combobox", name="Another study").select_option(
        label="29 days earlier (z-old)"
    )
    other = page.locator(f"{HERE} [data-plane=other]")
    own = page.locator(f"{HERE} [data-plane=axial] .caption")
    expect(other.locator(".caption")).to_be_visible()
    shown = int(own.text_content().split()[2])
    while shown % 2 == 0:
        page.keyboard.press("ArrowUp")
        expect(own).to_have_text(f"Axial, slice {shown - 1} of {SHAPE[2]}")
        shown -= 1
    half = (shown - 1) // 2 + 1
    expect(other.locator(".caption")).to_have_text(
        f"29 days earlier (z-old), slice {half} of {SHAPE[2] // 2}"
    )
    letters = [other.locator(f".letter.{place}").text_content() for place in ("left", "top")]
    assert letters == ["R", "A"]
    corners = []
    for plane in ("axial", "other"):
        box = page.locator(f"{HERE} [data-plane={plane}] canvas").bounding_box()
        points = []
        for place in ((2, 2), (SHAPE[0] - 3, 2)):
            x, y = on_plane(page, plane, place, SHAPE[:2])
            points.append([(x - box["x"]) / box["width"], (y - box["y"]) / box["height"]])
        corners.append([red for red, _, _ in colours(page, plane, points)])
    (right, left), (old_right, old_left) = corners
    assert right > left > 100
    assert old_right > 200
    assert old_left < 60
    before = page.locator(VOLUMES).text_content()
    page.keyboard.press("b")
    page.mouse.click(*on_plane(page, "other", (10, 10), SHAPE[:2]))
    assert page.locator(VOLUMES).text_content() == before
    page.keyboard.press("y")
    expect(other).to_have_count(0)


def test_accessible(page, served):
    """Axe finds nothing serious on worklist and case, and what has the focus is seen to have it."""
    pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    sign_in(page, served[1], "Dr. Lee")
    button = page.get_by_role("button", name="Open the next open case")
    sync_api.expect(button).to_be_enabled()
    assert grave_faults(page) == []
    show(page, served, "e-prior")
    sync_api.expect(page.locator(f"{HERE} .lesions li")).to_have_count(1)
    press(page, "y")
    sync_api.expect(page.locator(f"{HERE} [data-plane=other]")).to_be_visible()
    box = page.locator(HERE).get_by_role("button", name="Box", exact=True)
    sync_api.expect(box).to_be_enabled()
    press(page, "o", "a")
    drag(page, (16, 20), (26, 28))
    sync_api.expect(page.locator(f"{HERE} .suggestion")).to_be_visible()
    press(page, "Enter")
    assert grave_faults(page) == []
    page.get_by_role("combobox", name="Reason").select_option("other")
    assert grave_faults(page) == []
    page.locator(f"{HERE} [data-tool=look]").focus()
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None:
            break
        seen.append(focused)
    assert len(seen) > 30
    assert [name for name, visible in seen if not visible] == []
