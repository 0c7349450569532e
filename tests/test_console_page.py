"""The console in a real browser, with a prefork backend: a client by hand, and the callbacks that it causes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, expect
from websockets.asyncio.client import connect

from tests.admin_site import Site, running_site
from tests.browser import looks
from tests.clients import close, send
from tests.prefork import Prefork, prefork
from tests.servers import Servers, free_port

pytestmark = pytest.mark.usefixtures("clean_logs")

LOG = """
from django.contrib.admin.models import LogEntry
print(json.dumps(list(LogEntry.objects.filter(object_repr="Console").values_list("user__username", "change_message"))))
"""


@pytest.fixture(scope="module")
async def blocking(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prefork]:
    async with prefork(tmp_path_factory.mktemp("prefork")) as backend:
        yield backend


@pytest.fixture(scope="module")
async def site(servers: Servers, blocking: Prefork, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with running_site(servers, tmp_path_factory.mktemp("console"), **blocking.env) as site:
        yield site


def frames(page: Page, *texts: str) -> Locator:
    """Rows with all these texts of what the client sees."""
    return _rows(page, "#frames", texts)


def calls(page: Page, *texts: str) -> Locator:
    """Of what the proxy reports."""
    return _rows(page, "#reports", texts)


def _rows(page: Page, table: str, texts: tuple[str, ...]) -> Locator:
    found = page.locator(f"{table} tbody tr")
    for text in texts:
        found = found.filter(has_text=text)
    return found


async def enter(page: Page, site: Site, query: str, subprotocols: str = "") -> None:
    """Open the console and press Connect."""
    await page.goto(f"{site.url}proxy/session/")
    await page.get_by_role("link", name="Console").click()
    await page.get_by_label("Query string").fill(query)
    await page.get_by_label("Subprotocols").fill(subprotocols)
    await page.get_by_role("button", name="Connect").click()


async def say(page: Page, text: str, form: str = "text") -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_label("As", exact=True).select_option(form)
    await page.get_by_role("button", name="Send").click()


async def test_a_client_by_hand(site: Site, browser: Browser, key: str) -> None:
    """Connect, a push, text and binary from the page, the callbacks with the backend's answers, the close."""
    async with site.staff(browser) as page:
        await enter(page, site, f"?key={key}")
        await expect(page.get_by_role("status")).to_have_text("Connected")
        await expect(calls(page, "connect callback", "status 200", " ms")).to_have_count(1)
        await expect(calls(page, "session", key)).to_have_count(1)

        await send(site.server, key, b"<b>hello</b>")
        await expect(frames(page, "in", "text, 12 bytes", "<b>hello</b>")).to_have_count(1)

        await say(page, "häh?")
        await expect(frames(page, "out", "text, 5 bytes", "häh?")).to_have_count(1)
        await expect(calls(page, "receive callback", "status 200", "5 bytes sent", "heard 5 bytes")).to_have_count(1)
        await say(page, "00ff 7", "hex")
        await expect(page.get_by_role("alert")).to_have_text("Expected hexadecimal digits, two for each byte.")
        await say(page, "00ff 7f", "hex")
        await expect(frames(page, "out", "binary, 3 bytes", "00 ff 7f")).to_have_count(1)
        await say(page, "AAE", "base64")
        await expect(calls(page, "receive callback", "heard 3 bytes")).to_have_count(1)
        await expect(frames(page, "out", "binary, 2 bytes", "00 01")).to_have_count(1)

        await page.get_by_label("Close code").fill("1001")
        await page.get_by_role("button", name="Close").click()
        await expect(page.get_by_role("alert")).to_have_text("Expected 1000 or 3000-4999.")
        await page.get_by_label("Close code").fill("4321")
        await page.get_by_label("Reason").fill("enough")
        await page.get_by_role("button", name="Close").click()
        await expect(page.get_by_role("status")).to_have_text("Closed, code 4321, enough")
        await expect(calls(page, "closed", "code 4321, by the client")).to_have_count(1)
        await expect(calls(page, "close callback", "status 200")).to_have_count(1)
    assert ["ada", "Connect as a client"] in json.loads(site.run(LOG))


async def test_a_refusal_that_browsers_hide(site: Site, browser: Browser, blocking: Prefork, key: str) -> None:
    async with site.staff(browser) as page:
        await enter(page, site, f"key=stranger{key}")
        await expect(page.get_by_role("status")).to_have_text("Refused with status 403")
        await expect(calls(page, "connect callback", "status 403", "nobody knows you")).to_have_count(1)
        await expect(calls(page, "refused", "status 403")).to_have_count(1)
        # The same page connects again, and is told nothing of the connection before.
        await page.get_by_label("Query string").fill(f"key={key}")
        await page.get_by_role("button", name="Connect").click()
        await expect(page.get_by_role("status")).to_have_text("Connected")
        await close(site.server, key, b"bye")
        await expect(frames(page, "in", "bye")).to_have_count(1)
        await expect(calls(page, "closed", "code 1000, by the backend")).to_have_count(1)
        await expect(page.get_by_role("status")).to_have_text("Closed, code 1000")


async def test_the_ticket_goes_nowhere_else(site: Site, browser: Browser, key: str) -> None:
    """The page's cookie isn't for scripts, or for the admin; another connection that brings it isn't reported."""
    async with site.staff(browser) as page:
        await enter(page, site, f"key={key}")
        await expect(page.get_by_role("status")).to_have_text("Connected")
        (cookie,) = [each for each in await page.context.cookies() if each["name"] == "kuiperbelt_console"]
        assert (cookie["path"], cookie["httpOnly"], cookie["sameSite"]) == ("/connect", True, "Strict")
        await expect(calls(page, "session")).to_have_count(1)
        origin = f"http://{site.server.host}"
        url = f"ws://{site.server.host}/connect?key={key}other"
        for value, comes_from in (
            (cookie["value"], origin),
            (cookie["value"], "http://localhost:1"),
            ("forged", origin),
        ):
            head = {"Cookie": f"kuiperbelt_console={value}", "Origin": comes_from}
            async with connect(url, proxy=None, additional_headers=head) as its:
                await its.send("not for the page")
        await say(page, "the last")
        await expect(calls(page, "receive callback", "8 bytes sent")).to_have_count(1)
        await expect(calls(page, "session")).to_have_count(1)
        await expect(calls(page, "receive callback")).to_have_count(1)
    assert "isn't one of ours" in site.server.output()


async def test_on_daphne(servers: Servers, browser: Browser, site: Site, key: str) -> None:
    daphne = await servers.start("daphne", site.server.env | {"EKBO_PORT": ""})
    async with replace(site, server=daphne).staff(browser) as page:
        await enter(page, replace(site, server=daphne), f"key={key}")
        await expect(calls(page, "session", key)).to_have_count(1)
        await page.get_by_role("button", name="Close").click()
        await expect(calls(page, "close callback", "status 200")).to_have_count(1)
    await daphne.stop()


async def test_in_several_processes_and_at_the_listener_of_the_api(
    servers: Servers, browser: Browser, site: Site, key: str
) -> None:
    """The page, its stream and the connection may each be of another process.

    The admin is at another port than clients connect to: the address is filled in so, and the policy lets it.
    """
    others = {"EKBO_PORT": "", "EKBO_REDIS_URL": servers.redis_url, "EKBO_API_PORT": str(free_port())}
    workers = await servers.start("workers", site.server.env | others)
    at_api = replace(site, server=workers.api)
    async with at_api.staff(browser) as page:
        for _ in range(3):
            await enter(page, at_api, f"key={key}")
            await expect(page.get_by_role("status")).to_have_text("Connected")
            await say(page, "hello")
            await expect(page.get_by_label("Address")).to_have_value(f"ws://{workers.host}/connect")
            await expect(calls(page, "connect callback", "status 200")).to_have_count(1)
            await expect(calls(page, "receive callback", "heard 5 bytes")).to_have_count(1)
        # The other page, which finds a session by its key.
        watching = await page.context.new_page()
        await watching.goto(f"{at_api.url}proxy/watch/?key={key}")
        await expect(watching.locator("#reports tbody")).to_contain_text(key)
        await say(page, "hello again")
        await expect(watching.locator("#reports tbody")).to_contain_text("text, 11 bytes")
    await workers.stop()


async def test_who_may_not(site: Site, browser: Browser) -> None:
    async with site.staff(browser, "viewer") as page:
        await page.goto(f"{site.url}proxy/session/")
        await expect(page.get_by_role("link", name="Console")).to_have_count(0)
        for path in ("console/", "console/stream/"):
            answer = await page.request.get(f"{site.url}proxy/{path}")
            assert answer.status == 403
            assert "kuiperbelt_console" not in answer.headers.get("set-cookie", "")


async def test_pictures(site: Site, browser: Browser, pictures: Path, fresh: Callable[[str], str]) -> None:
    """Screenshots, to be looked at; what a program can check about them is checked."""
    key = fresh("eve")
    async with site.staff(browser) as page:
        await enter(page, site, f"key={key}")
        await expect(page.get_by_role("status")).to_have_text("Connected")
        await send(site.server, key, b'{"from":"bob","text":"How do you do?"}')
        await say(page, "Fine. " * 60)
        await say(page, "00 01 02 fe ff", "hex")
        await expect(calls(page, "receive callback")).to_have_count(2)
        async for look in looks(page):
            await page.screenshot(path=pictures / f"{look}-console.png", full_page=True)
