"""Drain: the sessions of a process that ends are closed one by one, over a window, so that not all come back at once.

`server` drains before uvicorn's own shutdown, `lifespan` before daphne's. From the first signal on `/ready` says 503,
and a handshake is refused (docs/deploys.md).
"""

import asyncio
import random
import signal
import sys
from collections.abc import Callable, Collection, Set
from time import monotonic
from typing import TypeVar

STEP = 0.1  # seconds at most until a second signal is noticed
HURRY = signal.SIGUSR1  # from the supervisor of workers: end at once
EXIT_LIMIT = 4.5  # seconds after the window for all that is left; five are promised

C = TypeVar("C")


class Drain:
    """What this process knows of its own end."""

    begun = False
    """Shall clients and load balancers go elsewhere?"""
    replaced = False
    """Does another process accept new clients in this one's place? It still serves those that it has."""
    hurried = False
    """A second signal, or Ctrl-C: end at once."""

    exit_by: float | None = None
    """When the process must be gone, by the monotonic clock; None: the window isn't over."""

    def on_signal(self) -> None:
        """Begin, or hurry if that is done already. Safe in a signal handler."""
        self.hurried = self.hurried or self.begun
        self.begun = True

    def hurry(self) -> None:
        """Don't spread anything, and wait for little. Safe in a signal handler."""
        self.hurried = True

    def over(self) -> None:
        """The window is over, if it wasn't already."""
        self.exit_by = self.exit_by or monotonic() + EXIT_LIMIT

    async def spread(self, drained: Collection[C], alive: Set[C], close: Callable[[C], None], window: float) -> None:
        """Close each connection at a random moment of its own share of the window (seconds).

        Those that have gone by themselves (aren't `alive` any more) aren't waited for; nobody is when it is hurried.
        """
        began = monotonic()
        order = list(drained)
        random.shuffle(order)  # nothing secret  # nosec B311
        for number, connection in enumerate(order):
            due = began + window * (number + random.random()) / len(order)  # nothing secret  # noqa: S311  # nosec B311
            # In steps: a signal handler can't wake anybody, and a client can leave.
            while connection in alive and not self.hurried and (pause := due - monotonic()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(min(pause, STEP))
            if connection in alive:
                close(connection)
                # Its Close is written before the next one's turn. daphne gives clients 1 s to answer theirs and looks
                # at that even before it has written it, when many end in the same turn.
                await asyncio.sleep(0)


drain = Drain()
"""This process's."""


def exit_on_signals() -> None:
    """Make SIGTERM and SIGINT a good end: uvicorn takes them while it serves, and raises them again afterwards.

    SIGHUP waits until something is served, and then means to read the configuration anew; SIGUSR2 is the supervisor's.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR2})
    signal.signal(HURRY, lambda *_: drain.hurry())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))


def take_signal(number: signal.Signals, act: Callable[[], object]) -> None:
    """Have the running loop call `act` at each such signal, from now on until it closes."""
    loop = asyncio.get_running_loop()

    def on_signal(*_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(act)

    # Not by a handler of the loop's own: that goes when it closes, and then the signal would kill.
    signal.signal(number, on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def ignore_signals() -> None:
    """Nothing is served any more, so none means anything but those that end it; at Python's own end they would kill."""
    for number in (signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
