"""Debian's Chromium, headless, through Playwright: for tests that need a real browser."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
from playwright.async_api import Browser, Page, ViewportSize, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

DESK = ViewportSize(width=1280, height=900)
PHONE = ViewportSize(width=360, height=740)
LOOKS: dict[str, tuple[ViewportSize, Literal["light", "dark"]]] = {
    "light": (DESK, "light"), "dark": (DESK, "dark"), "phone": (PHONE, "light"), "phone-dark": (PHONE, "dark"),
}  # fmt: skip

EXPECTED = ("net::ERR_", "WebSocket connection to", "status of 401", "status of 403", "EventSource's response")
"""Refused connections and logins, and a login in the place of a stream, are console errors too, and are what some tests
are about."""


def find_chromium() -> str:
    """The path of the system's Chromium. A missing one is a failure: a skipped browser test proves nothing."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.fail("Chromium is missing; on Debian, type: apt-get install -y chromium")


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Browser]:
    """A browser with an empty profile of its own (Playwright makes and removes it)."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            await browser.close()


async def looks(page: Page) -> AsyncIterator[str]:
    """Each look of a page, by name, for a screenshot; fails if any is wider than its window."""
    for look, (viewport, scheme) in LOOKS.items():
        await page.set_viewport_size(viewport)
        await page.emulate_media(color_scheme=scheme)
        await page.evaluate("document.getAnimations().forEach(each => each.finish())")  # from one colour to the other
        yield look
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), look


class Watched:
    """What went wrong inside a page: uncaught exceptions and violations of its Content-Security-Policy."""

    def __init__(self, page: Page) -> None:
        self.troubles: list[str] = []
        page.on("pageerror", lambda error: self.troubles.append(f"exception: {error}"))
        page.on("dialog", lambda dialog: self.troubles.append(f"dialog: {dialog.message}"))
        page.on("console", lambda message: self._console(message.type, message.text))

    def _console(self, kind: str, text: str) -> None:
        if kind == "error" and not any(expected in text for expected in EXPECTED):
            self.troubles.append(f"console: {text}")
