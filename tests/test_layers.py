"""The channel layer: Channels' own behaviours, and receivers that are called directly."""

import asyncio
from functools import partial
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from proxy.events import Event, send_event
from proxy.exceptions import SendTimeout, SessionClosed, SessionNotFound
from proxy.layers import LocalChannelLayer
from proxy.outcomes import Outcome
from proxy.protocol import Frame

MESSAGE: Event = {"type": "test.message", "text": "hello", "nested": {"list": [1]}}
EVENT = send_event(Frame("hello", 5), 0.0)


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
    with pytest.raises(SessionNotFound):
        layer.request("group", EVENT)
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
    assert layer.request("group", EVENT) is None
    await layer.group_send("group", EVENT)
    await layer.group_send("group", MESSAGE)  # nothing that a session could use
    assert seen == [EVENT, EVENT]


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
    layer.request("group", EVENT)
    assert called == ["one", "two"]
    assert await layer.missing(["group"]) == {"group"}


async def test_nothing_is_left_behind() -> None:
    layer = LocalChannelLayer()
    empty = {name: len(value) for name, value in vars(layer).items() if isinstance(value, dict)}
    for number in range(100):
        channel = await layer.new_channel()
        layer.attach(channel, lambda event: None)
        await layer.group_add(f"group{number % 7}", channel)
        layer.request(f"group{number % 7}", EVENT)
        layer.detach(channel)
        await layer.send(channel, MESSAGE)
        await layer.receive(channel)
    assert {name: len(value) for name, value in vars(layer).items() if isinstance(value, dict)} == empty


def answering(answer: Outcome | Exception) -> Any:
    def receive(event: Event) -> Outcome:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return receive


async def group_of(*answers: Outcome | Exception) -> LocalChannelLayer:
    layer = LocalChannelLayer()
    for number, answer in enumerate(answers):
        layer.attach(str(number), answering(answer))
        await layer.group_add("group", str(number))
    return layer


async def test_one_that_takes_an_event_is_enough() -> None:
    assert (await group_of(SessionClosed(), None, SessionNotFound())).request("group", EVENT) is None
    late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    outcome = (await group_of(SessionClosed(), late)).request("group", EVENT)
    assert outcome
    late.set_result(None)
    await outcome


async def test_if_none_takes_it_the_error_is_the_one_that_says_most() -> None:
    with pytest.raises(SessionClosed):
        (await group_of(SessionNotFound(), SessionClosed())).request("group", EVENT)
    with pytest.raises(SessionNotFound):
        (await group_of(SessionNotFound(), SessionNotFound())).request("group", EVENT)
    late: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
    outcome = (await group_of(SessionNotFound(), *late)).request("group", EVENT)
    for future in late:
        future.set_exception(SendTimeout())
    assert outcome
    with pytest.raises(SendTimeout):
        await outcome


async def test_a_request_for_all_tells_all_errors() -> None:
    layer = await group_of(SessionClosed(), None, SessionNotFound())
    assert [type(error) for error in await layer.request_all("group", EVENT)] == [SessionClosed, SessionNotFound]


async def test_enter_tells_whether_the_channel_is_alone() -> None:
    layer = LocalChannelLayer()
    told: list[bool] = []
    for channel in ("a", "b"):
        layer.attach(channel, answering(None))
        await layer.enter("group", channel, told.append)
    assert told == [True, False]


async def test_one_process_needs_nothing_else() -> None:
    layer = LocalChannelLayer()
    await layer.start()
    await layer.room(1)
    assert layer.started
    assert not layer.must_wait("group", 1)
    assert not layer.is_unreachable()
    assert not layer.problems()


async def test_messages_that_nobody_reads_are_dropped_when_they_have_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.layers.MIN_SWEEP", 10)
    layer = LocalChannelLayer(expiry=0.01)
    layer._sweep_at = 10
    waiting = asyncio.create_task(layer.receive("waited-for"))
    for number in range(200):
        await layer.send(f"channel{number}", MESSAGE)
        await asyncio.sleep(0.001)
    assert len(layer._queues) < 60
    await layer.send("waited-for", MESSAGE)
    assert await waiting == MESSAGE
