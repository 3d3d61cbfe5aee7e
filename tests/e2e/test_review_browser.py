"""The review page as a clinician meets it: the real command, a real browser."""

import signal

import numpy as np
import pytest
from review_browser import (
    CHROMIUM,
    SHAPE,
    SPACING_MM,
    STATUS,
    colours,
    entries,
    is_listening,
    on_plane,
    open_case,
    open_first,
    served,
    wait_ready,
)

from evenhand.cases.hashing import array_sha256
from evenhand.review import Reason, Verdict
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
