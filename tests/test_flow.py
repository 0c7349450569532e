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

    def take(self, data: bytes) -> int:
        self.received += data
        return data.count(b"x")

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


async def test_a_flood_of_small_things_leaves_others_their_turns() -> None:
    """Large ones are taken in one turn; small ones piece by piece, while they are wanted, and all in their order."""
    protocol, theirs = await connected()
    protocol.data_received(b"-" * 10 * flow.PIECE)
    assert len(protocol.received) == 10 * flow.PIECE
    protocol.received = b""
    flood = b"".join(b"%07dx" % number for number in range(5 * flow.PIECE // 8))
    protocol.data_received(flood)
    theirs.send(b"the end")
    turns = 0
    while len(protocol.received) < len(flood):
        assert protocol.received == flood[: (turns + 1) * flow.PIECE]
        protocol.wanted = turns != 2
        for _ in range(1 if protocol.wanted else 3):
            await asyncio.sleep(0)
        if not protocol.wanted:
            assert len(protocol.received) == 3 * flow.PIECE
            protocol.wanted = True
            protocol.read_or_pause()
            await asyncio.sleep(0)
        turns += 1
    assert turns == 4
    await asyncio.sleep(0.02)
    assert protocol.received == flood + b"the end"
    theirs.close()
    protocol.transport.abort()
    await asyncio.sleep(0.02)


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
