"""A browser for all tests; a server and a page of its own for each, which must end without an error."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fixture import Admin
from playwright.sync_api import Browser, Page, expect, sync_playwright

# Much longer than anything takes: a busy machine may be late, a page that is wrong stays wrong.
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "no Chromium: harness/scripts/test-page says how to get one"
    with sync_playwright() as playwright:
        # Without a sandbox because that is not to be had for root and in containers; the pages are our own.
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield running
        running.close()


@pytest.fixture
def admin() -> Iterator[Admin]:
    """A server with canned answers."""
    running = Admin()
    yield running
    running.stop()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens pages. Afterwards none of them may have reported an error or asked another origin.

    `lossy` is for a page that loses its connection, which browsers always report; `clock` for one whose time
    the test decides.
    """
    opened: list[tuple[Any, str, list[str], list[str]]] = []

    def go(url: str, width: int = 1280, height: int = 900, lossy: bool = False, before: str = "", clock: bool = False, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        if clock:
            page.clock.install()
        if before:
            page.add_init_script(before)
        errors: list[str] = []
        asked: list[str] = []
        opened.append((context, url, errors, asked))
        page.on("pageerror", lambda error: errors.append(f"{error}"))
        page.on("request", lambda request: asked.append(request.url))

        def console(message: Any) -> None:
            # When a network interface comes or goes (a container starts, for example), the browser aborts running requests. The
            # page asks again.
            network_changed = "ERR_NETWORK_CHANGED" in message.text
            if not network_changed and not (lossy and message.text.startswith("Failed to load resource")):
                errors.append(f"{message.type}: {message.text}")

        page.on("console", console)
        page.goto(url)
        return page

    yield go
    for context, url, errors, asked in opened:
        context.close()
        assert errors == [], "the page must not write to the console"
        strangers = [other for other in asked if not other.startswith((url, "data:"))]
        assert strangers == [], "the page must ask nobody but its own origin"
