"""The dashboard in a real browser: it draws the hour that was, follows what happens, and rests when nobody looks."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Request, expect
from websockets.asyncio.client import connect

from tests.admin_site import Site, running_site
from tests.browser import looks
from tests.servers import Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

PATIENCE = 25_000  # ms: a node writes a sample every 10 s, the page asks every 5 s

HOUR = """
import math
now = timezone.now()
for number, name in enumerate(("kb-1.example", "kb-2.example")):
    node = Node.objects.create(name=name, pid=1000 + number, endpoint="127.0.0.1:1", version="0", connections=4000,
        started_at=now - timedelta(hours=2), heartbeat_at=now)
    connects = messages = 0
    samples = []
    for step in range(359):
        connects += 150 + int(90 * math.sin(step / 9 + number)); messages += 3000 + int(1500 * math.sin(step / 25))
        samples.append(Sample(node=node, at=now - timedelta(seconds=3590 - 10 * step - 3 * number), errors=step // 40,
            connections=4000 + int(900 * math.sin(step / 40 + number)), total_connections=connects,
            total_messages=messages))
    Sample.objects.bulk_create(samples)
"""
INK = """name => {
    const canvas = document.querySelector(`.plot[data-name=${name}] canvas`);
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let ink = 0;
    for (let i = 3; i < data.length; i += 4) ink = (ink * 31 + data[i] * (i % 9973)) % 1000000007;
    return ink;
}"""
"""A number that is another one when the plot looks otherwise."""


@pytest.fixture(scope="module")
async def site(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with running_site(servers, tmp_path_factory.mktemp("dashboard"), EKBO_NODE_TIMEOUT="30s") as site:
        yield site


async def show(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}proxy/dashboard/")
    await expect(page.get_by_role("status")).to_contain_text("Updated")


async def test_it_rests_while_nobody_looks(site: Site, browser: Browser) -> None:
    async with site.staff(browser) as page:
        await page.clock.install()
        await show(page, site)
        asked: list[str] = []

        def note(request: Request) -> None:
            asked.append(request.url)

        page.on("request", note)
        hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true}); "
        hide += "document.dispatchEvent(new Event('visibilitychange')); }"
        await page.evaluate(hide, True)
        await page.clock.fast_forward(6000)
        await asyncio.sleep(0.3)
        assert asked == []
        await page.evaluate(hide, False)
        await expect(page.get_by_role("status")).to_contain_text("Updated")
        # Only what is new is asked for.
        assert ["?since=" in url for url in asked] == [True]


async def test_whoever_is_logged_out_is_told(site: Site, browser: Browser) -> None:
    async with site.staff(browser) as page:
        await page.clock.install()
        await show(page, site)
        await page.context.clear_cookies()
        await page.clock.fast_forward(6000)
        await expect(page.get_by_role("status")).to_contain_text("You are logged out")
        await page.get_by_role("link", name="Log in again").click()
        await expect(page.get_by_label("Password")).to_be_visible()


CROWD = """
now = timezone.now()
for number in range(15):
    node = Node.objects.create(name=f"crowd-{number}", pid=1, endpoint="", version="0", connections=number + 100,
        started_at=now, heartbeat_at=now)
    Sample.objects.create(node=node, at=now - timedelta(seconds=11), connections=number + 100, total_connections=0,
        total_messages=0, errors=0)
"""


async def test_more_nodes_than_can_be_told_apart(servers: Servers, browser: Browser, tmp_path: Path) -> None:
    """The busiest have lines of their own, and the number of the others is said."""
    async with running_site(servers, tmp_path) as site, site.staff(browser) as page:
        await asyncio.to_thread(site.run, CROWD)
        await show(page, site)
        await expect(page.get_by_role("row", name="crowd-")).to_have_count(12)
        await expect(page.get_by_role("row", name="crowd-14 1")).to_be_visible()
        # The site's own node may have written its first sample already.
        await expect(page.locator("#others")).to_have_text(re.compile("^[34] more nodes count in the total.$"))


@pytest.mark.parametrize("since", ["", "x", "-1", "99999999999", "1" * 400, "١"])
async def test_any_since_is_answered(site: Site, browser: Browser, since: str) -> None:
    async with site.staff(browser) as page:
        answer = await page.request.get(f"{site.url}proxy/dashboard/data/", params={"since": since})
        found = json.loads(await answer.text())
        assert len(found["at"]) == len(found["total"]["connections"]) <= 361


async def test_pictures(servers: Servers, browser: Browser, pictures: Path, tmp_path: Path) -> None:
    async with running_site(servers, tmp_path) as site, site.staff(browser) as page:
        await asyncio.to_thread(site.run, HOUR)
        async for look in looks(page):
            await show(page, site)
            await expect(page.get_by_role("row", name="kb-2.example 1001")).to_be_visible()
            await page.screenshot(path=pictures / f"{look}-dashboard.png", full_page=True)
            # The lines take the theme's colours at once.
            drawn = "JSON.stringify([...document.querySelectorAll('.swatch')].map(mark => mark.style.background))"
            before, other = await page.evaluate(drawn), "light" if "dark" in look else "dark"
            await page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", other)
            assert await page.evaluate(drawn) != before


async def test_it_moves(site: Site, browser: Browser, fresh: Callable[[str], str]) -> None:
    """Five clients connect: the number and the plot follow without anybody's help.

    The last test here: the first sample, which a node takes 10 s after its start, is most probably there.
    """
    async with site.staff(browser, "viewer") as page, AsyncExitStack() as clients:
        await show(page, site)
        number = page.locator("strong[data-name=connections]")
        await expect(number).to_have_text("0", timeout=PATIENCE)
        before = await page.evaluate(INK, "connections")
        for _ in range(5):
            url = f"ws://{site.server.host}/connect?key={fresh('d')}"
            await clients.enter_async_context(connect(url, proxy=None, ping_interval=None))
        await expect(number).to_have_text("5", timeout=PATIENCE)
        await expect(page.get_by_role("row", name="Total").get_by_role("cell").first).to_have_text("5")
        assert await page.evaluate(INK, "connections") != before
