"""One Redis of the cluster: answers, and what can be said about keys that nobody seems to have."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy import envelope
from proxy.exceptions import ClusterUnreachable
from proxy.shard import UNSURE
from tests.layers import Kept, shards
from tests.redis_servers import RedisServer


@pytest.fixture
async def kept(private: RedisServer) -> AsyncIterator[Kept]:
    async with shards(private, b"inbox") as (made,):
        yield made


async def test_channels_that_others_have_too_are_told_after_a_gap(kept: Kept, private: RedisServer) -> None:
    assert kept.shared == []
    other = Kept(private.url, inbox=b"other")
    other.channels = [b"two"]
    await other.up()
    await asyncio.sleep(0.1)
    assert set(other.shared) >= {b"two"}
    await other.end()


async def test_answers_of_one_turn_leave_together(kept: Kept) -> None:
    kept.shard.subscribe(b"elsewhere")
    for number in range(50):
        kept.shard.reply(b"elsewhere", number, "ok")
    await kept.shard.ask(b"PING")
    await asyncio.sleep(0.05)
    ((channel, payload),) = kept.messages
    assert channel == b"elsewhere"
    assert envelope.unpack(payload)["replies"] == [[number, "ok"] for number in range(50)]


async def count(kept: Kept, channel: bytes) -> Any:
    """What publish says."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    kept.shard.publish(asyncio.Future.set_result, answer, channel, b"hello")
    return await asyncio.wait_for(answer, 5)


async def test_nobody_has_it_is_said_only_when_all_are_there(kept: Kept, private: RedisServer) -> None:
    """A process that was heard of and isn't connected may have it."""
    assert await count(kept, b"nobody's") == 0
    other = Kept(private.url, inbox=b"other")
    other.channels = [b"its"]
    await other.up()
    await asyncio.sleep(0.1)
    assert await count(kept, b"nobody's") == 0
    assert await count(kept, b"its") == 1
    assert await kept.shard.absent([b"its", b"nobody's"]) == {b"nobody's"}
    assert other.shard._link
    other.shard._link.lose("test")  # it'll be back in a moment
    await asyncio.sleep(0.02)
    assert await count(kept, b"its") in (UNSURE, 1)
    other.task.cancel()  # before it can say good-bye
    other.shard._up = False
    await asyncio.gather(other.task, return_exceptions=True)
    assert await count(kept, b"its") is UNSURE
    assert await count(kept, b"one") == 1  # what is there can be said
    with pytest.raises(ClusterUnreachable):
        await kept.shard.absent([b"one", b"its"])
    assert await kept.shard.absent([b"one"]) == set()


async def test_who_says_good_bye_is_not_missed(kept: Kept, private: RedisServer) -> None:
    other = Kept(private.url, inbox=b"other")
    await other.up()
    await asyncio.sleep(0.1)
    await other.end()
    await asyncio.sleep(0.1)
    assert await count(kept, b"nobody's") == 0


async def test_who_comes_hears_of_those_that_are_there(kept: Kept, private: RedisServer) -> None:
    other = Kept(private.url, inbox=b"other")
    await other.up()
    await asyncio.sleep(0.1)
    assert kept.shard._presence.others() == [b"other"]
    assert other.shard._presence.others() == [b"inbox"]
    await other.end()
