"""NiiVue with the volume of `review_page.py`: what a reader would wait there, in the same browser.

    npm pack @niivue/niivue@0.69.0 && tar xzf niivue-niivue-0.69.0.tgz
    python benchmarks/review_niivue.py package/dist/index.js [--size 256,256,256] [--steps 20]

NiiVue draws with WebGL; Chromium without a GPU computes that on the processor (SwiftShader), as a
hospital's virtual desktop does. Measured: from the call that loads image and mask to the first
picture, and one slice further to the picture, three planes in both. One JSON line.
"""

import argparse
import functools
import http.server
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
from playwright.sync_api import sync_playwright
from review_page import CHROMIUM, PATIENCE_MS, summary, volume

ARGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PAGE = """<!doctype html><canvas id="c" width="1100" height="700"></canvas><script type="module">
import { Niivue } from "./niivue.js";
window.start = async () => {
  const nv = new Niivue({ multiplanarForceRender: true });
  await nv.attachTo("c");
  const began = performance.now();
  await nv.loadVolumes([{ url: "image.nii" }, { url: "mask.nii", colormap: "red" }]);
  nv.setSliceType(nv.sliceTypeMultiplanar);
  const drawn = () => nv.gl.readPixels(
    0, 0, 1, 1, nv.gl.RGBA, nv.gl.UNSIGNED_BYTE, new Uint8Array(4));
  drawn();
  window.step = async (by) => {
    const from = performance.now();
    nv.moveCrosshairInVox(0, 0, by);
    await new Promise((done) => requestAnimationFrame(done));
    drawn();
    return performance.now() - from;
  };
  return performance.now() - began;
};
window.loaded = true;
</script>"""


def main() -> None:
    """Read the command line and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("script", type=Path)
    parser.add_argument("--size", default="256,256,256")
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    x, y, z = (int(part) for part in given.size.split(","))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        image, mask = volume((x, y, z))
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
        # Plain files: browsers do not unpack gzip of several members.
        for name, voxels in (("image", image.astype(np.int16)), ("mask", mask)):
            nib.Nifti1Image(voxels, affine).to_filename(Path(folder) / f"{name}.nii")
        (Path(folder) / "index.html").write_text(PAGE, encoding="utf-8")
        shutil.copyfile(given.script, Path(folder) / "niivue.js")
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(PATIENCE_MS)
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_function("window.loaded")
            opened = page.evaluate("window.start()")
            times = [page.evaluate("window.step(1)") for _ in range(given.steps)]
            browser.close()
            server.shutdown()
    load = round(os.getloadavg()[0], 1)
    found = {"shape": [x, y, z], "load_average": load, "open_ms": round(opened)}
    print(json.dumps({**found, "step": summary(times)}))


if __name__ == "__main__":
    main()
