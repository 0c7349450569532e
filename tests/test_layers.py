"""The channel layer: Channels' own behaviours, and receivers that are called directly."""

import asyncio
from functools import partial
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from proxy.layers import Event, LocalChannelLayer

MESSAGE: Event = {"type": "test.message", "text": "hello", "nested": {"list": [1]}}


async def drain(layer: LocalChannelLayer, channel: str) -> list[Event]:
    messages = []
    try:
        while True:
            messages.append(await asyncio.wait_for(layer.receive(channel), 0.02))
    except TimeoutError:
        return messages


async def test_send_and_receive() -> None:
    layer = LocalChannelLayer()
    await layer.send("channel", MESSAGE)
    received = await layer.receive("channel")
    assert received == MESSAGE
    assert received["nested"] is not MESSAGE["nested"]  # what one receiver changes, no other sees


async def test_a_receiver_may_wait_first_and_order_is_kept() -> None:
    layer = LocalChannelLayer()
    waiting = asyncio.create_task(layer.receive("channel"))
    await asyncio.sleep(0)
    for number in range(3):
        await layer.send("channel", {"type": "n", "number": number})
    assert (await waiting)["number"] == 0
    assert [message["number"] for message in await drain(layer, "channel")] == [1, 2]


async def test_capacity() -> None:
    layer = LocalChannelLayer(capacity=2, channel_capacity={"big*": 3})
    await layer.send("small", MESSAGE)
    await layer.send("small", MESSAGE)
    with pytest.raises(ChannelFull):
        await layer.send("small", MESSAGE)
    for _ in range(3):
        await layer.send("big.one", MESSAGE)


async def test_expiry() -> None:
    layer = LocalChannelLayer(expiry=0.01)
    await layer.send("channel", MESSAGE)
    await asyncio.sleep(0.02)
    assert await drain(layer, "channel") == []


async def test_groups() -> None:
    layer = LocalChannelLayer()
    first, second = await layer.new_channel(), await layer.new_channel("other")
    assert first != second
    for channel in (first, second):
        await layer.group_add("group", channel)
    await layer.group_discard("group", second)
    await layer.group_discard("group", "never!added")
    await layer.group_send("group", MESSAGE)
    await layer.group_send("nobody", MESSAGE)
    assert await drain(layer, first) == [MESSAGE]
    assert await drain(layer, second) == []


async def test_a_full_member_does_not_keep_a_message_from_the_others() -> None:
    layer = LocalChannelLayer(capacity=1)
    for channel in ("a", "b"):
        await layer.group_add("group", channel)
    await layer.send("a", MESSAGE)
    await layer.group_send("group", MESSAGE)
    assert len(await drain(layer, "a")) == 1
    assert len(await drain(layer, "b")) == 1


async def test_flush() -> None:
    layer = LocalChannelLayer()
    await layer.group_add("group", "channel")
    await layer.send("channel", MESSAGE)
    layer.attach("direct", lambda event: None)
    await layer.group_add("group", "direct")
    await layer.flush()
    assert layer.request("group", MESSAGE) == []
    assert await drain(layer, "channel") == []


@pytest.mark.parametrize("name", ["", "with space", "ü", "x" * 101, 5])
async def test_names(name: Any) -> None:
    layer = LocalChannelLayer()
    with pytest.raises(TypeError):
        await layer.send(name, MESSAGE)
    with pytest.raises(TypeError):
        await layer.group_add(name, "channel")


async def test_receivers_are_called_in_the_senders_turn() -> None:
    layer = LocalChannelLayer()
    seen: list[Event] = []

    def receive(event: Event) -> None:
        seen.append(event)

    layer.attach("one", receive)
    await layer.group_add("group", "one")
    assert layer.has_receivers("group")
    assert layer.request("group", MESSAGE) == [None]
    await layer.group_send("group", MESSAGE)
    assert seen == [MESSAGE, MESSAGE]


async def test_a_receiver_may_leave_while_it_is_called() -> None:
    layer = LocalChannelLayer()
    called = []

    def leave(channel: str, event: Event) -> None:
        called.append(channel)
        layer.detach("one")
        layer.detach("two")

    for channel in ("one", "two"):
        layer.attach(channel, partial(leave, channel))
        await layer.group_add("group", channel)
    layer.request("group", MESSAGE)
    assert called == ["one", "two"]
    assert not layer.has_receivers("group")


async def test_nothing_is_left_behind() -> None:
    layer = LocalChannelLayer()
    empty = {name: len(value) for name, value in vars(layer).items() if isinstance(value, dict)}
    for number in range(100):
        channel = await layer.new_channel()
        layer.attach(channel, lambda event: None)
        await layer.group_add(f"group{number % 7}", channel)
        layer.request(f"group{number % 7}", MESSAGE)
        layer.detach(channel)
        await layer.send(channel, MESSAGE)
        await layer.receive(channel)
    assert {name: len(value) for name, value in vars(layer).items() if isinstance(value, dict)} == empty
