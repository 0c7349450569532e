"""An open loop: requests that are due at fixed times, however long the answers take. Used by bench.load."""

import asyncio
import ctypes
import os
import sys
from time import CLOCK_MONOTONIC, perf_counter_ns

from .sockets import Requests
from .system import System

SECOND = 1_000_000_000  # ns
TIMER_ABSTIME = 1
LEAD = 5_000_000  # ns from the making of a phase to its first request


def timer(first_ns: int, interval_ns: int) -> int:
    """Return a file descriptor that becomes readable at `first_ns` of CLOCK_MONOTONIC and every interval after it.

    Event loops round their timers to whole milliseconds, which is more than a local send takes.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    file = libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    specification = (ctypes.c_long * 4)(*divmod(interval_ns, SECOND), *divmod(first_ns, SECOND))
    if file < 0 or libc.timerfd_settime(file, TIMER_ABSTIME, ctypes.byref(specification), None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(file)


class PacedRequests(Requests):
    """Requests at a fixed rate, each by whichever sender is free and stamped with the time at which it was due.

    A request that finds no free sender waits for one, and that wait is part of its latency.
    """

    def __init__(
        self, system: System, kind: str, batches: list[list[str]], size: int, seconds: float, rate: float
    ) -> None:
        super().__init__(system, kind, batches, size)
        self.interval = int(SECOND / rate)
        self.total = max(1, round(seconds * rate))
        self.first = perf_counter_ns() + LEAD
        self.due = 0
        self.timer = timer(self.first, self.interval)
        asyncio.get_running_loop().add_reader(self.timer, self.tick)

    def tick(self) -> None:
        """Give what has become due to senders that wait for work."""
        self.due = min(self.total, self.due + int.from_bytes(os.read(self.timer, 8), sys.byteorder))
        if self.due == self.total:
            asyncio.get_running_loop().remove_reader(self.timer)
            os.close(self.timer)
        while self.waiting and (self.due > self.requests or self.due == self.total):
            self.waiting.popleft().advance()

    def next(self) -> bytes | None:
        if self.requests >= self.total:
            return None
        if self.requests >= self.due:
            return b""
        return self.make(self.first + self.requests * self.interval)
