"""One Redis of the cluster: answers, and what can be said about keys that nobody seems to have."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from proxy import envelope, redis_connection
from proxy.exceptions import ClusterUnreachable
from proxy.shard import UNSURE
from tests.layers import Kept, shards
from tests.redis_servers import RedisServer, eventually


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


async def test_who_listens_by_a_pattern_does_not_count(
    private: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PUBLISH counts him, and an answer of his would be waited for. An operator looks what is said, for instance."""
    monkeypatch.setattr(redis_connection, "PROBE_PERIOD", 0.2)
    async with shards(private, b"inbox", b"other") as (kept, _), Redis(port=private.port) as client:
        listener = client.pubsub()
        await listener.psubscribe("*")

        async def known() -> bool:
            return bool(kept.shard._listeners) and "1 others listen" in caplog.text  # the other's line may be first

        await eventually(known, "the listener to be known", 5)
        assert await count(kept, b"nobody's") == 0
        assert await count(kept, b"one") == 2
        await listener.aclose()  # type: ignore[no-untyped-call]
        await eventually(lambda: forgotten(kept), "the listener to be forgotten", 5)
        assert await count(kept, b"one") == 2


async def forgotten(kept: Kept) -> bool:
    return not kept.shard._listeners


async def test_who_is_at_a_replica_gets_nothing_twice(kept: Kept, private: RedisServer) -> None:
    """The master gives its replicas what is published, but doesn't count who listens there."""
    async with shards(private, b"other") as (other,):
        await asyncio.sleep(0.1)
        other.task.cancel()
        other.shard._up = False  # it can't say good-bye, so it may have any channel
        await asyncio.gather(other.task, return_exceptions=True)
    follow = ("--replicaof", "127.0.0.1", str(private.port), "--repl-diskless-sync-delay", "0")
    async with RedisServer.running("", *follow) as replica, Redis(port=replica.port) as client:

        async def follows() -> bool:
            return bool((await replica.execute("ROLE"))[3] == "connected")

        await eventually(follows, "the replica to follow")
        listener = client.pubsub(ignore_subscribe_messages=True)
        await listener.subscribe("its")
        await listener.get_message(timeout=0.2)
        assert await count(kept, b"its") is UNSURE
        found = [await listener.get_message(timeout=0.3) for _ in range(3)]
        assert [message["data"] for message in found if message] == [b"hello"]
        await listener.aclose()  # type: ignore[no-untyped-call]


async def test_who_asks_and_is_not_there_is_a_reason_to_look(kept: Kept, private: RedisServer) -> None:
    """This Redis is a replica by now, and the others are at the master: known at once, not with the next probe."""
    await private.execute("REPLICAOF", "127.0.0.1", "9")
    await asyncio.sleep(0.1)
    assert kept.shard.problem() is None
    kept.shard.reply(b"nobody", 1, "ok")
    assert "found a replica" in await kept.down(timeout=1)
    await private.execute("REPLICAOF", "NO", "ONE")
