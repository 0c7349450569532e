"""Taps: leases, numbers, limits, what is told of callbacks. On the layer of this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy import delivery, reports, taps
from proxy.exceptions import CallbackError
from proxy.http_connection import Answer
from proxy.taps import MAX_BATCH, MAX_LINES, PAUSE, REPORTS, Tap

FACTS = {"key": "bob"}


class Watched:
    """A tap, and how often it ended."""

    def __init__(self, connection: str) -> None:
        self.ends = 0
        self.tap = Tap(connection, self.on_end)

    def on_end(self) -> None:
        self.ends += 1


@pytest.fixture
async def watched(key: str) -> AsyncIterator[Watched]:
    made = Watched(key)
    yield made
    for channel in list(made.tap._lines):
        made.tap.renew(channel, False, 0)
    assert made.ends == 1
    assert key not in taps.live


async def told(channel: str, timeout: float = 1.0) -> list[reports.Report]:
    """The next batch."""
    async with asyncio.timeout(timeout):
        message = await delivery.layer().receive(channel)
    assert message["type"] == REPORTS
    batch: list[reports.Report] = message["reports"]
    assert all(map(reports.is_from_session, batch))
    return batch


async def channel() -> str:
    return await delivery.layer().new_channel("watch")


async def test_reports_are_numbered_for_each_watcher(watched: Watched) -> None:
    one, two = await channel(), await channel()
    watched.tap.renew(one, False, 60)
    watched.tap.frame(reports.RECEIVED, "early", 5)
    watched.tap.begin(FACTS)
    watched.tap.renew(two, True, 60)
    watched.tap.renew(two, True, 60)
    watched.tap.frame(reports.SENT, b"\x00", 1)
    first, second = await told(one), await told(two)
    assert [(report["n"], report["what"]) for report in first] == [(0, "received"), (1, "session"), (2, "sent")]
    assert [(report["n"], report["what"]) for report in second] == [(0, "session"), (1, "sent")]
    assert first[1]["key"] == second[0]["key"] == "bob"
    assert "content" not in first[2]
    assert (second[1]["content"], second[1]["encoding"]) == ("AA==", "base64")


async def test_a_burst_leaves_numbers_out(watched: Watched) -> None:
    """And contents before that; the next batch has room again."""
    name = await channel()
    watched.tap.renew(name, True, 60)
    for _ in range(MAX_BATCH + 10):
        watched.tap.frame(reports.SENT, "x" * 4096, 4096)
    batch = await told(name)
    assert [report["n"] for report in batch] == list(range(MAX_BATCH))
    assert sum(len(report["content"]) for report in batch) == taps.MAX_CONTENTS
    assert all(report["size"] == 4096 for report in batch)
    watched.tap.frame(reports.SENT, "x", 1)
    (report,) = await told(name)
    assert (report["n"], report["content"]) == (MAX_BATCH + 10, "x")


async def test_a_watcher_that_does_not_read(watched: Watched) -> None:
    """His channel is full at some time; nothing is raised, nothing piles up."""
    name = await channel()
    watched.tap.renew(name, True, 60)
    capacity = delivery.layer().get_capacity(name)
    for _ in range(capacity + 5):
        watched.tap.put("sent", {})
        watched.tap._lines[name]._flush()
    assert delivery.layer()._queues[name].qsize() == capacity
    delivery.layer()._queues.pop(name)


async def test_a_lease_ends(watched: Watched) -> None:
    name, other = await channel(), await channel()
    watched.tap.renew(name, False, 0.2)
    watched.tap.renew(other, False, 0.1)
    await asyncio.sleep(0.15)
    assert list(watched.tap._lines) == [name]
    watched.tap.renew(name, False, 0.2)
    await asyncio.sleep(0.12)
    assert watched.ends == 0
    await asyncio.sleep(0.15)
    assert watched.ends == 1


async def test_too_many_watchers(watched: Watched) -> None:
    names = [await channel() for _ in range(MAX_LINES + 1)]
    for name in names:
        watched.tap.renew(name, False, 60)
    (busy,) = await told(names[-1])
    assert (busy["what"], busy["reason"]) == ("busy", "5 others watch it")
    watched.tap.renew(names[0], False, 0)
    watched.tap.renew(names[-1], False, 60)
    watched.tap.begin(FACTS)
    (report,) = await told(names[-1])
    assert (report["what"], report["n"]) == ("session", 0)


async def exchange(answer: Answer | Exception | None) -> Any:
    await asyncio.sleep(PAUSE)
    if isinstance(answer, Exception):
        raise answer
    if answer is None:
        raise asyncio.CancelledError
    return answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200, [], b"hi"), {"status": 200, "error": None, "answered": 2, "content": "hi"}),
        (Answer(503, [], b""), {"status": 503, "error": None, "answered": 0}),
        (CallbackError("receive: no\nanswer"), {"status": None, "error": "receive: no\\nanswer"}),
        (None, {"status": None, "error": "cancelled"}),
    ],
)
async def test_callbacks(watched: Watched, answer: Answer | Exception | None, expected: dict[str, Any]) -> None:
    name = await channel()
    watched.tap.renew(name, True, 60)
    try:
        assert await watched.tap.callback("receive", b"abc", exchange(answer)) is answer
    except (CallbackError, asyncio.CancelledError):
        assert not isinstance(answer, Answer)
    (report,) = await told(name)
    assert report["ms"] >= PAUSE * 1000 - 1
    assert {field: report[field] for field in report if field not in ("what", "n", "at", "connection", "ms")} == {
        "kind": "receive",
        "asked": 3,
        **expected,
    }


async def test_the_end(watched: Watched) -> None:
    name = await channel()
    watched.tap.renew(name, False, 60)
    watched.tap.closed(1000, "client", 1.5)
    watched.tap.refused(CallbackError("no"), 502)
    closed, refused = await told(name)
    assert (closed["code"], closed["reason"], closed["ms"]) == (1000, "client", 1500.0)
    assert (refused["status"], refused["reason"]) == (502, "no")
