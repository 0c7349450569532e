"""The single door: keys to groups, failures in order, strict broadcast, closing, replacing."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from proxy import conf, delivery
from proxy.events import Event
from proxy.exceptions import SendTimeout, SessionClosed
from proxy.outcomes import Outcome
from proxy.protocol import Failure, Frame

FRAME = Frame("hello", 5)


class Session:
    """A receiver in the layer that answers as it is told."""

    def __init__(self, answer: Outcome | Exception) -> None:
        self.events: list[Event] = []
        self.answer = answer

    def on_event(self, event: Event) -> Outcome:
        self.events.append(event)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def session(key: str, answer: Outcome | Exception = None) -> Session:
    made, layer = Session(answer), delivery.layer()
    channel = await layer.new_channel()
    layer.attach(channel, made.on_event)
    await layer.group_add(delivery.group_name(key), channel)
    return made


@pytest.fixture(autouse=True)
async def empty_layer() -> AsyncIterator[None]:
    yield
    await delivery.layer().flush()


async def test_send_to_sessions_and_to_nobody() -> None:
    bob = await session("bob")
    done = await delivery.send(["alice", "bob", "bob", "carol"], FRAME)
    assert [event["message"] for event in bob.events] == [FRAME.message(), FRAME.message()]
    assert done.failures == [
        Failure("alice", "kuiperbelt: session is not found"),
        Failure("carol", "kuiperbelt: session is not found"),
    ]
    assert not done.refused


async def test_failures_keep_the_order_of_the_keys_though_some_come_late() -> None:
    loop = asyncio.get_running_loop()
    late: asyncio.Future[None] = loop.create_future()
    loop.call_later(0.01, late.set_exception, SendTimeout())
    await session("slow", late)
    await session("closed", SessionClosed())
    done = await delivery.send(["slow", "closed", "gone"], FRAME)
    assert [(failure.session, failure.error) for failure in done.failures] == [
        ("slow", "context deadline exceeded"),
        ("closed", "kuiperbelt: session is closed"),
        ("gone", "kuiperbelt: session is not found"),
    ]


async def test_a_blocked_session_does_not_hold_up_the_next() -> None:
    blocked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await session("blocked", blocked)
    free = await session("free")
    sending = asyncio.create_task(delivery.send(["blocked", "free"], FRAME))
    await asyncio.sleep(0)
    assert free.events
    blocked.set_result(None)
    assert not (await sending).failures


async def test_strict_broadcast_is_all_or_nothing() -> None:
    bob = await session("bob")
    with override_settings(KUIPERBELT=conf.Options(strict_broadcast=True)):
        done = await delivery.send(["bob", "gone"], FRAME)
        assert done.refused
        assert [failure.session for failure in done.failures] == ["gone"]
        assert not bob.events
        assert not (await delivery.send(["bob"], FRAME)).failures
    assert bob.events


async def test_close_closes_a_key_once() -> None:
    bob = await session("bob")
    assert not (await delivery.close(["bob", "bob"], None, 4000, "bye")).failures
    assert [(event["code"], event["reason"], event["tell"]) for event in bob.events] == [(4000, "bye", False)]


KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=256)


@given(KEYS, KEYS)
def test_group_names_are_valid_and_differ_where_keys_differ(one: str, other: str) -> None:
    layer = delivery.layer()
    assert layer.require_valid_group_name(delivery.group_name(one))
    assert (delivery.group_name(one) == delivery.group_name(other)) is (one == other)


async def test_what_was_begun_tells_how_it_ended_when_the_last_session_has_answered() -> None:
    loop = asyncio.get_running_loop()
    slow, cancelled, fine = (loop.create_future() for _ in range(3))
    for key, outcome in (("slow", slow), ("cancelled", cancelled), ("fine", fine)):
        await session(key, outcome)
    begun = await delivery.begin_send(["gone", "slow", "fine", "cancelled"], FRAME)
    assert isinstance(begun, delivery.Pending)
    told: list[delivery.Delivery] = []
    begun.when_done(told.append)
    slow.set_exception(SendTimeout())
    fine.set_result(None)
    await asyncio.sleep(0)
    assert not told
    cancelled.cancel()
    await asyncio.sleep(0)
    (done,) = told
    assert [(failure.session, failure.error) for failure in done.failures] == [
        ("gone", "kuiperbelt: session is not found"),
        ("slow", "context deadline exceeded"),
        ("cancelled", "kuiperbelt: session is closed"),
    ]


async def test_what_ends_at_once_is_not_pending() -> None:
    await session("bob")
    assert await delivery.begin_send(["bob"], FRAME) == delivery.Delivery()
    assert await delivery.begin_close(["bob"], None, 1000, "", tell=False) == delivery.Delivery()
