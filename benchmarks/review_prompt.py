"""A box on the review page: how long until the model's suggestion is drawn.

    python benchmarks/review_prompt.py [--size 256,256,256] [--boxes 20]

Needs the weights of MobileSAM (`evenhand weights get mobile-sam`). The embedding of the case is
there before, as it is when the page has read a case: that of a middle slice, for all slices.
Timed in Debian's Chromium, headless, without a GPU: from letting the mouse go, through request,
model and answer, to the end of the frame in which the suggestion is drawn.
Median and 95th percentile in ms, as one JSON line.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright
from review_page import CHROMIUM, CHROMIUM_ARGS, PATIENCE_MS, free_port, make_run, served, summary

from evenhand.cases.store import CaseStore
from evenhand.config import DataConfig, ExperimentConfig, ModelConfig
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.model.adapter_files import save_adapter

HERE = ".evenhand:not([data-left])"

# The mouse is let go, and the clock runs until a frame shows the suggestion.
TIMED = """
async ([x0, y0, x1, y1]) => {
  const find = (root) => {
    for (const node of root.querySelectorAll("*")) {
      if (node.matches?.(".evenhand:not([data-left])")) return node;
      const inner = node.shadowRoot && find(node.shadowRoot);
      if (inner) return inner;
    }
    return null;
  };
  const page = find(document), canvas = page.querySelector(".plane canvas");
  const answer = page.querySelector(".suggestion [role=status]");
  canvas.setPointerCapture = () => undefined;
  answer.textContent = "";
  const point = (type, clientX, clientY) => canvas.dispatchEvent(new PointerEvent(type, {
    bubbles: true, cancelable: true, pointerId: 1, button: 0, buttons: 1, clientX, clientY }));
  point("pointerdown", x0, y0);
  point("pointermove", x1, y1);
  const start = performance.now();
  point("pointerup", x1, y1);
  while (!answer.textContent) {
    await new Promise((done) => setTimeout(done, 2));
    if (performance.now() - start > 60000) {
      throw new Error(page.querySelector(".status").textContent || "no answer");
    }
  }
  await new Promise((done) => requestAnimationFrame(done));
  canvas.getContext("2d").getImageData(0, 0, 1, 1);
  return performance.now() - start;
}
"""


def give_model(folder: Path) -> None:
    """Put config, an adapter and an embedding into the run."""
    config = ExperimentConfig(
        name="benchmark",
        data=DataConfig(source=folder, sequences=("FLAIR",)),
        model=ModelConfig(head="none"),
    )
    run = RunFolder(folder)
    run.config_path.write_text(config.model_dump_json(), encoding="utf-8")
    model = build_model(config)
    adapter = run.arm("federated").adapter_path
    save_adapter(adapter, model, config_fingerprint="benchmark", training={"arm": "federated"})
    home = run.hospital("north")
    cache = home.cache(model, "FLAIR")
    case = home.store().case("n001")
    middle = case.shape[2] // 2
    image = home.store().volumes(case, ("FLAIR",)).images["FLAIR"][:, :, middle - 1 : middle + 2]
    few = CaseStore.create(folder / "few", "north")
    thin = few.add(
        case_id="thin",
        patient=case.patient,
        affine=case.affine,
        images={"FLAIR": np.ascontiguousarray(image)},
        mask=None,
        source="benchmark",
    )
    cache.fill(few, [thin], lambda _: None)
    np.save(cache.path(case), np.repeat(cache.read(thin)[1:2], case.shape[2], axis=0))


def measure(page: Page, url: str, boxes: int) -> list[float]:
    """Draw boxes, each on another slice."""
    page.goto(url)
    name = page.get_by_role("textbox", name="Reader")
    name.fill("Benchmark")
    name.press("Enter")
    page.locator(".stMain").get_by_role("button", name="Open", exact=True).first.click()
    page.locator(f"{HERE}[data-ready]").wait_for()
    page.locator(f"{HERE} [data-tool=box]:not(:disabled)").wait_for()
    page.keyboard.press("a")
    box = page.locator(f"{HERE} .plane canvas").first.bounding_box()
    if box is None:
        raise SystemExit("The viewer is not on the screen.")
    times = []
    for number in range(boxes + 1):
        x, y = box["x"] + box["width"] / 3 + 3 * number, box["y"] + box["height"] / 3
        times.append(page.evaluate(TIMED, [x, y, x + 120, y + 90]))
        page.keyboard.press("ArrowDown")
        page.wait_for_timeout(200)
    return times


def main() -> None:
    """Read the command line and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="256,256,256")
    parser.add_argument("--boxes", type=int, default=20)
    given = parser.parse_args()
    x, y, z = (int(part) for part in given.size.split(","))
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = Path(scratch) / "run"
        make_run(folder, (x, y, z))
        give_model(folder)
        port = free_port()
        here = str(Path(sys.executable).with_name("evenhand"))
        command = [here, "review", str(folder), "--port", str(port), "--no-browser"]
        with served(command, port) as url:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(PATIENCE_MS)
            first, *others = measure(page, url, given.boxes)
            browser.close()
    load = round(os.getloadavg()[0], 1)
    found = {"shape": [x, y, z], "load_average": load, "first_ms": round(first, 1)}
    print(json.dumps({**found, "prompt": summary(others)}))


if __name__ == "__main__":
    main()
