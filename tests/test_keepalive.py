"""Keep-alive: each connection has its turn once per interval, the first one after a whole interval."""

import asyncio
from time import monotonic

import pytest

from proxy import keepalive
from proxy.keepalive import KeepAlive


class Connection:
    def __init__(self) -> None:
        self.turns: list[float] = []

    def on_ping_due(self) -> None:
        self.turns.append(monotonic())


async def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "INTERVAL", 0.2)
    pings = KeepAlive()
    stays, leaves = Connection(), Connection()
    started = monotonic()
    pings.add(stays)
    slot = pings.add(leaves)
    await asyncio.sleep(0.1)
    slot.discard(leaves)
    late = Connection()
    pings.add(late)
    async with asyncio.timeout(5):
        while len(stays.turns) < 2 or not late.turns:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not leaves.turns
    assert stays.turns[0] - started >= 0.19
    assert stays.turns[1] - stays.turns[0] >= 0.19
    assert late.turns[0] - started >= 0.29
