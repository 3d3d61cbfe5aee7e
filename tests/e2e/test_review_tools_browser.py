"""What each tool of the viewer does, counted in voxels, through the real command."""

import numpy as np
import pytest
from review_browser import (
    CHROMIUM,
    SHAPE,
    SPACING_MM,
    STATUS,
    VOLUMES,
    on_plane,
    open_case,
    phantom_run,
    served_changed,
)

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


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


def test_tools(page, desk):
    """Ruler, eraser, polygon, fill and "Like this": each does what it says."""
    expect = sync_api.expect

    def mine():
        return float(page.locator(VOLUMES).text_content().partition("mine ")[2].split()[0])

    open_case(page, desk, 0)
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


def test_slices_between_two_discs_are_discs(page, desk):
    """Halfway between discs of 6 and 14 mm lies one of 10 mm, whatever the voxels' shape."""
    open_case(page, desk, 1)
    areas = page.evaluate(BETWEEN)
    expected = [np.pi * radius**2 / 2 for radius in (8, 10, 12)]
    assert areas == pytest.approx(expected, rel=0.08)


def test_no_model_is_told(page, tmp_path):
    """Without a model the tools are off, and a sentence says why."""
    folder = phantom_run(tmp_path / "run", "n001")
    with served_changed(folder, tmp_path, "") as port:
        open_case(page, port, 0)
        sync_api.expect(page.locator(".evenhand .model")).to_contain_text("without the model")
        assert page.get_by_role("button", name="Box", exact=True).is_disabled()
        page.keyboard.press("a")
        page.keyboard.press("u")
        sync_api.expect(page.locator(STATUS)).to_contain_text("kept no probabilities")
        assert page.locator(".evenhand .planes").get_attribute("data-tool") == "look"
