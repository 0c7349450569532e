"""Requests to the other processes of the cluster that wait for their answers. Used by `cluster`.

A request goes out over Redis, which says how many processes it was handed to; each of them answers once, or says first
that it will take LATER, because a session's socket is blocked.
"""

import asyncio
import itertools
from typing import Any

from proxy.exceptions import (
    ClusterLost,
    ClusterUnreachable,
    DeliveryError,
    NoAnswer,
    SendTimeout,
    SessionClosed,
    SessionNotFound,
    SessionTaken,
)
from proxy.link import LOST
from proxy.outcomes import decide
from proxy.shard import UNSURE
from proxy.stats import stats

# Bytes that may be under way from one process. Redis cuts off who lets 32 MB wait for him, and several may send to him.
WINDOW = 4 << 20
# The last part of it is for small ones, so that large ones which nobody takes don't hold up all that others could have.
WINDOW_FOR_LARGE = 3 << 20
SMALL = 4 << 10  # bytes

OK = "ok"
STALE = "stale"
LATER = "later"
# The names of outcomes on Redis.
_ERRORS: dict[str, type[DeliveryError]] = {
    "not found": SessionNotFound,
    "closed": SessionClosed,
    "timeout": SendTimeout,
    "taken": SessionTaken,
    STALE: ClusterUnreachable,  # it was dropped
    "unsure": ClusterUnreachable,  # after a gap, somebody else may have the session by now
}
_NAMES = {error: name for name, error in _ERRORS.items()}  # the last one of a kind


def name_of(error: DeliveryError) -> str:
    """How an error is called on Redis."""
    return _NAMES.get(type(error), "closed")


class Request:
    """One event on its way. `future` ends with None as soon as a process has taken it, or with a DeliveryError when
    none has; `for_all`: only when every process has answered. `errors` are the answers of those that didn't take it."""

    __slots__ = (
        "_answers",
        "_taken",
        "deadline",
        "echo",
        "errors",
        "expected",
        "for_all",
        "future",
        "number",
        "overdue",
        "size",
    )

    def __init__(
        self, number: int, future: "asyncio.Future[None]", deadline: float, echo: bool, for_all: bool, size: int
    ) -> None:
        self.number = number
        self.future = future
        self.deadline = deadline
        """On the loop's clock."""
        self.echo = echo
        """Does this process answer as well, when the request comes back to it?"""
        self.for_all = for_all
        self.size = size
        """Bytes under way: 0 once a process has said that it has them."""
        self.errors: list[DeliveryError] = []
        self.overdue = False
        self._answers = 0
        self._taken = False
        self.expected: int | None = None
        """How many processes Redis has handed it to; None: it hasn't said so."""

    def expect(self, processes: int) -> None:
        """Redis has handed it to so many."""
        self.expected = processes
        if self._answers >= processes:
            self._end()

    def answer(self, outcome: str) -> None:
        self._answers += 1
        if outcome == OK:
            self._taken = True
        else:
            self.errors.append(_ERRORS.get(outcome, SessionClosed)())
        if (self._taken and not self.for_all) or self._answers == self.expected:
            self._end()

    def fail(self, error: DeliveryError) -> None:
        """It can't be known what becomes of it."""
        self.errors.append(error)
        self._end()

    def _end(self) -> None:
        if self.future.done():  # or whoever waited for it was cancelled
            return
        if self._taken:
            self.future.set_result(None)
        else:
            self.future.set_exception(decide(self.errors))
            self.future.exception()  # it is no mistake if nobody waits for it any more


class Requests:
    """All of one process. `timeout` is for an answer, `wait_limit` for one that was said to come later; seconds."""

    def __init__(self, timeout: float, wait_limit: float) -> None:
        self._timeout = timeout
        self._wait_limit = wait_limit
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        # Both in the order of their deadlines.
        self._waiting: dict[int, Request] = {}
        self._later: dict[int, Request] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._under_way = 0
        # Below how many bytes under way somebody goes on.
        self._rooms: dict[int, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._later)

    @property
    def crowded(self) -> bool:
        """Is so much under way that some new requests should wait for `room`?"""
        return self._under_way > WINDOW_FOR_LARGE

    def full(self, size: int) -> bool:
        """Should one of so many bytes?"""
        return self._under_way > _window(size)

    async def room(self, size: int) -> None:
        """Wait until less is under way. Raises ClusterUnreachable after the time that is for an answer."""
        deadline = self._loop.time() + self._timeout
        while self.full(size):
            room = self._rooms.setdefault(_window(size), self._loop.create_future())
            await asyncio.wait([room], timeout=deadline - self._loop.time())
            if not room.done():
                raise ClusterUnreachable

    def new(self, echo: bool, for_all: bool = False, size: int = 0) -> Request:
        number, loop = next(self._numbers), self._loop
        request = Request(number, loop.create_future(), loop.time() + self._timeout, echo, for_all, size)
        self._under_way += size
        self._waiting[number] = request
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._sweep)
        return request

    def get(self, number: int) -> Request | None:
        return self._waiting.get(number) or self._later.get(number)

    def expect(self, request: Request, processes: Any) -> None:
        """Redis has handed it to so many; or LOST, UNSURE."""
        if processes is LOST:
            request.fail(ClusterLost())
        elif processes is UNSURE:
            request.fail(ClusterUnreachable())
        else:
            request.expect(processes)
        self._forget_if_done(request)

    def answer(self, number: int, outcome: str) -> None:
        """An answer from a process; one that comes too late means nothing."""
        request = self.get(number)
        if request is None:
            return
        if outcome == LATER:
            if self._waiting.pop(number, None) is None:
                return  # nobody puts it off again and again
            self._later[number] = request
            request.deadline = self._loop.time() + self._wait_limit
            request.overdue = False
            self._arrived(request)
            return
        request.answer(outcome)
        self._forget_if_done(request)

    def fail(self, request: Request, error: DeliveryError) -> None:
        """It can't be known what becomes of it."""
        request.fail(error)
        self._forget_if_done(request)

    def _arrived(self, request: Request) -> None:
        self._under_way -= request.size
        request.size = 0
        if self._rooms:
            for window in [window for window in self._rooms if self._under_way <= window]:
                self._rooms.pop(window).set_result(None)

    def _forget_if_done(self, request: Request) -> None:
        if request.future.done():
            self._arrived(request)
        if request.future.done() and self._waiting.pop(request.number, None) is None:
            self._later.pop(request.number, None)

    def _sweep(self) -> None:
        now = self._loop.time()
        for entries in (self._waiting, self._later):
            for request in list(itertools.takewhile(lambda entry: entry.deadline < now, entries.values())):
                if not request.overdue:  # its answer may be there already and wait for this process to read it
                    request.overdue = True
                    continue
                stats.no_answers += 1
                request.fail(ClusterLost() if request.expected is None else NoAnswer())
                self._arrived(request)
                del entries[request.number]
        self._timer = self._loop.call_later(self._timeout / 10, self._sweep) if len(self) else None


def _window(size: int) -> int:
    return WINDOW if size <= SMALL else WINDOW_FOR_LARGE
