"""Flow control of a socket, over a real one."""

import asyncio
import socket

import pytest

from proxy import flow
from proxy.flow import FlowControlled


class Protocol(FlowControlled):
    """Reads while it is told to."""

    wanted = True
    lost = False
    received = b""

    def wants_to_read(self) -> bool:
        return self.wanted

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True


async def connected() -> tuple[Protocol, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    protocol = Protocol(transport)
    transport.set_protocol(protocol)
    return protocol, theirs


async def test_reading_stops_and_goes_on() -> None:
    protocol, theirs = await connected()
    protocol.wanted = False
    protocol.read_or_pause()
    theirs.send(b"hello")
    await asyncio.sleep(0.02)
    assert protocol.received == b""
    protocol.wanted = True
    protocol.read_or_pause()
    await asyncio.sleep(0.02)
    assert protocol.received == b"hello"
    theirs.close()
    protocol.close_transport()
    await asyncio.sleep(0.02)
    assert protocol.lost


async def test_blocked_and_unblocked() -> None:
    protocol, theirs = await connected()
    protocol.transport.write(b"x" * (8 << 20))
    assert protocol.blocked
    blocked = protocol.blocked
    received = 0
    while not blocked.is_set():
        received += len(await asyncio.get_running_loop().sock_recv(theirs, 1 << 20))
    assert protocol.blocked is None
    theirs.close()
    protocol.transport.abort()
    await asyncio.sleep(0.02)


async def test_closing_does_not_wait_for_ever_for_one_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "CLOSE_GRACE", 0.1)
    protocol, theirs = await connected()
    protocol.transport.write(b"x" * (8 << 20))
    protocol.close_transport()
    await asyncio.sleep(0.05)
    assert not protocol.lost
    await asyncio.sleep(0.15)
    assert protocol.lost
    theirs.close()
