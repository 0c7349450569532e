"""Frames of one client on their way to the receive callback: one at a time, in order, bounded.

The consumer owns one per connection that has sent something; see the contract's "Callbacks", receive.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from proxy import logs
from proxy.exceptions import BackendBusy, CallbackError
from proxy.protocol import Frame
from proxy.stats import stats
from proxy.transports import Transport

MAX_FRAMES = 16
MAX_BYTES = 1 << 20
LAST_FRAMES_LIMIT = 3.0  # seconds at shutdown for frames that wait for the receive callback


class Inbound:
    """Hands frames to `deliver` in a task that lives only while there are some; calls `on_error` if that has a bug."""

    __slots__ = ("_connection", "_deliver", "_ended", "_on_error", "_queue", "_room", "_size", "_task")

    def __init__(
        self, deliver: Callable[[Frame], Awaitable[None]], connection: str, on_error: Callable[[], object]
    ) -> None:
        self._deliver = deliver
        self._on_error = on_error
        self._connection = connection
        self._queue: deque[Frame] = deque()
        self._size = 0
        self._room: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    def put(self, frame: Frame) -> None:
        """Take a frame. Wait for `room` before the next one when this makes it full."""
        self._queue.append(frame)
        stats.received_waiting += 1
        self._size += frame.size
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    @property
    def full(self) -> bool:
        return len(self._queue) >= MAX_FRAMES or self._size >= MAX_BYTES

    async def room(self, transport: Transport) -> None:
        """Returns when the next frame may be read from the client; until then the transport doesn't read either."""
        if self.full:
            self._room = asyncio.Event()
            transport.pause_reading()
            await self._room.wait()
            transport.resume_reading()

    async def end(self, limit: float | None) -> None:
        """The client has gone: what it sent still goes out, unless the backend fails, or `limit` seconds are over."""
        self._ended = True
        if self._task:
            await asyncio.wait([self._task], timeout=limit)
            if self._task:
                self._task.cancel()

    async def _run(self) -> None:
        while self._queue:
            frame = self._queue[0]
            try:
                await self._deliver(frame)
            except CallbackError as error:
                stats.receive_errors += 1
                if not isinstance(error, BackendBusy):  # a line for each frame; `breaker` has said it once
                    logs.callback_failed("receive", self._connection, error)
                if self._ended:
                    break
            except Exception:
                logs.crashed(self._connection)
                self._on_error()
                break
            self._queue.popleft()
            stats.received_waiting -= 1
            self._size -= frame.size
            if self._room and not self.full:
                self._room.set()
                self._room = None
        stats.received_waiting -= len(self._queue)
        self._queue.clear()
        self._task = None
        if self._room:  # there will be no other turn to let the reader go on
            self._room.set()
