"""The idle sweeper: who has been silent too long is told, once it is, and nobody else."""

import asyncio
from time import monotonic

from proxy.idle import IdleSweeper, sweeper


class Session:
    def __init__(self) -> None:
        self.last_active = monotonic()
        self.idle_after = 0.0

    def on_idle(self) -> None:
        self.idle_after = self.idle_after or monotonic() - self.last_active


async def test_only_the_silent_one_is_idle() -> None:
    sweep = IdleSweeper(0.2)
    silent, busy, gone = Session(), Session(), Session()
    for session in (silent, busy, gone):
        sweep.add(session)
    sweep.discard(gone)
    for _ in range(5):
        await asyncio.sleep(0.08)
        busy.last_active = monotonic()
    assert 0.2 <= silent.idle_after < 0.3
    assert busy.idle_after == gone.idle_after == 0.0
    sweep.discard(silent)
    sweep.discard(busy)


async def test_zero_is_off() -> None:
    sweep = IdleSweeper(0.0)
    session = Session()
    session.last_active -= 1000
    sweep.add(session)
    await asyncio.sleep(0.05)
    assert not session.idle_after


async def test_one_sweeper_for_each_event_loop() -> None:
    assert sweeper() is sweeper()
