"""A watcher in this process: what it makes of what comes on its channel, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy import delivery, watching
from proxy.drain import drain
from proxy.exceptions import Unavailable
from proxy.taps import REPORTS
from proxy.watching import MAX_WATCHERS, Watcher
from tests.test_reports import SENT
from tests.watchers import bare


@pytest.fixture
async def watcher(monkeypatch: pytest.MonkeyPatch, key: str) -> AsyncIterator[Watcher]:
    monkeypatch.setattr(watching, "STEP", 0.05)
    watcher = await Watcher.opened(None, False)
    yield watcher
    watcher.leave()


async def put(watcher: Watcher, *found: Any, **message: Any) -> None:
    await delivery.layer().send(watcher.channel, {"type": REPORTS, "reports": list(found)} | message)


async def first(watcher: Watcher, count: int) -> list[Any]:
    """The next reports."""
    found: list[Any] = []
    async with asyncio.timeout(5), contextlib.aclosing(watcher.reports()) as reports:
        while len(found) < count:
            found.append(await anext(reports))
    return found


async def test_gaps_are_told(watcher: Watcher) -> None:
    await put(
        watcher, SENT, SENT | {"n": 1}, SENT | {"n": 5}, SENT | {"n": 6}, SENT, SENT | {"n": 0, "connection": "d"}
    )
    found = await first(watcher, 8)
    assert [(report["what"], report.get("n"), report.get("count")) for report in found] == [
        ("sent", 0, None),
        ("sent", 1, None),
        ("missed", None, 3),
        ("sent", 5, None),
        ("sent", 6, None),
        ("missed", None, None),  # its lease ended, and it began anew
        ("sent", 0, None),
        ("sent", 0, None),
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "session.send"},
        {"reports": None},
        {"reports": {"what": "sent"}},
        {"reports": [SENT] * 65},
        {"reports": [SENT | {"what": "absent"}, None, 7, {}]},
    ],
)
async def test_what_others_put_there_is_dropped(watcher: Watcher, message: dict[str, Any]) -> None:
    await put(watcher, **message)
    await put(watcher, SENT)
    assert await first(watcher, 1) == [SENT]


async def test_nobody_is_there(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """That is said once; then there is a sign of life now and then."""
    monkeypatch.setattr(watching, "KEEP_ALIVE", 0.1)
    found = await first(await Watcher.opened(key, False), 3)
    assert [found[0] and bare(found[0]), *found[1:]] == [{"what": "absent"}, None, None]


async def test_it_ends(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its caller has gone, or the process ends."""
    stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.1, stop.set_result, None)
    assert [report async for report in watcher.reports(stop)] == []
    monkeypatch.setattr(drain, "begun", True)
    (report,) = [report async for report in watcher.reports() if report]
    assert bare(report) == {"what": "ended", "reason": "this process ends"}


async def test_no_more_than_allowed() -> None:
    watchers = [await Watcher.opened(None, False) for _ in range(MAX_WATCHERS)]
    with pytest.raises(Unavailable, match="expected at most 20 watchers at once"):
        await Watcher.opened(None, False)
    watchers.pop()
    (await Watcher.opened(None, False)).leave()
