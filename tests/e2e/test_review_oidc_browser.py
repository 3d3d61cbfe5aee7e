"""Login by OIDC in a real browser, with a provider that is another program."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.parse import urlsplit

import pytest
from review_browser import (
    CHROMIUM,
    CHROMIUM_ARGS,
    START_LIMIT_MS,
    is_listening,
    served,
    wait_ready,
)

from evenhand.review import ReviewStore, Verdict
from evenhand_federated.serve import free_port
from review_people import WORDS, with_people
from review_run import make_review_run

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
    # Not imported here: what it imports warns of itself.
    pytest.mark.skipif(
        find_spec("oidc_provider_mock") is None, reason="oidc-provider-mock is not installed"
    ),
]

PATIENCE_MS = 60_000

USERS = {
    "reader": {"email": "r1@hospital", "email_verified": True},
    "auditor": {"email": "aud@hospital", "email_verified": True},
    # Some providers let people write whatever address they like.
    "pretender": {"email": "r1@hospital", "email_verified": False},
    "stranger": {"email": "someone@elsewhere", "email_verified": True},
}

SECRETS = """
[auth]
redirect_uri = "http://127.0.0.1:{port}/oauth2callback"
cookie_secret = "0123456789abcdef0123456789abcdef-made-up"
client_id = "evenhand"
client_secret = "made-up"
server_metadata_url = "http://127.0.0.1:{provider}/.well-known/openid-configuration"
"""


@contextmanager
def provider():
    """An OpenID provider that knows `USERS`; yields its port."""
    port = free_port()
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)]
    for sub, claims in USERS.items():
        command += ["--user-claims", json.dumps({"sub": sub, **claims})]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + START_LIMIT_MS / 1000
            while not is_listening(port):
                assert process.poll() is None, "the provider ended"
                assert time.monotonic() < until, "the provider did not start"
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def browser():
    """A headless Chromium."""
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        try:
            sync_api.expect.set_options(timeout=PATIENCE_MS)
            yield opened
        finally:
            opened.close()


def visit(chromium, port):
    """Go to the page in a window of one's own, which reaches this machine only."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    # The provider's pages want a style sheet from elsewhere.
    context.route(lambda url: urlsplit(url).hostname != "127.0.0.1", lambda route: route.abort())
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"http://127.0.0.1:{port}")
    return page


def log_in(page, user):
    """Go through the provider's form."""
    page.get_by_role("button", name="Log in").click()
    page.locator("button[name=sub]", has_text=user).first.click()


def log_out(page):
    """Leave, and confirm it to the provider."""
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("button", name="End session").click()


def test_login(tmp_path):
    """A verified address gets its role, and only that; nobody else sees a case.

    Refused: who has not logged in, who is not on the list, and who has written a reader's
    address at the provider without proving it. Who logs out lets the next person in at the
    same window, and takes their tickets along. What the reader signs carries the login's kind.
    """
    folder = with_people(make_review_run(tmp_path / "run"))
    (folder / "review" / "rules.toml").write_text('login = "oidc"\n', encoding="utf-8")
    port, expect = free_port(), sync_api.expect
    (tmp_path / ".streamlit").mkdir()
    with provider() as at, browser() as chromium:
        secrets = SECRETS.format(port=port, provider=at)
        (tmp_path / ".streamlit" / "secrets.toml").write_text(secrets, encoding="utf-8")
        with served(folder, port, cwd=tmp_path):
            page = visit(chromium, port)
            expect(page.get_by_role("button", name="Log in")).to_be_visible()
            assert "n001" not in page.content()
            for user in ("pretender", "stranger"):
                log_in(page, user)
                expect(page.get_by_text("not on the list of people")).to_be_visible()
                assert "n001" not in page.content()
                log_out(page)

            log_in(page, "auditor")
            expect(page.get_by_text("Dr. AUD (aud)")).to_be_visible()
            expect(page.get_by_role("button", name="Open the next open case")).to_have_count(0)
            log_out(page)

            log_in(page, "reader")
            expect(page.get_by_text("Dr. R1 (r1)")).to_be_visible()
            with page.expect_request("**/image/0") as asked:
                page.get_by_role("button", name="Open the next open case").click()
            image = asked.value
            wait_ready(page)
            page.get_by_label("Reason").select_option("boundary")
            page.get_by_role("button", name="Reject").click()
            page.get_by_label("Passphrase").fill(WORDS)
            page.get_by_role("button", name="Sign", exact=True).click()
            expect(page.get_by_text("n002", exact=True)).to_be_visible()

            ticket = {"X-Evenhand-Ticket": image.headers["x-evenhand-ticket"]}
            assert page.request.get(image.url, headers=ticket).status == 200
            page.get_by_role("button", name="Log out").click()
            expect(page.get_by_role("button", name="End session")).to_be_visible()
            assert page.request.get(image.url, headers=ticket).status == 403
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        (entry,) = store.entries()
    decision = entry.decision
    assert (decision.reader, decision.login, decision.verdict) == ("r1", "oidc", Verdict.REJECT)
    assert decision.signature.name == "Dr. R1"
