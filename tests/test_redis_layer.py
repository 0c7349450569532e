"""Channels' own behaviours, over a real Redis: within a process, between two, and over several shards."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.test import override_settings

from proxy import redis_layer
from proxy.cluster import ClusterLayer, RedisChannelLayer
from proxy.events import Event
from proxy.exceptions import ClusterUnreachable
from proxy.options import Options
from proxy.redis_hosts import redis_hosts
from proxy.stats import stats
from tests.layers import layers, make_layer
from tests.redis_servers import RedisServer, eventually

MESSAGE: Event = {"type": "test.message", "text": "hellö", "bytes": b"\x00\xff", "nested": {"list": [1, 2.5, None]}}


@pytest.fixture(params=[1, 3], ids=["one Redis", "three shards"])
async def pair(request: pytest.FixtureRequest, redis: RedisServer) -> AsyncIterator[list[ClusterLayer]]:
    """Two processes' layers."""
    if request.param == 1:
        async with layers(2, redis) as made:
            yield made
        return
    async with RedisServer.running() as second, RedisServer.running() as third, layers(2, redis, second, third) as made:
        yield made


async def received(layer: ClusterLayer, channel: str) -> Event:
    return await asyncio.wait_for(layer.receive(channel), 5)


async def nothing(layer: ClusterLayer, channel: str) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(layer.receive(channel), 0.2)


async def test_a_channel_of_this_process_and_of_another(pair: list[ClusterLayer]) -> None:
    one, two = pair
    channel = await two.new_channel()
    assert channel != await two.new_channel()
    for sender in (one, two):
        await sender.send(channel, MESSAGE)
        message = await received(two, channel)
        assert message == MESSAGE
        assert message is not MESSAGE


async def test_order_and_several_channels(pair: list[ClusterLayer]) -> None:
    one, two = pair
    channels = [await two.new_channel() for _ in range(5)]
    for number in range(20):
        for channel in channels:
            await one.send(channel, {"type": "n", "number": number})
    for channel in channels:
        assert [(await received(two, channel))["number"] for _ in range(20)] == list(range(20))


async def test_channels_that_nobody_reads_have_an_end(
    pair: list[ClusterLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write to Redis may invent any number."""
    monkeypatch.setattr(redis_layer, "MAX_UNREAD", 2)
    one, two = pair
    channels = [await two.new_channel() for _ in range(4)]
    waiting = asyncio.create_task(received(two, channels[3]))
    await asyncio.sleep(0)
    for channel in channels:
        await one.send(channel, MESSAGE)
    assert await waiting == MESSAGE
    assert [await received(two, channel) for channel in channels[:2]] == [MESSAGE] * 2
    await nothing(two, channels[2])


async def test_a_message_nested_too_deeply_is_dropped(pair: list[ClusterLayer]) -> None:
    one, two = pair
    channel = await two.new_channel()
    nested: Event = {}
    for _ in range(700):
        nested = {"in": nested}
    before = stats.bad_envelopes
    await one.send(channel, nested)
    await one.send(channel, MESSAGE)
    assert await received(two, channel) == MESSAGE
    assert stats.bad_envelopes == before + 1


async def test_a_general_channel(pair: list[ClusterLayer]) -> None:
    """Whoever receives from it gets what comes."""
    one, two = pair
    receiving = asyncio.create_task(received(two, "work"))
    await asyncio.sleep(0.2)
    await one.send("work", MESSAGE)
    assert await receiving == MESSAGE
    await one.send("work", MESSAGE)  # while nobody waits: it is subscribed still
    assert await received(two, "work") == MESSAGE


async def test_a_general_channel_with_two_consumers(pair: list[ClusterLayer]) -> None:
    """One of which ends."""
    one, two = pair
    staying, leaving = [asyncio.create_task(received(two, "shared")) for _ in range(2)]
    await asyncio.sleep(0.2)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await one.send("shared", MESSAGE)
    assert await staying == MESSAGE


async def test_groups(pair: list[ClusterLayer]) -> None:
    one, two = pair
    a, b, c = await one.new_channel(), await two.new_channel(), await two.new_channel()
    for layer, channel in ((one, a), (two, b), (two, c)):
        await layer.group_add("group", channel)
    await two.group_discard("group", c)
    await two.group_discard("group", await two.new_channel())  # never was in it
    await one.group_send("group", MESSAGE)
    await one.group_send("nobody", MESSAGE)
    assert await received(one, a) == MESSAGE
    assert await received(two, b) == MESSAGE
    await nothing(two, c)
    await nothing(one, a)
    await two.group_discard("group", b)
    await one.group_send("group", MESSAGE)
    await nothing(two, b)


async def test_a_full_channel_misses_messages_and_says_so_where_it_can(redis: RedisServer) -> None:
    async with layers(2, redis, capacity=2) as (one, two):
        channel = await two.new_channel()
        await two.group_add("group", channel)
        for _ in range(4):
            await one.send(channel, MESSAGE)
        await one.group_send("group", MESSAGE)
        await asyncio.sleep(0.2)
        with pytest.raises(ChannelFull):
            await two.send(channel, MESSAGE)
        for _ in range(2):
            assert await received(two, channel) == MESSAGE
        await nothing(two, channel)


async def test_expiry(redis: RedisServer) -> None:
    async with layers(2, redis, expiry=0.05) as (one, two):
        channel = await two.new_channel()
        await one.send(channel, MESSAGE)
        await asyncio.sleep(0.2)
        await nothing(two, channel)


async def test_flush(pair: list[ClusterLayer]) -> None:
    """Forgets everything, and can be used again."""
    one, two = pair
    channel = await two.new_channel()
    await two.group_add("group", channel)
    await two.flush()
    await one.group_send("group", MESSAGE)
    await nothing(two, channel)
    await two.group_add("group", channel)
    await one.group_send("group", MESSAGE)
    assert await received(two, channel) == MESSAGE


@pytest.mark.parametrize("name", ["", "with space", "ü", "x" * 101, 5])
async def test_names(redis: RedisServer, name: Any) -> None:
    async with layers(1, redis) as (layer,):
        for refused in (layer.send(name, MESSAGE), layer.group_add(name, "channel"), layer.group_send(name, MESSAGE)):
            with pytest.raises(TypeError):
                await refused


async def test_the_channel_of_another_process_cannot_be_added(pair: list[ClusterLayer]) -> None:
    one, two = pair
    with pytest.raises(RuntimeError, match="expected a channel of this process"):
        await one.group_add("group", await two.new_channel())


async def test_without_redis() -> None:
    layer = make_layer("redis://127.0.0.1:9")
    try:
        channel = await layer.new_channel()
        with pytest.raises(ClusterUnreachable):
            await layer.group_add("group", channel)
        with pytest.raises(ClusterUnreachable):
            await layer.send("work", MESSAGE)
        await layer.send(channel, MESSAGE)
        assert await received(layer, channel) == MESSAGE
        assert layer.is_unreachable()
        assert "127.0.0.1:9" in layer.problems()[0]
    finally:
        await layer.flush()


async def test_nothing_is_left_behind(redis: RedisServer) -> None:
    async with layers(2, redis) as (one, two):
        channels = (await redis.execute("PUBSUB", "CHANNELS", "test*"))[:]
        for number in range(100):
            channel = await two.new_channel()
            await two.group_add(f"group{number % 7}", channel)
            await one.group_send(f"group{number % 7}", MESSAGE)
            assert await received(two, channel) == MESSAGE
            two.detach(channel)
        await one.send(await two.new_channel(), MESSAGE)

        async def gone() -> bool:
            return sorted(await redis.execute("PUBSUB", "CHANNELS", "test*")) == sorted(channels)

        await eventually(gone, "the subscriptions to go")
        assert not two._groups
        assert not two._memberships


async def test_garbage_on_redis_is_counted_and_dropped(pair: list[ClusterLayer], redis: RedisServer) -> None:
    before = stats.bad_envelopes
    one, two = pair
    channel = await two.new_channel()
    await two.group_add("group", channel)
    for name in await redis.execute("PUBSUB", "CHANNELS", "test*"):
        for garbage in (b"", b"hello", b"\xc1", b"\x81\xa1v\x02", b"\x92\x01\x02", b"\x91" * 2000):
            await redis.execute("PUBLISH", name, garbage)
    await asyncio.sleep(0.2)
    assert stats.bad_envelopes >= before + 6
    await one.send(channel, MESSAGE)
    assert await received(two, channel) == MESSAGE


async def test_it_is_the_projects_channel_layer(redis: RedisServer) -> None:
    """Configured as Channels wants it; each event loop has connections of its own, which end with it."""
    config = {
        "hosts": redis_hosts(Options(redis_url=(redis.url,))),
        "prefix": "loops",
        "timeout": 1.0,
        "wait_limit": 6.0,
        "join": False,
    }
    chosen = {"default": {"BACKEND": "proxy.cluster.RedisChannelLayer", "CONFIG": config}}
    with override_settings(CHANNEL_LAYERS=chosen):
        layer = get_channel_layer()
        assert isinstance(layer, RedisChannelLayer)

        async def use() -> None:
            channel = await layer.new_channel()
            await layer.group_add("group", channel)
            await layer.group_send("group", MESSAGE)
            assert await layer.receive(channel) == MESSAGE
            assert layer.extensions == ("groups", "flush")

        def in_a_loop_of_its_own() -> None:
            with asyncio.Runner() as runner:
                runner.run(use())

        await asyncio.to_thread(in_a_loop_of_its_own)
        await asyncio.to_thread(in_a_loop_of_its_own)

        async def left() -> bool:
            return not await redis.execute("PUBSUB", "CHANNELS", "loops*")

        await eventually(left, "the loops' connections to end")
