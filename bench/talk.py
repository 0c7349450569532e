"""Clients that speak: each sends its next message as soon as the backend has its last one. Used by bench.load."""

import asyncio
from array import array
from time import perf_counter_ns
from typing import cast

from .backend import TALKER_DIGITS
from .sockets import MARK, STAMP_DIGITS, Client
from .system import System

MIN_SAID = 1 + STAMP_DIGITS + TALKER_DIGITS


class Talk(asyncio.Protocol):
    """One phase of some clients, which reads the backend's receipts on a connection of its own."""

    def __init__(self, system: System, clients: list[Client], size: int, seconds: float) -> None:
        self.system = system
        self.clients = clients
        self.padding = b"x" * (size - MIN_SAID)
        self.seconds = seconds
        self.said = 0
        self.latencies = array("q")  # ns
        self.buffer = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the receipts; what was said before the backend listens would be waited for in vain."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(b"GET /receipts HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        """Without receipts the phase never ends by itself."""
        if not self.over.done():
            self.over.set_exception(ConnectionError(str(error or "the backend closed the receipts' connection")))

    def begin(self) -> None:
        """Let all clients speak."""
        self.deadline_ns = perf_counter_ns() + int(self.seconds * 1e9)
        for talker in range(len(self.clients)):
            self.say(talker)

    def say(self, talker: int) -> None:
        """Let a client send a message."""
        self.said += 1
        message = b"%b%019d%06d%b" % (MARK, perf_counter_ns(), talker, self.padding)
        self.clients[talker].write(self.system.say(message))

    def data_received(self, data: bytes) -> None:
        """Read receipts: which client's message has arrived, and how long it took."""
        *receipts, self.buffer = (self.buffer + data).split(b"\n")
        if not self.said and receipts:
            receipts.pop(0)
            self.begin()
        for receipt in receipts:
            talker, took = receipt.split()
            self.latencies.append(int(took))
            if perf_counter_ns() < self.deadline_ns:
                self.say(int(talker))
            elif len(self.latencies) == self.said:
                self.over.set_result(None)
