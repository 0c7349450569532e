"""One connection to Redis: commands leave once per turn of the loop, answers come in order, messages in between.

redis-py connects, authenticates and finds the master; then this protocol takes the socket over, because per message
redis-py costs several times more (docs/performance.md). RESP3, so that subscriptions and commands share one connection
and can't fail apart. Used by `shard`.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

import hiredis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ResponseError

IN_HAND = 1 << 20  # bytes of one turn over which it isn't waited for its end
MAX_UNANSWERED = 100_000  # commands
MAX_UNSENT = 32 << 20  # bytes that wait for a Redis which doesn't read; over what all requests together may have

HELLO = b"HELLO", b"3"
"""Says what Redis is."""

OnReply = Callable[[Any], None]
"""Called with Redis's answer, in the order of the commands; with LOST when the connection went before."""

LOST = object()


class Link(asyncio.Protocol):
    """See above. `on_message(channel, payload)` is called for each message of a subscription, `on_flush` before a
    turn's commands are written, `on_lost(why)` once, at the end. `timeout`, in seconds, is for each answer."""

    def __init__(
        self,
        on_message: Callable[[bytes, bytes], None],
        on_flush: Callable[[], None],
        on_lost: Callable[[str], None],
        timeout: float,
    ) -> None:
        self._on_message = on_message
        self._on_flush = on_flush
        self._on_lost = on_lost
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=LOST)
        self._connection: Any = None
        self._transport: asyncio.Transport
        self._parts: list[bytes] = []
        self._size = 0
        self._unanswered: deque[tuple[OnReply, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._full = False
        self.closed = False
        self.number = 0
        """Redis's number for this connection; 0: it doesn't tell."""

    async def open(self, pool: ConnectionPool, predecessor: int = 0) -> None:
        """Connect, and end the connection that this process had before; raises OSError, TimeoutError, redis.RedisError,
        ConnectionError for a replica.

        `predecessor` is its `number`.
        """
        connection = cast(Any, pool.make_connection())  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
            if not hasattr(pool, "get_master_address"):  # else the Sentinels have said who is the master
                await connection.send_command(*HELLO)
                require_master(await connection.read_response())
            self.number = await _identify(connection, predecessor)
            heed_cancellation()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        # The connection object is kept: it closes the socket when it goes.
        self._connection = connection
        self._transport = cast(asyncio.Transport, connection._writer.transport)
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(MAX_UNSENT)
        if early := bytes(connection._reader._buffer):
            self.data_received(early)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are connected to."""
        return getattr(self._connection, "host", ""), getattr(self._connection, "port", 0)

    # Commands

    def call(self, on_reply: OnReply, *command: bytes) -> None:
        """A command with one answer. On a link that is lost, or has too much to do, `on_reply` is called at once."""
        if self.closed or self._full or len(self._unanswered) >= MAX_UNANSWERED:
            on_reply(LOST)
            return
        self._unanswered.append((on_reply, self._loop.time() + self._timeout))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._check)
        self.write(command)

    def write(self, command: tuple[Any, ...]) -> None:
        """A command without an answer of its own: SUBSCRIBE, UNSUBSCRIBE, whose answers come as messages."""
        if self.closed:
            return
        packed = hiredis.pack_command(command)
        self._parts.append(packed)
        self._size += len(packed)
        if self._size > IN_HAND:
            self._write_out()
        self.schedule()

    def schedule(self) -> None:
        """See to it that `on_flush` is called at the end of this turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if not self.closed:
            self._on_flush()
            self._write_out()

    def _write_out(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()
            self._size = 0

    def _check(self) -> None:
        """Is an answer overdue? One that has waited in the kernel while this process was busy gets a last chance."""
        self._timer = None
        if not self._unanswered or self.closed:
            return
        oldest = self._unanswered[0]
        late = self._loop.time() - oldest[1]
        if late < 0:
            self._timer = self._loop.call_later(-late, self._check)
        elif late < self._timeout / 4:
            self._timer = self._loop.call_later(self._timeout / 4, self._check)
        else:
            self._loop.call_later(0.05, self._check_again, oldest)

    def _check_again(self, oldest: tuple[OnReply, float]) -> None:
        if self._unanswered and self._unanswered[0] is oldest:
            self.lose(f"no answer within {self._timeout:g} s")
        elif self._timer is None:
            self._check()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        reader, unanswered = self._reader, self._unanswered
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not LOST:
                if type(reply) is hiredis.PushNotification:
                    if reply[0] == b"message":
                        self._on_message(reply[1], reply[2])
                elif isinstance(reply, hiredis.ReplyError):
                    # Every command here is one that Redis should take. And a refused SUBSCRIBE answers like this
                    # though a good one doesn't, after which no answer would belong to its command.
                    self.lose(f"Redis answered: {reply}")
                    return
                elif unanswered:
                    unanswered.popleft()[0](reply)
                if self.closed:
                    return
        except hiredis.ProtocolError as error:
            self.lose(f"expected RESP3, found something else: {error}")

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(str(exc) if exc else "Redis closed the connection")

    def close(self) -> None:
        """End it well: what was written still leaves."""
        if not self.closed:
            self._write_out()
            self._transport.close()
            self.lose("closed")

    def lose(self, why: str) -> None:
        """Give the connection up: what isn't answered never will be."""
        if self.closed:
            return
        self.closed = True
        if self._connection:
            if not self._transport.is_closing():
                self._transport.abort()
            self._connection._reader = self._connection._writer = None
        if self._timer:
            self._timer.cancel()
        self._parts.clear()
        while self._unanswered:
            self._unanswered.popleft()[0](LOST)
        self._on_lost(why)


def require_master(hello: Mapping[bytes, Any]) -> None:
    """Raises ConnectionError. A replica gets what is published at its master, but the master doesn't count who listens
    there, so that half of the cluster at either would take the other half's sessions for missing."""
    if hello.get(b"role") in (b"replica", b"slave"):
        raise ConnectionError("expected a master, found a replica")


def heed_cancellation() -> None:
    """Raise CancelledError if this task was cancelled: Python 3.11's wait_for, which redis-py uses, can lose that."""
    if (task := asyncio.current_task()) and task.cancelling():
        raise asyncio.CancelledError


async def _identify(connection: Any, predecessor: int) -> int:
    """The connection's number at Redis. A predecessor that died without a word is ended there, lest it be counted."""

    async def ask(*command: str | int) -> Any:
        await connection.send_command("CLIENT", *command)
        return await connection.read_response()

    with contextlib.suppress(ResponseError):  # forbidden by an ACL, or a Redis before 6.2
        # After a fail-over the number is somebody else's.
        if predecessor and f" name={connection.client_name} ".encode() in _bytes(await ask("LIST", "ID", predecessor)):
            await ask("KILL", "ID", predecessor)
        return int(await ask("ID"))
    return 0


def _bytes(answer: bytes | str) -> bytes:
    return answer.encode() if isinstance(answer, str) else answer
