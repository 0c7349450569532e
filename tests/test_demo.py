"""The demo (examples/chat) in a real browser: its own page, proxy and prefork backend, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser import DESK, Watched, looks
from tests.demo import Demo, running_demo

PATIENCE = 20_000  # ms that an expectation waits: a page that lost its proxy may be in the middle of a pause

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("chat")) as demo:
        yield demo


@asynccontextmanager
async def visitor(browser: Browser, url: str, name: str) -> AsyncIterator[Page]:
    """A person at their own browser, logged in and online; fails if anything went wrong in the page."""
    context: BrowserContext = await browser.new_context(viewport=DESK, locale="en-GB")
    try:
        page = await context.new_page()
        watched = Watched(page)
        await log_in(page, url, name)
        await expect(page.get_by_role("status")).to_have_text("Online")
        yield page
        assert watched.troubles == []
    finally:
        await context.close()


async def log_in(page: Page, url: str, name: str) -> None:
    await page.goto(url)
    await page.get_by_label("Your name").fill(name)
    await page.get_by_role("button", name="Join the chat").click()


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()


async def expect_people(page: Page, *names: str) -> None:
    """The list of who is here, in alphabetical order."""
    await expect(page.locator("#people .name")).to_have_text(list(names))


async def expect_said(page: Page, author: str, text: str) -> None:
    """The message is there exactly once, confirmed by the server, by this author."""
    message = page.locator("#messages > li", has=page.get_by_text(text, exact=True))
    await expect(message).to_have_count(1)
    await expect(message.locator(".author")).to_have_text(author)
    await expect(message.locator(".note")).to_have_count(0)
    await expect(message.locator("time")).to_have_count(1)


class TestChat:
    async def test_two_pages_talk_both_ways(self, demo: Demo, browser: Browser) -> None:
        async with visitor(browser, demo.url, "Ada") as ada, visitor(browser, demo.url, "Blaise") as blaise:
            await say(ada, "Good morning")
            await expect_said(blaise, "Ada", "Good morning")
            await expect_said(ada, "You", "Good morning")
            await say(blaise, "Bonjour")
            await expect_said(ada, "Blaise", "Bonjour")
            await expect(ada.locator("li.own .text")).to_have_text(["Good morning"])
            await expect(blaise.locator("li.own .text")).to_have_text(["Bonjour"])

    async def test_a_newcomer_sees_what_was_said(self, demo: Demo, browser: Browser) -> None:
        async with visitor(browser, demo.url, "Ada") as ada:
            await say(ada, "Said before Carl came")
            await expect_said(ada, "You", "Said before Carl came")
            async with visitor(browser, demo.url, "Carl") as carl:
                await expect_said(carl, "Ada", "Said before Carl came")

    async def test_many_messages_keep_their_order(self, demo: Demo, browser: Browser) -> None:
        async with visitor(browser, demo.url, "Ada") as ada, visitor(browser, demo.url, "Blaise") as blaise:
            for number in range(15):
                await say(ada if number % 3 else blaise, f"number {number}")
                await expect(blaise.get_by_text(f"number {number}", exact=True)).to_have_count(1)
            await expect(ada.locator(".note")).to_have_count(0)
            said = [
                text for text in await ada.locator("#messages .text").all_inner_texts() if text.startswith("number")
            ]
            assert said == [f"number {number}" for number in range(15)]

    async def test_enter_sends_and_shift_enter_breaks_the_line(self, demo: Demo, browser: Browser) -> None:
        async with visitor(browser, demo.url, "Ada") as ada:
            field = ada.get_by_label("Message", exact=True)
            await field.press_sequentially("one")
            await field.press("Shift+Enter")
            await field.press_sequentially("two")
            await field.press("Enter")
            await expect(ada.locator("li.own .text").last).to_have_text("one\ntwo", use_inner_text=True)
            await expect(field).to_have_value("")


class TestPresence:
    async def test_who_comes_and_who_leaves(self, demo: Demo, browser: Browser) -> None:
        async with visitor(browser, demo.url, "Ada") as ada:
            await expect_people(ada, "Ada")
            async with visitor(browser, demo.url, "Blaise") as blaise:
                await expect_people(ada, "Ada", "Blaise")
                await expect_people(blaise, "Ada", "Blaise")
                await expect(ada.locator("#people li.own .name")).to_have_text(["Ada"])
                await blaise.close()
                await expect_people(ada, "Ada")

    async def test_two_tabs_are_one_person(self, demo: Demo, browser: Browser) -> None:
        async with visitor(browser, demo.url, "Ada") as ada:
            second = await ada.context.new_page()
            await second.goto(demo.url)
            await expect_people(second, "Ada")
            await say(second, "from my second tab")
            await expect_said(ada, "You", "from my second tab")
            await second.close()
            await expect_people(ada, "Ada")

    async def test_logging_out_closes_every_tab(self, demo: Demo, browser: Browser, pictures: Path) -> None:
        async with visitor(browser, demo.url, "Ada") as ada, visitor(browser, demo.url, "Blaise") as blaise:
            second = await blaise.context.new_page()
            await second.goto(demo.url)
            await expect(second.get_by_role("status")).to_have_text("Online")
            await second.get_by_role("button", name="Log out").click()
            await expect(second.get_by_label("Your name")).to_be_visible()
            await expect(blaise.get_by_text("You are logged out.")).to_be_visible()
            await expect(blaise.get_by_role("status")).to_have_text("Refused")
            await blaise.screenshot(path=pictures / "logged-out.png")
            await expect_people(ada, "Ada")
            await blaise.get_by_role("button", name="Log in again").click()
            await expect(blaise.get_by_label("Your name")).to_be_visible()


class TestReconnect:
    async def test_both_come_back_after_the_proxy_was_killed(self, demo: Demo, browser: Browser) -> None:
        async with visitor(browser, demo.url, "Ada") as ada, visitor(browser, demo.url, "Blaise") as blaise:
            await expect_people(ada, "Ada", "Blaise")
            await asyncio.to_thread(demo.kill_proxy)
            await expect(ada.get_by_text("The connection is lost.")).to_be_visible()
            await expect(ada.locator("#countdown")).to_contain_text("Next try in")
            await expect(blaise.get_by_text("The connection is lost.")).to_be_visible()
            await say(ada, "Written while offline")
            await expect(ada.get_by_text("Waiting for the connection")).to_be_visible()
            await asyncio.to_thread(demo.start_proxy)
            for page in (ada, blaise):
                await expect(page.get_by_role("status")).to_have_text("Online")
                await expect(page.get_by_text("The connection is lost.")).to_be_hidden()
                await expect_people(page, "Ada", "Blaise")
            await expect_said(blaise, "Ada", "Written while offline")
            await expect_said(ada, "You", "Written while offline")
            await say(blaise, "We are back")
            await expect_said(ada, "Blaise", "We are back")

    async def test_somebody_lost_in_a_crash_is_not_listed_for_ever(self, demo: Demo, browser: Browser) -> None:
        async with visitor(browser, demo.url, "Ada") as ada:
            async with visitor(browser, demo.url, "Ghost"):
                await expect_people(ada, "Ada", "Ghost")
                # A killed proxy reports no closing, and Ghost's page is gone before it can come back.
                await asyncio.to_thread(demo.kill_proxy)
            await asyncio.to_thread(demo.start_proxy)
            await expect_people(ada, "Ada")

    async def test_try_now(self, demo: Demo, browser: Browser) -> None:
        async with visitor(browser, demo.url, "Ada") as ada:
            await ada.clock.install()
            await ada.reload()
            await expect(ada.get_by_role("status")).to_have_text("Online")
            # From here on no timer of the page fires: it can't come back by itself.
            await ada.clock.pause_at(datetime.now() + timedelta(hours=1))
            await asyncio.to_thread(demo.kill_proxy)
            await expect(ada.get_by_role("status")).to_have_text("Offline")
            await asyncio.to_thread(demo.start_proxy)
            await expect(ada.get_by_role("status")).to_have_text("Offline")
            await ada.get_by_role("button", name="Try now").click()
            await expect(ada.get_by_role("status")).to_have_text("Online")


class TestBadInput:
    async def test_markup_is_shown_as_text(self, demo: Demo, browser: Browser) -> None:
        name, text = "<script>alert(1)</script>", "<img src=x onerror=alert(2)><b>bold</b> & \"'"
        async with visitor(browser, demo.url, "Ada") as ada, visitor(browser, demo.url, name) as mallory:
            await say(mallory, text)
            await expect_said(ada, name, text)
            await expect_people(ada, name, "Ada")
            await expect(ada.locator("#messages img, #messages b, #messages script, #people script")).to_have_count(0)
            await mallory.reload()
            await expect(mallory.locator(".me")).to_have_text(name)
            await expect_said(mallory, "You", text)

    async def test_a_message_the_backend_refuses_says_why(self, demo: Demo, browser: Browser, pictures: Path) -> None:
        async with visitor(browser, demo.url, "Ada") as ada:
            field = ada.get_by_label("Message", exact=True)
            await field.evaluate("field => { field.maxLength = 5000; }")
            await say(ada, "x" * 1001)
            await expect(ada.get_by_text("Not sent: A message has at most 1000 characters")).to_be_visible()
            await ada.screenshot(path=pictures / "message-refused.png")
            await expect(ada.get_by_role("status")).to_have_text("Online")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [("   ", "Please type a name."), ("a\u200bb", "A name can't have invisible characters.")],
    )
    async def test_a_name_that_is_refused_says_why(self, demo: Demo, browser: Browser, name: str, reason: str) -> None:
        page = await browser.new_page()
        try:
            await log_in(page, demo.url, name)
            await expect(page.get_by_role("alert")).to_have_text(reason)
        finally:
            await page.context.close()

    async def test_a_name_in_use_is_refused_without_case(self, demo: Demo, browser: Browser) -> None:
        async with visitor(browser, demo.url, "Ada"):
            page = await browser.new_page()
            try:
                await log_in(page, demo.url, "ADA")
                await expect(page.get_by_role("alert")).to_contain_text("Somebody else is online as ADA.")
            finally:
                await page.context.close()


class TestLooks:
    """Screenshots, to be looked at; what a program can check about them is checked."""

    async def test_pictures(self, browser: Browser, pictures: Path, tmp_path: Path) -> None:
        with running_demo(tmp_path) as demo:  # in which nobody has said anything
            await self.pictures(demo, browser, pictures)

    async def pictures(self, demo: Demo, browser: Browser, directory: Path) -> None:
        async with (
            visitor(browser, demo.url, "Blaise") as blaise,
            visitor(browser, demo.url, "Émilie du Châtelet") as emilie,
            visitor(browser, demo.url, "Ada Lovelace") as ada,
        ):
            await say(blaise, "Has anybody seen the notes on the engine?")
            await expect_said(ada, "Blaise", "Has anybody seen the notes on the engine?")
            await say(
                ada,
                "They are on my desk. I added a few of my own, rather more than a few to be honest: Note G is long.",
            )
            await say(ada, "I will bring them.")
            await expect_said(emilie, "Ada Lovelace", "I will bring them.")
            await say(emilie, "Wonderful! Here is where to put them:\nhttps://example.org/" + "a-very-long-path/" * 6)
            await say(emilie, "Tea at four?")
            await expect_said(ada, "Émilie du Châtelet", "Tea at four?")
            async for look in looks(ada):
                await ada.screenshot(path=directory / f"{look}.png")
                if look.startswith("phone"):
                    await ada.get_by_role("button", name="here").click()
                    await expect(ada.locator("#people-panel")).to_be_visible()
                    await ada.screenshot(path=directory / f"{look}-people.png")
                    await ada.get_by_role("button", name="here").click()
            await asyncio.to_thread(demo.kill_proxy)
            await expect(ada.locator("#countdown")).to_contain_text("Next try in")
            await say(ada, "Four is fine.")
            async for look in looks(ada):
                await ada.screenshot(path=directory / f"{look}-offline.png")
            await asyncio.to_thread(demo.start_proxy)
            await expect_said(blaise, "Ada Lovelace", "Four is fine.")

    async def test_pictures_of_the_login(self, demo: Demo, browser: Browser, pictures: Path) -> None:
        page = await browser.new_page()
        try:
            async for look in looks(page):
                await page.goto(demo.url)
                await page.screenshot(path=pictures / f"login-{look}.png")
                await log_in(page, demo.url, "  ")
                await expect(page.get_by_role("alert")).to_be_visible()
                await page.screenshot(path=pictures / f"login-{look}-refused.png")
        finally:
            await page.context.close()
