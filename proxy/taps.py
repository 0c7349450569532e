"""Taps: what watchers are told of one connection, on its way to them, while they watch it.

`tapped` puts them on; the consumer and `callbacks` report to them. Reports go to the watcher's channel in batches, some
of which may be lost when he is slow: nothing here waits, and all of it is bounded. Who isn't watched has no tap.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

from channels.exceptions import ChannelFull

from proxy import delivery, reports
from proxy.eager import start
from proxy.exceptions import CallbackError, DeliveryError
from proxy.http_connection import Answer
from proxy.reports import Report

LEASE = 15.0  # seconds that a tap stays without a word of its watcher
MAX_TAPS = 100  # connections of a process that are watched at once
MAX_LINES = 5  # watchers of one connection
PAUSE = 0.05  # seconds between two batches to one watcher
MAX_BATCH = 64  # reports; more within a pause are dropped
MAX_CONTENTS = 1 << 16  # characters of contents in a batch; over that, frames have sizes only

REPORTS = "watch.reports"
"""The type of the messages on a watcher's channel."""

live: dict[str, "Tap"] = {}
"""The taps of this process, by connection: what callbacks look into."""


class Line:
    """The way to one watcher."""

    __slots__ = ("_batch", "_channel", "_contents", "_number", "_room", "until")

    def __init__(self, channel: str, contents: bool) -> None:
        self._channel = channel
        self._contents = contents
        self._number = 0
        self._batch: list[Report] = []
        self._room = MAX_CONTENTS
        self.until = 0.0
        """When its lease ends, by the loop's clock."""

    def put(self, report: Report, payload: str | bytes | None) -> None:
        """Tell him; the payload is for those who may see contents. A report that is dropped leaves its number out."""
        number, self._number = self._number, self._number + 1
        if len(self._batch) >= MAX_BATCH:
            return
        if not self._batch:
            asyncio.get_running_loop().call_later(PAUSE, self._flush)
        report = {"what": report["what"], "n": number, **report}
        if self._contents and payload is not None:
            found = reports.content(payload, self._room)
            self._room -= len(found["content"])
            report |= found
        self._batch.append(report)

    def _flush(self) -> None:
        batch, self._batch, self._room = self._batch, [], MAX_CONTENTS
        post(self._channel, batch)


def post(channel: str, batch: list[Report]) -> None:
    """Reports to a watcher, if he takes them. His numbers say what he has missed."""
    layer = delivery.layer()
    if layer.started:  # then sending never waits
        with contextlib.suppress(ChannelFull, DeliveryError):
            start(layer.send(channel, {"type": REPORTS, "reports": batch}))


class Tap:
    """One connection's. `on_end` is called when the last watcher has gone."""

    __slots__ = ("_connection", "_lines", "_on_end", "_timer", "facts")

    def __init__(self, connection: str, on_end: Callable[[], None]) -> None:
        self._connection = connection
        self._on_end = on_end
        self._lines: dict[str, Line] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.facts: Report = {}
        """What a watcher is told of the session first; empty: there is none yet."""
        live[connection] = self

    def renew(self, channel: str, contents: bool, lease: float) -> None:
        """A watcher comes, or stays, for so many seconds; none: he goes."""
        if lease <= 0:
            self._lines.pop(channel, None)
            self._sweep()
            return
        line = self._lines.get(channel)
        if line is None:
            if len(self._lines) >= MAX_LINES:
                refuse(channel, self._connection, f"{MAX_LINES} others watch it")
                return
            line = self._lines[channel] = Line(channel, contents)
            if self.facts:
                line.put(self._report(reports.SESSION, self.facts), None)
        line.until = asyncio.get_running_loop().time() + lease
        self._sweep()

    def begin(self, facts: Report) -> None:
        """The connection is a session now."""
        self.facts = facts
        self.put(reports.SESSION, facts)

    def put(self, what: str, facts: Report, payload: str | bytes | None = None) -> None:
        """Tell all watchers."""
        report = self._report(what, facts)
        for line in self._lines.values():
            line.put(report, payload)

    def frame(self, what: str, payload: str | bytes, size: int) -> None:
        """A frame went out, or came in."""
        kind = "binary" if isinstance(payload, bytes) else "text"
        self.put(what, {"type": kind, "size": size}, payload)

    async def callback(self, kind: str, body: bytes, exchange: Coroutine[Any, Any, Answer]) -> Answer:
        """A callback under way, which is told when it is over. Its time is all of it, a wait for its turn included."""
        began = perf_counter()
        answer, error = None, None
        try:
            answer = await exchange
        except CallbackError as failure:
            error = reports.words(failure)
            raise
        except asyncio.CancelledError:
            error = "cancelled"
            raise
        finally:
            facts: Report = {"kind": kind, "status": answer and answer.status, "error": error}
            facts |= {"ms": _ms(perf_counter() - began), "asked": len(body)}
            facts |= {"answered": len(answer.body)} if answer else {}
            self.put(reports.CALLBACK, facts, reports.body(answer.body) if answer and answer.body else None)
        return answer

    def refused(self, error: BaseException, status: int) -> None:
        """There will be no session."""
        self.put(reports.REFUSED, {"status": status, "reason": reports.words(error)})

    def closed(self, code: int, reason: str, seconds: float) -> None:
        """The session is over; a close callback may follow."""
        self.put(reports.CLOSED, {"code": code, "reason": reason, "ms": _ms(seconds)})

    def _report(self, what: str, facts: Report) -> Report:
        return {"what": what, "at": reports.moment(), "connection": self._connection, **facts}

    def _sweep(self) -> None:
        """Drop those whose leases have ended, and look again when the next one does."""
        loop = asyncio.get_running_loop()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        for channel in [channel for channel, line in self._lines.items() if line.until <= loop.time()]:
            del self._lines[channel]
        if self._lines:
            self._timer = loop.call_at(min(line.until for line in self._lines.values()), self._sweep)
        elif live.pop(self._connection, None):
            self._on_end()


def refuse(channel: str, connection: str, why: str) -> None:
    """A watcher who comes when there are too many."""
    report = {"what": reports.BUSY, "n": 0, "at": reports.moment(), "connection": connection, "reason": why}
    post(channel, [report])


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
