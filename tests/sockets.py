"""A client's socket for tests in one process: a real Transport over a `send` that can be blocked by hand."""

import asyncio
from typing import Any

from proxy.protocol import Message
from proxy.transports import ConnectionGone, Transport


class Socket:
    """Records what is written. Blocked, `send` waits like uvicorn's does; broken, it raises."""

    def __init__(self) -> None:
        self.written: list[Message] = []
        self.writable = asyncio.Event()
        self.writable.set()
        self.broken = False
        self.takes_one = False
        """Blocked again after each message."""
        self.transport = SocketTransport(self)

    async def send(self, message: Message) -> None:
        await self.writable.wait()
        if self.broken:
            raise ConnectionGone
        self.written.append(message)
        if self.takes_one:
            self.block()

    def block(self) -> None:
        self.writable.clear()

    def free(self) -> None:
        self.writable.set()

    @property
    def payloads(self) -> list[Any]:
        return [message.get("text", message.get("bytes", message["type"])) for message in self.written]


class SocketTransport(Transport):
    """The transport of a Socket; like uvicorn's it can let one message pass."""

    def __init__(self, socket: Socket) -> None:
        super().__init__(socket.send)
        self.socket = socket
        self.aborted = False

    def unblock(self) -> None:
        self.socket.free()

    def abort(self) -> None:
        self.aborted = True
