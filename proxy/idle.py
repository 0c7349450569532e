"""Ends sessions that have been idle for idle_timeout."""

import asyncio
from time import monotonic
from typing import Protocol
from weakref import WeakKeyDictionary

from proxy.conf import options
from proxy.sweep import Sweeper


class Idler(Protocol):
    """What can be idle."""

    last_active: float
    """time.monotonic() of the last frame either way."""

    def on_idle(self) -> None: ...


class IdleSweeper(Sweeper[Idler]):
    """Looks at all sessions of one event loop, several times within the time-out, while there are any."""

    def __init__(self, timeout: float) -> None:
        super().__init__(min(1.0, timeout / 10))
        self._timeout = timeout

    def add(self, session: Idler) -> None:
        if self._timeout:
            super().add(session)

    def sweep(self) -> None:
        oldest = monotonic() - self._timeout
        for session in [session for session in self.members if session.last_active <= oldest]:
            session.on_idle()


_sweepers: "WeakKeyDictionary[asyncio.AbstractEventLoop, IdleSweeper]" = WeakKeyDictionary()


def sweeper() -> IdleSweeper:
    """The running event loop's sweeper."""
    loop = asyncio.get_running_loop()
    found = _sweepers.get(loop)
    if found is None:
        found = _sweepers[loop] = IdleSweeper(options().idle_timeout)
    return found
