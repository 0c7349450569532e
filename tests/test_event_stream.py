"""Server-sent events: their form, and their end. Real pages read them in test_watch_page.py, test_console_page.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

from django.http import HttpRequest

from proxy.event_stream import answer, refusal
from proxy.exceptions import Unavailable
from proxy.reports import Report
from tests.admin_site import STAFF, migrate, run_script, script_env


async def reports(*found: Report | None) -> AsyncIterator[Report | None]:
    for report in found:
        yield report


async def test_each_report_is_an_event() -> None:
    hostile = {"what": "sent", "content": "\n\ndata: x\r\r<b>\u2028"}
    response = answer(HttpRequest(), "", reports({"what": "absent"}, None, hostile))
    pieces = [piece async for piece in response]
    assert pieces[:3] == [b":\n\n", b'data: {"what": "absent"}\n\n', b":\n\n"]
    assert (pieces[3].count(b"\n"), pieces[3].count(b"\r")) == (2, 0)
    assert json.loads(pieces[3].removeprefix(b"data: ")) == hostile
    assert response["Content-Type"] == "text/event-stream"
    assert response["Cache-Control"] == "no-store"
    assert response["X-Accel-Buffering"] == "no"


async def test_when_the_page_goes_the_reports_end() -> None:
    """Django cancels what streams."""
    ended = asyncio.Event()

    async def forever() -> AsyncIterator[Report | None]:
        try:
            yield None
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def read() -> None:
        async for _ in answer(HttpRequest(), "", forever()):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    assert not ended.is_set()
    task.cancel()
    await asyncio.wait([task])
    assert ended.is_set()


def test_a_refusal_is_an_event_too() -> None:
    response = refusal(Unavailable("too many"))
    assert response.content == b'data: {"what": "refused stream", "reason": "too many"}\n\n'
    assert response["Content-Type"] == "text/event-stream"


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

def grant():
    User.objects.get(username="viewer").user_permissions.set(Permission.objects.filter(codename="view_session"))

for change in ("logout", "permission", "inactive"):
    grant()
    request, client = login("viewer")
    viewer = User.objects.filter(username="viewer")
    asyncio.run(follow(request, "proxy.view_session", {
        "logout": client.logout,
        "permission": lambda: viewer.get().user_permissions.clear(),
        "inactive": lambda: viewer.update(is_active=False),
    }[change]))
    print(change, "ended it")
"""


def test_whoever_may_not_look_any_more(tmp_path: Path) -> None:
    """Logged out, without the permission, or inactive: the stream ends."""
    env = script_env({"EKBO_DATABASE_URL": f"sqlite:///{tmp_path}/kuiperbelt.sqlite3"})
    migrate(env)
    run_script(env, STAFF, PASSWORD="x")
    assert run_script(env, ALLOWED).splitlines() == ["logout ended it", "permission ended it", "inactive ended it"]
