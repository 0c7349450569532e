"""What is looked at every second; that it is served is in test_metrics.py."""

import asyncio
import time

from proxy import sampler
from proxy.stats import BUCKETS, Stats, stats


async def test_a_loop_that_stood_still_is_late() -> None:
    """A second `begin` begins nothing."""
    sampler.begin()
    sampler.begin()
    place = Stats.loop_lag[()]
    width = len(BUCKETS) + 1

    def looks() -> list[int]:
        return list(stats.slot[place : place + width])

    assert stats.workers == 1
    before = looks()
    await asyncio.sleep(2.2 * sampler.PERIOD)
    assert sum(looks()) - sum(before) in (
        2,
        3,
    )  # another test may have begun it, at another time; twice would be 4 to 6
    before = looks()
    time.sleep(sampler.PERIOD + 0.3)  # noqa: ASYNC251  that is what it's about
    await asyncio.sleep(0.05)
    late = [now - then for now, then in zip(looks(), before, strict=True)]
    assert sum(late) == 1
    assert BUCKETS[late.index(1)] in (0.5, 1.0)


async def test_after_the_end_nothing_is_looked_at() -> None:
    """Else the layer of a process that has left the cluster would connect anew."""

    def looks_of_a_loop_of_its_own() -> int:
        async def begin_and_end() -> int:
            sampler.begin()
            before = sum(stats.slot[place : place + width])
            sampler.end()
            await asyncio.sleep(1.2 * sampler.PERIOD)
            return sum(stats.slot[place : place + width]) - before

        return asyncio.run(begin_and_end())

    place, width = Stats.loop_lag[()], len(BUCKETS) + 1
    sampler.end()  # that of the other tests, in the same numbers
    assert await asyncio.to_thread(looks_of_a_loop_of_its_own) == 0
