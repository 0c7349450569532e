"""A sender for a server that closes the connection after each answer. Used by bench.load."""

import asyncio
from typing import cast

from .sockets import Sender, complete


class OneShotSender(Sender):
    """Connects anew for each request."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    def post(self, request: bytes) -> None:
        self.connecting = asyncio.create_task(self.exchange(request))

    async def exchange(self, request: bytes) -> None:
        """Open a connection for one request."""
        try:
            await asyncio.get_running_loop().create_connection(lambda: Exchange(self, request), "127.0.0.1", self.port)
        except OSError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End the phase with an error."""
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)

    def close(self) -> None:
        pass  # between two requests there is no connection


class Exchange(asyncio.Protocol):
    """One connection: a request, its answer, the end."""

    def __init__(self, sender: OneShotSender, request: bytes) -> None:
        self.sender = sender
        self.request = request
        self.response = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.response += data
        if self.transport.is_closing() or not complete(self.response):
            return
        self.transport.close()
        self.sender.answered(self.response)

    def connection_lost(self, error: Exception | None) -> None:
        if not complete(self.response):
            self.sender.fail(ConnectionError("server closed a sender's connection before it answered"))
