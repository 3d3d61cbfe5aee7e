"""The review page as a clinician meets it: the real command, a real browser, one decision."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from evenhand.cases.store import array_sha256
from evenhand.review import ReviewStore, Verdict
from review_run import TUMOUR_SLICES, make_review_run, proposed_mask

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


@pytest.fixture
def folder(tmp_path):
    """A run folder."""
    return make_review_run(tmp_path / "run")


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(port):
    """Whether somebody answers at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def served(folder):
    """`evenhand review` on a free port, ended at the end; yields process and port."""
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("evenhand")),
        *("review", str(folder), "--port", str(port), "--no-browser"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
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


@pytest.fixture
def page():
    """A page of a fresh headless Chromium, with what its console and network complained about."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        try:
            yield browser.new_page(viewport={"width": 1440, "height": 900})
        finally:
            browser.close()


def test_look_accept_recorded(served, page, folder):
    """A reader steps through the tumour, accepts, and the decision is in SQLite; nobody is called.

    Nothing but the page's own address is asked for: a hospital network is closed.
    """
    _, port = served
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://127.0.0.1:{port}")
    name = page.get_by_role("textbox", name="Reader")
    name.fill("Dr. Lee")
    name.press("Enter")
    page.get_by_role("button", name="Open the next open case").click()

    picture = page.get_by_role("img", name="Slice")
    accept = page.get_by_role("button", name="Accept")
    expect = sync_api.expect
    # It opens on the largest proposed area, k = 3, in radiological display.
    expect(picture).to_have_attribute(
        "alt", r"Slice 4 of 6, axial, tumour proposed; R of the patient is on the left"
    )
    expect(accept).to_be_disabled()
    for seen in range(2, len(TUMOUR_SLICES) + 1):
        page.keyboard.press("n")
        expect(page.get_by_text(f"Seen {seen} of {len(TUMOUR_SLICES)} slices")).to_be_visible()
    expect(accept).to_be_enabled()
    accept.click()
    expect(page.get_by_role("heading", name="n002")).to_be_visible()

    with ReviewStore(folder / "review" / "review.sqlite") as store:
        (entry,) = store.entries()
        assert store.verify().broken_at is None
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_whole(served, number):
    """Ctrl-C and a polite kill end the command and the server behind it: nobody listens on."""
    process, port = served
    assert is_listening(port)
    process.send_signal(number)
    assert process.wait(30) == 0
    assert not is_listening(port)
