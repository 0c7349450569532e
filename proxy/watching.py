"""The watcher's side of a watch: asks the sessions of a key for reports, again and again, and reads them as they come.

The API (`watch_stream`), `manage.py tail` and the admin's pages use it. A watch is a lease: when nobody renews it, the
session's tap falls off (`taps`), so a watcher that dies leaves nothing behind.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from time import monotonic
from typing import Any
from weakref import WeakSet

from proxy import delivery, reports
from proxy.drain import drain
from proxy.events import watch_event
from proxy.exceptions import (
    ClusterLost,
    ClusterUnreachable,
    DeliveryError,
    SessionClosed,
    SessionNotFound,
    Unavailable,
)
from proxy.reports import Report
from proxy.taps import LEASE, MAX_BATCH, REPORTS

RENEW = 5.0  # seconds between renewals while a session has the key
LOOK = 1.0  # seconds while none has
STEP = 0.5  # seconds at most until the end of the process is noticed
KEEP_ALIVE = 10.0  # seconds without a report, after which there is a None
MAX_WATCHERS = 20  # of a process
MAX_CONNECTIONS = 1000  # that a watcher remembers

_watchers: "WeakSet[Watcher]" = WeakSet()


class Watcher:
    """Watches a key, or, without one, what is told on its channel: a handshake that was given it (`tapped.attach`).

    `contents`: frames' contents are wanted as well; whether they are shown is the session's to say.
    """

    def __init__(self, channel: str, key: str | None, contents: bool) -> None:
        self.channel = channel
        self._key = key
        self._contents = contents
        self._state = ""
        self._next: dict[str, int] = {}  # by connection: the number of the report that comes next

    @classmethod
    async def opened(cls, key: str | None, contents: bool) -> "Watcher":
        """One with a channel. Raises Unavailable when there are too many in this process."""
        if len(_watchers) >= MAX_WATCHERS:
            raise Unavailable(f"expected at most {MAX_WATCHERS} watchers at once in a process, found more")
        channel_layer = await delivery.start()
        watcher = cls(await channel_layer.new_channel("watch"), key, contents)
        _watchers.add(watcher)
        return watcher

    async def reports(self, stop: "asyncio.Future[Any] | None" = None) -> AsyncGenerator[Report | None, None]:
        """What happens, until `stop` is done or this process ends; None every now and then while nothing does."""
        receiving: asyncio.Future[Any] | None = None
        renewing: asyncio.Future[str] | None = None
        due = told = monotonic()
        try:
            while not (stop and stop.done()):
                if drain.begun or drain.replaced:
                    yield _own(reports.ENDED, reason="this process ends")
                    return
                if receiving is None:
                    receiving = asyncio.ensure_future(delivery.layer().receive(self.channel))
                if renewing is None and self._key and monotonic() >= due:
                    renewing = asyncio.ensure_future(self._renew(self._key))
                waited_for = {each for each in (receiving, renewing, stop) if each}
                await asyncio.wait(waited_for, timeout=STEP, return_when=asyncio.FIRST_COMPLETED)
                found: list[Report] = []
                if renewing and renewing.done():
                    found += self._judge(renewing.result())
                    due, renewing = monotonic() + (LOOK if self._state else RENEW), None
                if receiving.done():
                    found += self._read(receiving.result())
                    receiving = None
                    if any(report["what"] == reports.CLOSED for report in found):
                        due = min(due, monotonic() + LOOK)  # the key may come again, at another node
                for report in found:
                    yield report
                if found:
                    told = monotonic()
                elif monotonic() - told >= KEEP_ALIVE:
                    told = monotonic()
                    yield None
        finally:
            for task in (receiving, renewing):
                if task:
                    task.cancel()
            self.leave()

    def leave(self) -> None:
        """Have the taps taken off; without it they fall off a little later."""
        _watchers.discard(self)
        if self._key and not self._state:
            with contextlib.suppress(DeliveryError):
                self._ask(self._key, 0.0)

    def _ask(self, key: str, lease: float) -> "asyncio.Future[None] | None":
        event = watch_event(self.channel, self._contents, lease)
        return delivery.layer().request(delivery.group_name(key), event)

    async def _renew(self, key: str) -> str:
        """What is wrong, or nothing: ABSENT, or the words for LOST."""
        try:
            if outcome := self._ask(key, LEASE):
                await outcome
        except (SessionNotFound, SessionClosed):
            return reports.ABSENT
        except (ClusterLost, ClusterUnreachable):
            return "the cluster's Redis can't be reached"
        except DeliveryError:
            return "no answer from the node that has the session: it hangs, or its version knows no watches"
        return ""

    def _judge(self, state: str) -> list[Report]:
        """What there is to tell about how the key can be watched now."""
        before, self._state = self._state, state
        if state == before:
            return []
        if state == reports.ABSENT:
            return [_own(reports.ABSENT)]
        if state:
            return [_own(reports.LOST, reason=state)]
        return [_own(reports.REGAINED)] if before != reports.ABSENT else []

    def _read(self, message: Any) -> list[Report]:
        """The reports of a message, and how many are missing before them. Others on Redis may have sent anything."""
        batch = message.get("reports") if isinstance(message, dict) and message.get("type") == REPORTS else None
        if not isinstance(batch, list) or len(batch) > MAX_BATCH:
            return []
        found: list[Report] = []
        for report in filter(reports.is_from_session, batch):
            if report["what"] != reports.BUSY:
                found += self._missed(report["connection"], report["n"])
            if report["what"] == reports.SESSION and self._key is None:
                self._key = report.get("key")
            found.append(report)
        return found

    def _missed(self, connection: str, number: int) -> list[Report]:
        expected = self._next.get(connection, 0)
        if len(self._next) >= MAX_CONNECTIONS:
            self._next.clear()
        self._next[connection] = number + 1
        if number == expected:
            return []
        # Numbers begin anew when the lease has ended meanwhile: then nobody has counted.
        count = number - expected if number > expected else None
        return [_own(reports.MISSED, connection=connection, count=count)]


def _own(what: str, **fields: Any) -> Report:
    return {"what": what, "at": reports.moment(), **fields}
