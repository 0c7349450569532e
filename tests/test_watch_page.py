"""The page that watches a session, in a real browser: what happens is there at once, and only for who may see it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, expect
from websockets.asyncio.client import connect

from proxy.watching import MAX_WATCHERS
from tests.admin_site import Site, running_site
from tests.browser import looks
from tests.clients import ending, receive, send
from tests.prefork import prefork
from tests.servers import Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

HOSTILE = "<img src=x onerror=alert(1)>"
LOG = """
from django.contrib.admin.models import LogEntry
print(json.dumps(list(LogEntry.objects.filter(object_repr=key).values_list("user__username", "change_message"))))
"""


ALLOWED = """
import asyncio
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.test import Client
from proxy import event_stream

event_stream.CHECK = 0.0

async def forever():
    while True:
        await asyncio.sleep(0.01)
        yield None

async def follow(request, permission, change):
    stream = aiter(event_stream.answer(request, permission, forever()))
    async with asyncio.timeout(20):
        for _ in range(3):
            await anext(stream)
        await asyncio.to_thread(change)
        async for _ in stream:
            pass

def login(name):
    client = Client(SERVER_NAME="localhost")
    client.force_login(User.objects.get(username=name))
    request = HttpRequest()
    request.session = SessionStore(client.session.session_key)
    return request, client

leaver = User.objects.create_user("leaver", is_staff=True)

for change in ("logout", "permission", "inactive"):
    leaver.user_permissions.set(Permission.objects.filter(codename="view_session"))
    request, client = login("leaver")
    asyncio.run(follow(request, "proxy.view_session", {
        "logout": client.logout,
        "permission": leaver.user_permissions.clear,
        "inactive": lambda: User.objects.filter(username="leaver").update(is_active=False),
    }[change]))
    print(change, "ended it")
"""

NEEDED = """
from django.contrib.auth.models import User
from django.test import RequestFactory
from proxy import event_stream, watch_page

event_stream.answer = lambda request, permission, found: permission
for name in ("ada", "viewer"):
    request = RequestFactory().get("/", {"key": "somebody"})
    request.user = User.objects.get(username=name)
    print(name, watch_page.stream(request))
"""


@pytest.fixture(scope="module")
async def site(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("watch")
    async with (
        prefork(directory) as backend,
        running_site(servers, directory, EKBO_WATCH_CONTENTS="true", **backend.env) as site,
    ):
        yield site


def client(site: Site, key: str) -> connect:
    return connect(f"ws://{site.server.host}/connect?key={key}", proxy=None)


def rows(page: Page, *texts: str | re.Pattern[str]) -> Locator:
    """Rows of the table with all these texts."""
    found = page.locator("#reports tbody tr")
    for text in texts:
        found = found.filter(has_text=text)
    return found


async def watch(page: Page, site: Site, key: str, first: str = "session") -> None:
    """Open the page, and be sure that the session has heard of it."""
    await page.goto(f"{site.url}proxy/watch/?key={key}")
    await expect(page.get_by_role("status")).to_have_text("Watching")
    await expect(rows(page, first)).to_have_count(1)


async def test_a_session_is_watched(site: Site, browser: Browser, key: str) -> None:
    """From its page in the admin: frames both ways with what they say, callbacks with their answers, the end."""
    async with site.staff(browser) as page, client(site, key) as its:
        await page.goto(f"{site.url}proxy/session/")
        await page.get_by_role("link", name=key).click()
        await page.get_by_role("link", name="Watch").click()
        await expect(rows(page, "session", key, "127.0.0.1")).to_have_count(1)
        await send(site.server, key, HOSTILE.encode())
        assert await receive(its) == HOSTILE
        await its.send(b"\x00\xff")
        await expect(rows(page, "sent", f"text, {len(HOSTILE)} bytes", HOSTILE)).to_have_count(1)
        await expect(rows(page, "received", "binary, 2 bytes", "00 ff")).to_have_count(1)
        await expect(rows(page, "receive callback", "status 200", " ms", "heard 2 bytes")).to_have_count(1)
        await expect(page.locator("#total-sent")).to_have_text(f"1 ({len(HOSTILE)} bytes)")
        await expect(page.locator("#total-received")).to_have_text("1 (2 bytes)")

        await page.get_by_label("callbacks").uncheck()
        await expect(rows(page, "receive callback")).to_be_hidden()
        await page.get_by_label("callbacks").check()
        await expect(rows(page, "receive callback")).to_be_visible()

        await page.get_by_role("button", name="Pause").click()
        await send(site.server, key, b"meanwhile")
        await expect(page.get_by_role("button", name="Go on (1 waiting)")).to_be_visible()
        await expect(rows(page, "meanwhile")).to_have_count(0)
        await page.get_by_role("button", name="Go on").click()
        await expect(rows(page, "meanwhile")).to_have_count(1)

        await its.close(4321)
        await expect(rows(page, "closed", "code 4321, by the client")).to_have_count(1)
        await expect(rows(page, "close callback", "status 200")).to_have_count(1)
        await expect(rows(page, "absent")).to_have_count(1)
        async with client(site, key):  # it comes back, and is watched again
            await expect(rows(page, "session", key)).to_have_count(2)
    assert ["ada", "Watch, with contents"] in json.loads(site.run(LOG, key=key))


async def test_another_nodes_session(servers: Servers, browser: Browser, site: Site, key: str) -> None:
    """Two nodes, one database, no Redis: the other's API is asked. Over Redis: test_console_page.py."""
    env = {name: site.env[name] for name in ("EKBO_DATABASE_URL", "EKBO_WATCH_CONTENTS")}
    there = await servers.start("uvicorn", env)
    async with site.staff(browser) as page:
        await watch(page, site, key, "absent")
        async with client(replace(site, server=there), key) as its:
            await expect(rows(page, "session", key)).to_have_count(1, timeout=15_000)
            await its.send("hello there")
            await expect(rows(page, "received", "text, 11 bytes", "hello there")).to_have_count(1)
    await there.stop()


async def test_that_a_key_is_watched_before_it_connects_is_in_the_log(site: Site, browser: Browser, key: str) -> None:
    """What it will say is seen, too."""
    async with site.staff(browser) as page:
        await watch(page, site, key, "absent")
        await page.goto(f"{site.url}")  # which lists what was done last
        await expect(page.locator("#recent-actions-module")).to_contain_text(key)
    assert json.loads(site.run(LOG, key=key)) == [["ada", "Watch, with contents"]]


async def test_a_viewer_sees_sizes_only(site: Site, browser: Browser, key: str) -> None:
    async with site.staff(browser, "viewer") as page, client(site, key):
        await watch(page, site, key)
        await expect(page.locator(".help")).to_contain_text("contents are for those who may change sessions")
        await send(site.server, key, b"secret")
        await expect(rows(page, "sent", "text, 6 bytes")).to_have_count(1)
        assert "secret" not in await page.content()
    assert json.loads(site.run(LOG, key=key)) == []


async def test_who_may_not(site: Site, browser: Browser, key: str) -> None:
    async with site.staff(browser, "nobody") as page:
        for path in (f"watch/?key={key}", f"watch/stream/?key={key}"):
            assert (await page.request.get(f"{site.url}proxy/{path}")).status == 403
    async with site.staff(browser, "viewer") as page:
        for query in ("", "?key=", "?key=a,b", "?key=%0A", "?key=" + "k" * 257):
            for path in ("watch/", "watch/stream/"):
                assert (await page.request.get(f"{site.url}proxy/{path}{query}")).status == 404
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{site.url}proxy/watch/?key={key}")
    await expect(page.get_by_label("Password")).to_be_visible()
    await context.close()


async def test_more_than_a_process_takes(site: Site, browser: Browser, key: str) -> None:
    """Each page gives its place back when it goes."""
    async with site.staff(browser, "viewer"):
        cookies = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in site.logins["viewer"]["cookies"])

    async def stream() -> tuple[bytes, asyncio.StreamWriter]:
        """What its first event or comment is."""
        reader, writer = await site.server.open()
        path = f"/admin/proxy/watch/stream/?key={key}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\n\r\n".encode())
        assert b"text/event-stream" in await reader.readuntil(b"\r\n\r\n")
        return await reader.readuntil(b"\n\n"), writer

    streams = [await stream() for _ in range(MAX_WATCHERS + 1)]
    assert [b"refused stream" in first for first, _ in streams] == [False] * MAX_WATCHERS + [True]
    for _, writer in streams:
        writer.close()
    async with asyncio.timeout(5):
        while b"refused stream" in (again := await stream())[0]:
            again[1].close()
            await asyncio.sleep(0.1)
    again[1].close()


def test_whoever_may_not_look_any_more(site: Site) -> None:
    """Logged out, without the permission, or inactive: the stream ends."""
    assert site.run(ALLOWED).splitlines() == ["logout ended it", "permission ended it", "inactive ended it"]


def test_who_may_not_change_sessions_any_more_sees_no_contents(site: Site) -> None:
    """The permission that is looked at again and again is the one that contents were shown for."""
    assert site.run(NEEDED).splitlines() == ["ada proxy.change_session", "viewer proxy.view_session"]


async def test_pictures(site: Site, browser: Browser, pictures: Path, fresh: Callable[[str], str]) -> None:
    """Screenshots, to be looked at; what a program can check about them is checked."""
    key = fresh("a-rather-long-name-of-a-session.")
    async with site.staff(browser) as page, client(site, key) as its:
        await watch(page, site, key)
        await send(site.server, key, b'{"from":"eve","text":"How do you do?","at":"2026-11-27T05:16:30Z"}')
        await its.send("Fine, and you?" * 40)
        await its.send(bytes(range(200)))
        await expect(rows(page, "receive callback")).to_have_count(2)
        await its.close()
        await ending(its)
        await expect(rows(page, "absent")).to_have_count(1)
        async for look in looks(page):
            await page.screenshot(path=pictures / f"{look}-watch.png", full_page=True)


async def test_the_server_goes_and_comes_back(site: Site, browser: Browser, key: str) -> None:
    """Pages say so, and go on by themselves; but not for somebody who is logged out."""
    async with site.staff(browser) as page, site.staff(browser, "viewer") as gone:
        await watch(page, site, key, "absent")
        await watch(gone, site, key, "absent")
        await gone.context.clear_cookies()
        await site.server.stop()
        for each in (page, gone):
            await expect(each.get_by_role("status")).to_contain_text("The connection to the server is lost")
        await site.server.restart()
        await expect(page.get_by_role("status")).to_have_text("Watching", timeout=15_000)
        await expect(rows(page, "stream back")).to_have_count(1)
        await expect(gone.get_by_role("status")).to_contain_text("You are logged out", timeout=15_000)
        async with client(site, key):
            await expect(rows(page, "session", key)).to_have_count(1)
        await gone.get_by_role("link", name="Log in again").click()
        await expect(gone.get_by_label("Password")).to_be_visible()
