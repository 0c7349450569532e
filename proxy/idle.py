"""Ends sessions that have been idle for idle_timeout. One timer for all, because one per connection costs more."""

import asyncio
from time import monotonic
from typing import Protocol
from weakref import WeakKeyDictionary

from proxy.conf import options


class Idler(Protocol):
    """What can be idle."""

    last_active: float
    """time.monotonic() of the last frame either way."""

    def on_idle(self) -> None: ...


class IdleSweeper:
    """Looks at all sessions of one event loop, several times within the time-out, while there are any."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._period = min(1.0, timeout / 10)
        self._sessions: set[Idler] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, session: Idler) -> None:
        if self._timeout:
            self._sessions.add(session)
            self._schedule()

    def discard(self, session: Idler) -> None:
        self._sessions.discard(session)

    def _schedule(self) -> None:
        if self._timer is None and self._sessions:
            self._timer = asyncio.get_running_loop().call_later(self._period, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        self._schedule()
        oldest = monotonic() - self._timeout
        for session in [session for session in self._sessions if session.last_active <= oldest]:
            session.on_idle()


_sweepers: "WeakKeyDictionary[asyncio.AbstractEventLoop, IdleSweeper]" = WeakKeyDictionary()


def sweeper() -> IdleSweeper:
    """The running event loop's sweeper."""
    loop = asyncio.get_running_loop()
    found = _sweepers.get(loop)
    if found is None:
        found = _sweepers[loop] = IdleSweeper(options().idle_timeout)
    return found
