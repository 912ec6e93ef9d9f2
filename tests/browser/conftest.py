"""A real browser against the real app."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from lowrank_diffusion.paths import PROJECT
from tests.app_process import chromium, running_app

SCREENSHOTS = PROJECT / "build" / "screenshots"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-prefers-reduced-motion"]
"""Without a GPU, what moves on a page costs as much as a training."""
QUIET = """([quiet, most]) => new Promise((done) => {
  const began = performance.now();
  let last = began;
  const seen = new MutationObserver(() => { last = performance.now(); });
  seen.observe(document, { childList: true, subtree: true, attributes: true, characterData: true });
  const look = () => {
    const now = performance.now();
    if (document.getAnimations().some((one) => one.playState === 'running')) last = now;
    if (now - last < quiet && now - began < most) return void setTimeout(look, 50);
    seen.disconnect();
    done();
  };
  look();
})"""
"""Waits until nothing on the page has changed for so many milliseconds, or for so many at most."""

expect.set_options(timeout=60_000)  # two cores train and draw meanwhile


@dataclass
class Studio:
    """A running app, a browser window on it, and what went over the wire."""

    url: str
    home: Path
    window: BrowserContext
    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    leaving: bool = False

    def open(self, query: str = "") -> Page:
        """A new page on the app, watched."""
        page = self.window.new_page()
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname or ""))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._said)
        page.goto(self.url + query)
        page.locator("#start").wait_for()
        return page

    def reload(self, page: Page) -> None:
        """As by F5; what Gradio says of answers that the page no longer waits for does not count."""
        self.leaving = True
        page.reload()
        self.leaving = False

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not self.leaving:
            self.errors.append(message.text)


def settled(page: Page, quiet: int, most: int) -> None:
    """See :data:`QUIET`. For what shows in nothing that could be expected, such as the end of a fade."""
    page.evaluate(QUIET, [quiet, most])


def shot(page: Page, name: str) -> None:
    """Keep a picture of the page for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    settled(page, 150, 700)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, else the one Playwright installed."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def studio(browser: Browser, home: Path) -> Iterator[Studio]:
    """An app in its own home; at the end it has called no other host, and neither console nor log holds an error."""
    with running_app(home) as url:
        window = browser.new_context(viewport={"width": 1360, "height": 900}, accept_downloads=True)
        studio = Studio(url, home, window)
        yield studio
        window.close()
    assert studio.hosts - {""} == {"127.0.0.1"}, "the page called another host"
    assert studio.errors == []
    assert_quiet(home)


def assert_quiet(home: Path) -> None:
    """The app has said where it is, and nothing since."""
    said = (home / "app.txt").read_text(encoding="utf-8").splitlines()
    assert len(said) == 1 and said[0].startswith("Lowrank Diffusion is at http"), said
