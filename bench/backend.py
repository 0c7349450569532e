"""The backend of the bench: a process that says yes to every auth callback, and is not counted.

Started by bench.run before the server under test; prints its port as its first line and ends when stdin does.
"""

import asyncio
import sys
from typing import cast

import uvloop

NO_KEY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
WITH_KEY = b"HTTP/1.1 200 OK\r\nX-Kuiperbelt-Session: %b\r\nContent-Length: 0\r\n\r\n"


class Backend(asyncio.Protocol):
    """One kept-alive connection of the proxy. The session key is the `key` of the query string."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not of its class

    def data_received(self, data: bytes) -> None:
        """Answer every request whose headers are complete; callbacks here have no bodies."""
        self.pending += data
        while (end := self.pending.find(b"\r\n\r\n")) >= 0:
            target = self.pending.split(b" ", 2)[1]
            self.pending = self.pending[end + 4 :]
            _, found, key = target.partition(b"key=")
            self.transport.write(WITH_KEY % key.partition(b"&")[0] if found else NO_KEY)


async def serve() -> None:
    """Listen on a free loopback port until the parent closes our stdin."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Backend, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(serve())
