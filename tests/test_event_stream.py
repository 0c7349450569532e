"""Server-sent events: their form, and their end.

Real pages read them, and whoever may not any more, in test_watch_page.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from django.http import HttpRequest

from proxy.event_stream import answer, refusal
from proxy.exceptions import Unavailable
from proxy.reports import Report


async def reports(*found: Report | None) -> AsyncIterator[Report | None]:
    for report in found:
        yield report


async def test_each_report_is_an_event() -> None:
    hostile = {"what": "sent", "content": "\n\ndata: x\r\r<b>\u2028"}
    response = answer(HttpRequest(), "", reports({"what": "absent"}, None, hostile))
    pieces = [piece async for piece in response]
    assert pieces[:3] == [b"retry: 1000\n\n", b'data: {"what": "absent"}\n\n', b":\n\n"]
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
