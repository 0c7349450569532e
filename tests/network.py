"""A bad network: a TCP forwarder that delays, swallows or resets what passes through it.

It stands between a proxy and its Redis, so that one proxy's connection fails while the other proxies' hold.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.backend import reset

CHUNK = 64 * 1024  # bytes
WAITING = 64  # chunks under way in one direction, after which the wire takes no more, as a full pipe does


class Direction:
    """One way through a connection. While its gate is shut, what was said waits, and the end of it too."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.gate = asyncio.Event()
        self._under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)

    async def run(self, wire: Wire) -> None:
        """Forward until the end."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take(wire))
            group.create_task(self._give())

    async def _take(self, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            data = await self.reader.read(CHUNK)
            await self._under_way.put((loop.time() + wire.latency, data))

    async def _give(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await self._under_way.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self.gate.wait()
            if not data:
                self.writer.write_eof()
                return
            self.writer.write(data)
            await self.writer.drain()


@dataclass(eq=False)
class Passing:
    """One connection through the wire."""

    there: Direction
    back: Direction

    def cut(self) -> None:
        """Reset it at both ends."""
        for direction in (self.there, self.back):
            reset(direction.writer)


@dataclass
class Wire:
    """Forwards connections from its own port to `target`, a port of the loopback address."""

    target: int
    latency: float = 0.0
    """Seconds by which each byte comes later, in each direction."""
    port: int = 0
    passing: set[Passing] = field(default_factory=set)
    accepted: int = 0
    """Connections so far."""
    _there: bool = True
    _back: bool = True
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, target: int, latency: float = 0.0) -> AsyncIterator[Wire]:
        """A wire to `target`."""
        wire = cls(target, latency)
        await wire.start()
        try:
            yield wire
        finally:
            await wire.stop()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut everything, and listen no more."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self, there: bool = True, back: bool = True) -> None:
        """Swallow, until `resume`, what goes there or comes back; on new connections as well."""
        self._set(not there, not back)

    def resume(self) -> None:
        """Let everything pass again. Nothing was lost, as TCP has it."""
        self._set(True, True)

    def freeze(self, there: bool = True) -> None:
        """Swallow what comes back, and what goes there, on the connections that are there now; new ones work."""
        for passing in self.passing:
            passing.back.gate.clear()
            if there:
                passing.there.gate.clear()

    def cut(self) -> None:
        """Reset the connections that are there now."""
        for passing in self.passing:
            passing.cut()

    def _set(self, there: bool, back: bool) -> None:
        self._there, self._back = there, back
        for passing in self.passing:
            self._set_gates(passing)

    def _set_gates(self, passing: Passing) -> None:
        for direction, is_open in ((passing.there, self._there), (passing.back, self._back)):
            if is_open:
                direction.gate.set()
            else:
                direction.gate.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            await self._forward(reader, writer)
        except OSError:
            reset(writer)  # nobody listens there
        except asyncio.CancelledError:
            pass  # the wire stops; a callback of a stream server must not end by cancellation
        finally:
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        passing = Passing(Direction(reader, far_writer), Direction(far_reader, writer))
        self._set_gates(passing)
        self.passing.add(passing)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(passing.there.run(self))
                group.create_task(passing.back.run(self))
        except* OSError:
            passing.cut()  # a reset at one end is one at the other
        finally:
            self.passing.discard(passing)
            writer.close()
            far_writer.close()
