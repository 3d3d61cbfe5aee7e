"""What the browser tests of the review page share: one Chromium a module, a fresh page a test."""

import pytest
from review_browser import CHROMIUM, CHROMIUM_ARGS, PATIENCE_MS, phantom_run, served


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium; tests have windows of their own in it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        try:
            sync_api.expect.set_options(timeout=PATIENCE_MS)
            yield browser
        finally:
            browser.close()


@pytest.fixture
def context(chromium):
    """A window with cookies and drafts of its own."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(2 * PATIENCE_MS)
    context.set_default_navigation_timeout(4 * PATIENCE_MS)  # a server may import torch first
    yield context
    context.close()


@pytest.fixture
def page(context):
    """One page of it, which must not complain on its console."""
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert complaints == []


@pytest.fixture
def phantom(tmp_path):
    """A run with two asymmetric phantoms."""
    return phantom_run(tmp_path / "run", "n001", "n002")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """One server for the tests of a module that have a case each, by row; its port."""
    folder = phantom_run(tmp_path_factory.mktemp("desk") / "run", *(f"n00{n}" for n in range(6)))
    with served(folder) as (_, port):
        yield port
