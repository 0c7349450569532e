"""Frames on their way to one client: written in the caller's turn while the socket takes them, else queued, bounded.

The consumer owns one per connection; see the contract's "Back-pressure". A message here is an ASGI message.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from proxy.conf import Options
from proxy.eager import start
from proxy.exceptions import SendTimeout, SessionClosed
from proxy.protocol import Message
from proxy.stats import stats
from proxy.transports import Transport


@dataclass(slots=True)
class _Waiter:
    """A send that waits for room in the queue."""

    room: asyncio.Future[None]
    message: Message
    size: int


@dataclass(slots=True)
class _Backlog:
    """What exists only while the socket is blocked."""

    queue: deque[tuple[Message, int]] = field(default_factory=deque)
    waiting: deque[_Waiter] = field(default_factory=deque)
    size: int = 0
    """Bytes of all that the server hasn't taken: in the writer's hand, queued, waiting."""
    in_hand: Message | None = None
    """What the writer waits to write."""
    writer: asyncio.Task[None] | None = None

    def lose(self) -> None:
        """Count what will never be written."""
        messages = [self.in_hand, *(message for message, _ in self.queue)]
        stats.message_errors += sum(1 for message in messages if message and message["type"] == "websocket.send")
        self.in_hand = None
        self.queue.clear()


class Outbound:
    """One client's outgoing messages, in order.

    Starts shut: what is pushed before `open` (the 101 isn't out yet) is kept like behind a blocked socket.
    `on_slow` is called when the client was blocked too long or its backlog grew too large.
    """

    __slots__ = ("_backlog", "_closed", "_on_slow", "_options", "_transport")

    def __init__(self, transport: Transport, options: Options, on_slow: Callable[[], None]) -> None:
        self._transport = transport
        self._options = options
        self._on_slow = on_slow
        self._backlog: _Backlog | None = _Backlog()
        self._closed = False

    def open(self) -> None:
        """The handshake is done: write what has come in the meantime, from now on write at once."""
        backlog, self._backlog = self._backlog, None
        while backlog and (message := self._next(backlog)):
            self._write(*message)

    def push(self, message: Message, size: int, timeout: float = 0.0) -> asyncio.Future[None] | None:
        """Take a message of `size` bytes; None when it is written or queued.

        With a full queue the future ends when there was room, or with SendTimeout after `timeout` seconds. Without a
        time-out it waits as long as a session may be blocked; a client that reads too little for that is slow as well.
        Raises SessionClosed, as does the future when the session ends meanwhile.
        """
        if self._closed:
            raise SessionClosed
        backlog = self._backlog
        if backlog is None:
            if not self._transport.write_now(message):
                self._write(message, size)
            return None
        if backlog.size + size > self._options.max_backlog_size:
            self._on_slow()
            raise SessionClosed
        backlog.size += size
        if len(backlog.queue) < self._options.send_queue_size:
            backlog.queue.append((message, size))
            return None
        return self._wait_for_room(_Waiter(asyncio.get_running_loop().create_future(), message, size), timeout)

    def finish(self, last: Message | None, close: Message) -> None:
        """Send a last message and Close after all that is queued. Nothing is taken any more.

        Both may exceed the queue's size, so that ending a session never waits.
        """
        if self._closed:
            return
        self._closed = True
        backlog = self._backlog
        if backlog is not None:
            self._fail_waiting(backlog)
            backlog.queue.extend((message, 0) for message in (last, close) if message)
            return
        for message in (last, close):
            if message:
                self._write(message, 0)

    def drop(self, close: Message | None) -> None:
        """Give up what is queued, and send Close past the blocked socket if the server can do that."""
        self._closed = True
        backlog, self._backlog = self._backlog, None
        if backlog:
            backlog.lose()
            self._fail_waiting(backlog)
            if backlog.writer:
                backlog.writer.cancel()
        if close:
            self._transport.unblock()
            with contextlib.suppress(SessionClosed):  # gone in the meantime, which ends it as well
                self._write(close, 0)
        else:
            self._on_slow = _ignore  # nobody needs to know any more, and it holds the session, which holds this

    def _write(self, message: Message, size: int) -> None:
        if self._backlog is not None:
            self._backlog.size += size
            self._backlog.queue.append((message, size))
            return
        try:
            rest = start(self._transport.send(message))
        except OSError:
            # The socket is gone; the server will tell the consumer, which ends the session.
            self._closed = True
            raise SessionClosed from None
        if rest:
            self._backlog = _Backlog(size=size, in_hand=message)
            self._backlog.writer = asyncio.create_task(self._drain(self._backlog, rest, size))

    async def _drain(self, backlog: _Backlog, rest: Awaitable[None], size: int) -> None:
        stats.blocked_sessions += 1
        try:
            async with asyncio.timeout(self._options.blocked_timeout) as limit:
                await rest
                backlog.size -= size
                while taken := self._next(backlog):
                    backlog.in_hand = taken[0]
                    limit.reschedule(asyncio.get_running_loop().time() + self._options.blocked_timeout)
                    await self._transport.send(taken[0])
                    backlog.size -= taken[1]
        except TimeoutError:
            backlog.writer = None
            self._on_slow()
        except OSError:
            backlog.writer = None
            self.drop(None)
        else:
            if self._backlog is backlog:
                self._backlog = None
        finally:
            stats.blocked_sessions -= 1

    def _next(self, backlog: _Backlog) -> tuple[Message, int] | None:
        """The next message to write; senders that waited move up into the room that this makes."""
        queue, waiting = backlog.queue, backlog.waiting
        message = queue.popleft() if queue else None
        while waiting and (message is None or len(queue) < self._options.send_queue_size):
            waiter = waiting.popleft()
            if waiter.room.done():  # timed out, or its request was cancelled
                continue
            waiter.room.set_result(None)
            if message is None:
                message = waiter.message, waiter.size
            else:
                queue.append((waiter.message, waiter.size))
        return message

    def _wait_for_room(self, waiter: _Waiter, timeout: float) -> asyncio.Future[None]:
        backlog = self._backlog
        assert backlog is not None
        backlog.waiting.append(waiter)
        loop = waiter.room.get_loop()
        if timeout:
            timer = loop.call_later(timeout, _time_out, waiter.room)
        else:  # a little later than the writer's own limit, so that one of them ends the session
            timer = loop.call_later(self._options.blocked_timeout + 0.1, self._give_up, waiter.room)

        def settle(room: asyncio.Future[None]) -> None:
            timer.cancel()
            if room.cancelled() or room.exception():
                backlog.size -= waiter.size

        waiter.room.add_done_callback(settle)
        return waiter.room

    def _give_up(self, room: asyncio.Future[None]) -> None:
        if not room.done():
            self._on_slow()

    @staticmethod
    def _fail_waiting(backlog: _Backlog) -> None:
        while backlog.waiting:
            room = backlog.waiting.popleft().room
            if not room.done():
                room.set_exception(SessionClosed())


def _ignore() -> None:
    """It is over already."""


def _time_out(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_exception(SendTimeout())
