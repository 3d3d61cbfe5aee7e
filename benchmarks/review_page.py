"""The review page in a real browser: how long a reader waits, and how that compares to st.image.

    python benchmarks/review_page.py [--sizes 256,256,256 512,512,236] [--steps 60]

Makes a run with one synthetic case a size, starts `evenhand review`, and drives Debian's Chromium
(headless, no GPU) as a reader would. Measured, each on this machine in one run:

  step        a slice further: from the key, pressed at any moment, to the end of the frame in which
              all three planes are drawn
  window      window and level changed by one drag movement, likewise
  open        from the click that opens the case to the moment it can be edited; first and again.
              The click comes half a second after the worklist, which reads the first case ahead
  stroke      one movement of the brush, likewise
  save        from the end of a stroke to the server's confirmation
  st.image    the same volume by Streamlit's own way: a slider and one st.image in a fragment;
              from the key to the new picture on the screen, one plane only

Medians and 95th percentiles in ms, as JSON lines on standard output.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Page, sync_playwright

from evenhand.cases.nifti import write_nifti
from evenhand.cases.records import Patient
from evenhand.cases.store import CaseStore
from evenhand.geometry import Affine

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE_MS = 180_000

ST_IMAGE_PAGE = """
import sys
import nibabel as nib
import numpy as np
import streamlit as st

@st.cache_resource
def load(image, mask):
    return [np.asarray(nib.load(path).dataobj) for path in (image, mask)]

@st.fragment
def show():
    image, mask = load(sys.argv[1], sys.argv[2])
    k = st.slider("Slice", 0, image.shape[2] - 1, image.shape[2] // 2)
    grey = np.clip(image[:, :, k] / 1000 * 255, 0, 255).astype(np.uint8).T
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    rgb[mask[:, :, k].T != 0, 0] = 230
    st.image(rgb, caption=f"slice {k}", output_format="PNG", width=700)

st.set_page_config(layout="wide")
show()
"""

# Steps by the page's own keys; each is timed to the frame after the one that draws it.
TIMED = """
async ([count, kind]) => {
  const find = (root) => {
    for (const node of root.querySelectorAll("*")) {
      if (node.matches?.(".evenhand:not([data-left])")) return node;
      const inner = node.shadowRoot && find(node.shadowRoot);
      if (inner) return inner;
    }
    return null;
  };
  const canvas = find(document).querySelector(".plane canvas");
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  // A reader's hand knows nothing of the screen's clock.
  const moment = () => new Promise((done) => setTimeout(done, 20 + Math.random() * 17));
  const box = canvas.getBoundingClientRect();
  const point = (type, x, y, button) => canvas.dispatchEvent(new PointerEvent(type, {
    bubbles: true, cancelable: true, pointerId: 1, button, buttons: 1,
    clientX: box.left + x, clientY: box.top + y }));
  canvas.setPointerCapture = () => undefined;
  const times = [];
  if (kind !== "step") point("pointerdown", 200, 200, kind === "window" ? 2 : 0);
  for (let n = 0; n < count; n++) {
    await moment();
    const start = performance.now();
    if (kind === "step") {
      dispatchEvent(new KeyboardEvent("keydown", {
        key: n < count / 2 ? "ArrowDown" : "ArrowUp", bubbles: true, cancelable: true }));
    } else point("pointermove", 200 + 2 * n, 200 + n, 0);
    await frame();
    canvas.getContext("2d").getImageData(0, 0, 1, 1);  // what was asked for is drawn
    times.push(performance.now() - start);
  }
  if (kind !== "step") point("pointerup", 200 + 2 * count, 200 + count, 0);
  return times;
}
"""


def volume(shape: tuple[int, int, int]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Make a head of noise with a tumour of a sixth of its width."""
    rng = np.random.default_rng(0)
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    inside = sum(axis**2 for axis in axes) < 0.9
    image = np.where(inside, rng.integers(200, 900, shape), 0).astype(np.float32)
    tumour = sum((axis - 0.2) ** 2 for axis in axes) < 1 / 36
    return image, tumour.astype(np.uint8)


def make_run(folder: Path, shape: tuple[int, int, int]) -> None:
    """Write a run with two cases of one volume."""
    image, mask = volume(shape)
    affine = Affine(np.diag([-1.0, -1.0, 1.0, 1.0]))
    store = CaseStore.create(folder / "hospitals" / "north" / "store", "north")
    masks = folder / "arms" / "federated" / "masks"
    masks.mkdir(parents=True)
    for case_id in ("n001", "n002"):
        store.add(
            case_id=case_id,
            patient=Patient(patient_id=f"p-{case_id}", hospital="north"),
            affine=affine,
            images={"FLAIR": image},
            mask=None,
            source="benchmark",
        )
        write_nifti(masks / f"{case_id}.nii.gz", mask, affine)
    (folder / "config.json").write_text('{"data": {"units": "mm"}}', encoding="utf-8")


@contextmanager
def served(command: Sequence[str], port: int) -> Iterator[str]:
    """Run a server until the block is left; yields its address."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:  # noqa: S603 - our own
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def summary(times_ms: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {
        "median_ms": round(statistics.median(times_ms), 1),
        "p95_ms": round(float(np.percentile(times_ms, 95)), 1),
        "n": len(times_ms),
    }


def measure_page(page: Page, url: str, steps: int) -> dict[str, Any]:
    """Measure the review page."""
    page.goto(url)
    name = page.get_by_role("textbox", name="Reader")
    name.fill("Benchmark")
    name.press("Enter")
    ready = page.locator(".evenhand[data-ready]:not([data-left])")
    opened: list[float] = []
    in_viewer: list[int] = []
    for case in (0, 0):
        button = page.locator(".stMain").get_by_role("button", name="Open", exact=True).nth(case)
        button.wait_for(timeout=PATIENCE_MS)
        page.wait_for_timeout(500)
        start = time.perf_counter()
        button.click()
        ready.wait_for(timeout=PATIENCE_MS)
        opened.append((time.perf_counter() - start) * 1000)
        in_viewer.append(int(ready.get_attribute("data-ready") or 0))
        if len(opened) == 1:
            page.get_by_role("button", name="Worklist").click()
    page.wait_for_timeout(1000)
    found: dict[str, Any] = {
        "open_first_ms": round(opened[0]),
        "open_again_ms": round(opened[1]),
        "of_it_in_the_viewer_ms": in_viewer,
        "step": summary(page.evaluate(TIMED, [steps, "step"])),
        "window": summary(page.evaluate(TIMED, [steps, "window"])),
    }
    page.keyboard.press("b")
    found["stroke"] = summary(page.evaluate(TIMED, [steps, "stroke"]))
    found["save"] = summary(saves(page))
    return found


def saves(page: Page, count: int = 10) -> list[float]:
    """From the end of a stroke to the server's word that it has it."""
    times = []
    page.locator(".evenhand:not([data-left]) .status[data-kind=good]").wait_for()
    box = page.locator(".plane canvas").first.bounding_box()
    if box is None:
        raise SystemExit("The viewer is not on the screen.")
    for number in range(count):
        page.mouse.move(box["x"] + 150 + 9 * number, box["y"] + 260)
        page.mouse.down()
        page.mouse.move(box["x"] + 170 + 9 * number, box["y"] + 300, steps=3)
        with page.expect_response(lambda r: r.url.endswith("/draft") and r.status == 200):
            start = time.perf_counter()
            page.mouse.up()
        times.append((time.perf_counter() - start) * 1000)
    return times


def measure_st_image(page: Page, url: str, steps: int) -> dict[str, float]:
    """Measure one st.image in a fragment, stepped by its slider."""
    page.goto(url)
    caption = page.get_by_text("slice ", exact=False).last
    page.locator("img").first.wait_for(timeout=PATIENCE_MS)
    slider = page.get_by_role("slider")
    slider.focus()
    times = []
    for _ in range(steps):
        source = page.locator("img").first.get_attribute("src")
        start = time.perf_counter()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "(old) => { const i = document.querySelector('img');"
            " return i && i.getAttribute('src') !== old && i.complete; }",
            arg=source,
            polling="raf",
        )
        times.append((time.perf_counter() - start) * 1000)
    caption.wait_for()
    return summary(times)


def measure(shape: tuple[int, int, int], steps: int) -> dict[str, Any]:
    """Measure both pages with one volume, in one browser."""
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = Path(scratch) / "run"
        make_run(folder, shape)
        script = Path(scratch) / "st_image_page.py"
        script.write_text(ST_IMAGE_PAGE, encoding="utf-8")
        image = folder / "hospitals/north/store/cases/n001/FLAIR.nii.gz"
        mask = folder / "arms/federated/masks/n001.nii.gz"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        here, port = str(Path(sys.executable).with_name("evenhand")), free_port()
        review = [here, "review", str(folder), "--port", str(port), "--no-browser"]
        with served(review, port) as url:
            page.wait_for_timeout(3000)
            found = measure_page(page, url, steps)
        port = free_port()
        plain = [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless=true"]
        plain += [f"--server.port={port}", "--server.address=127.0.0.1"]
        plain += ["--browser.gatherUsageStats=false", "--", str(image), str(mask)]
        with served(plain, port) as url:
            found["st.image"] = measure_st_image(page, url, min(steps, 20))
        browser.close()
    return {"shape": shape, "load_average": round(os.getloadavg()[0], 1), **found}


def main() -> None:
    """Read the command line and print one line a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["256,256,256", "512,512,236"])
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    for size in given.sizes:
        x, y, z = (int(part) for part in size.split(","))
        print(json.dumps(measure((x, y, z), given.steps)), flush=True)


if __name__ == "__main__":
    main()
