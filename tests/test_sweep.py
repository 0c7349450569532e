"""The sweeper: it looks while there is something to look at, and no longer."""

import asyncio

from proxy.sweep import Sweeper


class Counting(Sweeper[int]):
    def __init__(self) -> None:
        super().__init__(0.02)
        self.sweeps = 0

    def sweep(self) -> None:
        self.sweeps += 1


async def test_sweeps_end_with_the_last_member_and_begin_with_the_next() -> None:
    sweeper = Counting()
    await asyncio.sleep(0.1)
    assert sweeper.sweeps == 0
    for _ in range(2):
        sweeper.add(1)
        sweeper.add(2)
        sweeper.discard(1)
        before = sweeper.sweeps
        await asyncio.sleep(0.2)
        assert before + 3 < sweeper.sweeps < before + 12  # one timer, not one for each
        sweeper.discard(2)
        await asyncio.sleep(0.05)
        before = sweeper.sweeps
        await asyncio.sleep(0.1)
        assert sweeper.sweeps == before
