"""What the browser tests of the review page share: the real command, a real Chromium."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from evenhand.review import ReviewStore
from evenhand_federated.serve import free_port
from evenhand_ui.options import RUN_VARIABLE, STREAMLIT_OPTIONS
from review_run import asymmetric, make_run_of, stored_as

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
START_LIMIT_MS = 60_000
PATIENCE_MS = 30_000
"""Machines that share cores stall at times."""

SHAPE = (32, 40, 24)
SPACING_MM = (1.0, 1.0, 1.5)
"""Of the asymmetric phantom, in the viewer's axes."""

STATUS = ".evenhand:not([data-left]) .status"
VOLUMES = ".evenhand:not([data-left]) .volumes"


def is_listening(port):
    """Whether somebody answers at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def served(folder, port=None, cwd=None):
    """`evenhand review` on a free port, ended at the end; yields process and port.

    `cwd` is where it is started, and so where Streamlit looks for secrets.
    """
    port = port or free_port()
    command = [
        str(Path(sys.executable).with_name("evenhand")),
        *("review", str(folder), "--port", str(port), "--no-browser"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}"
            yield process, port
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


APP = """
import sys
from pathlib import Path
import streamlit as st
import evenhand_ui
from evenhand_ui.serving import routes
sys.path.insert(0, {tests!r})
{change}
app = st.App(Path(evenhand_ui.__file__).with_name("script.py"), routes=routes())
"""


@contextmanager
def served_changed(folder, scratch, change):
    """The page after some lines of Python that change it; yields the port."""
    script, port = scratch / "changed_app.py", free_port()
    tests = str(Path(__file__).resolve().parents[1])
    script.write_text(APP.format(tests=tests, change=change), encoding="utf-8")
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += [f"--{name}={str(value).lower()}" for name, value in STREAMLIT_OPTIONS.items()]
    environment = {**os.environ, RUN_VARIABLE: str(folder)}
    with subprocess.Popen([*command, f"--server.port={port}"], env=environment) as process:
        try:
            until = time.monotonic() + START_LIMIT_MS / 1000
            while not is_listening(port):
                assert process.poll() is None, "the page ended; was its port taken meanwhile?"
                assert time.monotonic() < until, "the page did not start"
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def served_with_short_tickets(folder, scratch, seconds):
    """The page with tickets that last some seconds only; yields the port."""
    change = f"from evenhand_ui import tickets\ntickets.LIFETIME_S = {seconds}"
    return served_changed(folder, scratch, change)


def sign_in(page, port, reader):
    """Open the page and write a name."""
    page.goto(f"http://127.0.0.1:{port}")
    name = page.get_by_role("textbox", name="Reader")
    name.fill(reader)
    name.press("Enter")


def open_first(page, port, reader="Dr. Lee"):
    """Open the next open case, and wait until it can be edited."""
    sign_in(page, port, reader)
    page.get_by_role("button", name="Open the next open case").click()
    wait_ready(page)


def open_case(page, port, row, reader="Dr. Lee"):
    """Open the case in a row of the worklist, from 0, and wait until it can be edited."""
    sign_in(page, port, reader)
    page.locator(".stMain").get_by_role("button", name="Open", exact=True).nth(row).click()
    wait_ready(page)


def wait_ready(page):
    """Wait until the case on the screen can be edited."""
    page.locator(".evenhand[data-ready]:not([data-left])").wait_for(timeout=START_LIMIT_MS)


# Streamlit draws the viewer into a shadow root; its app is reached from its own element.
SAMPLE = """
([plane, points]) => {
  const find = (root) => {
    for (const node of root.querySelectorAll("*")) {
      if (node.matches?.(".evenhand")) return node;
      const inner = node.shadowRoot && find(node.shadowRoot);
      if (inner) return inner;
    }
    return null;
  };
  const canvas = find(document).querySelector(`[data-plane=${plane}] canvas`);
  const context = canvas.getContext("2d");
  return points.map(([x, y]) => [...context.getImageData(
    Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data].slice(0, 3));
}
"""


def colours(page, plane, points):
    """RGB of points of a plane's canvas; points are shares of width and height."""
    return page.evaluate(SAMPLE, [plane, points])


def on_plane(page, plane, place, size, spacing_mm=(1.0, 1.0)):
    """Where a place (across, down), in pixels from the top left of a slice, lies in the window.

    Worked out from the sizes alone: the slice is centred, and fills 98% of its plane.
    """
    box = page.locator(f".plane[data-plane={plane}] canvas").bounding_box()
    width, height = size[0] * spacing_mm[0], size[1] * spacing_mm[1]
    scale = min(box["width"] / width, box["height"] / height) * 0.98
    left = box["x"] + (box["width"] - width * scale) / 2
    top = box["y"] + (box["height"] - height * scale) / 2
    return left + place[0] * spacing_mm[0] * scale, top + place[1] * spacing_mm[1] * scale


def phantom_run(folder, *case_ids):
    """A run with the asymmetric phantom as each of some cases."""
    image, mask = asymmetric(SHAPE)
    stored, affine = stored_as(image, "LPS")
    proposal, _ = stored_as(mask, "LPS")
    return make_run_of(folder, dict.fromkeys(case_ids, (stored, proposal, affine)))


def brush_stroke(page, across=8.0, down=20.0):
    """One stroke on the axial plane of the phantom."""
    page.keyboard.press("b")
    x, y = on_plane(page, "axial", (across, down), SHAPE[:2])
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 30, steps=5)
    page.mouse.up()


def entries(folder):
    """What was recorded."""
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        assert store.verify().broken_at is None
        return store.entries()


GRAVE = {"serious", "critical"}

FOCUSED = """
() => {
  let at = document.activeElement;
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  if (!at?.closest?.(".evenhand")) return null;
  const style = getComputedStyle(at);
  return [at.getAttribute("aria-label") || at.textContent || at.tagName,
    style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
}
"""


def grave_faults(page):
    """What axe calls serious or critical: rule, impact, and where."""
    from axe_playwright_python.sync_playwright import Axe

    # What Streamlit draws anew is pale for a moment.
    page.wait_for_function("!document.querySelector('[data-stale=true]')")
    found = Axe().run(page).response["violations"]
    return [
        (one["id"], one["impact"], [node["target"] for node in one["nodes"]])
        for one in found
        if one["impact"] in GRAVE
    ]
