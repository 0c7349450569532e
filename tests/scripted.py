"""A server on bare sockets that says what a test tells it to, byte for byte, whatever HTTP thinks of that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from tests.backend import reset

CLOSE, RESET, HANG = "close", "reset", "hang"
Step = bytes | float | str
"""Bytes to write, seconds to wait, or CLOSE, RESET, HANG."""


@dataclass
class Scripted:
    """Each connection plays the next script; a script has, for each request, the steps of its answer."""

    scripts: list[Sequence[Sequence[Step]]]
    port: int = 0
    requests: list[tuple[int, bytes]] = field(default_factory=list)
    """The heads that came, with the number of their connection, from 1."""
    connections: int = 0
    ended: int = 0
    """Connections that the client has closed."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        number = self.connections
        script = self.scripts[min(number, len(self.scripts)) - 1]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            for steps in script:
                self.requests.append((number, await reader.readuntil(b"\r\n\r\n")))
                for step in steps:
                    if isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                    elif isinstance(step, float):
                        await asyncio.sleep(step)
                    elif step == RESET:
                        reset(writer)
                    elif step == CLOSE:
                        writer.close()
                    else:
                        await reader.read()
            await reader.read()
        self.ended += 1
        writer.close()


@contextlib.asynccontextmanager
async def scripted(*scripts: Sequence[Sequence[Step]]) -> AsyncIterator[Scripted]:
    """A server on a free loopback port; the last script is that of all further connections too."""
    found = Scripted(list(scripts))
    async with await asyncio.start_server(found.serve, "127.0.0.1", 0, limit=1 << 20) as server:
        found.port = server.sockets[0].getsockname()[1]
        yield found
