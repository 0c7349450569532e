"""The HTTP client: connections to one server, kept and used again. `callbacks` has one for each kind of callback.

It does what requests to a backend need, and nothing else: no redirects, no cookies, no decompression.
"""

import asyncio
import math

from proxy.dial import Dial
from proxy.exceptions import AnswerCut, HungUp, Unreachable
from proxy.http_connection import Answer, Connection

KEEP_ALIVE = 10.0  # seconds that an unused connection is kept
MAX_CONNECTIONS = 512


class HttpClient:
    """For one event loop. Requests over `limit` at once wait for each other, first come, first served."""

    def __init__(self, dial: Dial, limit: int = MAX_CONNECTIONS, keep_alive: float = KEEP_ALIVE) -> None:
        self.keep_alive = keep_alive
        self._dial = dial
        self._loop = asyncio.get_running_loop()
        # As many requests at once are as many connections at most: none is opened while one is free.
        self._turns = asyncio.Semaphore(limit)
        self._free: dict[Connection, None] = {}  # the one used last is used next, so that the others may end
        self._open: set[Connection] = set()
        self._closed = False

    async def exchange(self, request: bytes, limit: int, timeout: float | None = None) -> Answer:
        """One whole request and its answer, whose body is read a little over `limit` bytes at most.

        `timeout` in seconds is for all of it, the wait for a connection included. Raises TimeoutError and HttpError.
        On a connection that was kept, a request that gets no byte of an answer before the server hangs up is made once
        more, on a new one: prefork servers close kept connections whenever they like, and that isn't their failure.
        """
        until = math.inf if timeout is None else self._loop.time() + timeout
        if self._turns.locked():
            async with _by(until):
                await self._turns.acquire()
        else:
            await self._turns.acquire()
        try:
            if self._free:
                connection, _ = self._free.popitem()
                try:
                    return await connection.ask(request, limit, until)
                except HungUp:
                    pass
            async with _by(until):
                connection = await self._opened()
            return await connection.ask(request, limit, until)
        finally:
            self._turns.release()

    async def _opened(self) -> Connection:
        if self._closed:
            raise Unreachable("the HTTP client is shut down")
        connection = await self._dial(lambda: Connection(self, self._loop))
        if connection.is_open and not self._closed:
            self._open.add(connection)
        else:
            connection.end()
        return connection

    def on_free(self, connection: Connection) -> None:
        """For its connections: this one takes another request."""
        self._free[connection] = None

    def on_end(self, connection: Connection) -> None:
        """For its connections: this one takes none any more."""
        self._free.pop(connection, None)
        self._open.discard(connection)

    async def shut_down(self) -> None:
        """Close all connections, and open no more; what waits for an answer fails."""
        self._closed = True
        for connection in [*self._open]:
            connection.end(AnswerCut("closed by this side"))
        await asyncio.sleep(0)  # that is when transports close their sockets


def _by(until: float) -> asyncio.Timeout:
    return asyncio.timeout_at(None if until == math.inf else until)
