"""Events for sessions in other processes, over a real Redis: answered truthfully, by whoever has the session."""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from proxy import envelope
from proxy.cluster import ClusterLayer
from proxy.events import Event, send_event
from proxy.exceptions import (
    ClusterLost,
    ClusterUnreachable,
    DeliveryError,
    NoAnswer,
    SendTimeout,
    SessionClosed,
    SessionNotFound,
)
from proxy.outcomes import Outcome
from proxy.protocol import Frame
from proxy.stats import stats
from tests.at_once import at_once
from tests.layers import layers, make_layer
from tests.network import Wire
from tests.redis_servers import RedisServer, eventually

EVENT = send_event(Frame("hello", 5), 0.0)
BINARY = send_event(Frame(bytes(range(256)), 256), 1.5)
GROUP = "session.bob"


class Session:
    """A receiver that answers as it is told."""

    def __init__(self, answer: Outcome | Exception = None) -> None:
        self.answer = answer
        self.events: list[Event] = []
        self.channel = ""

    def on_event(self, event: Event) -> Outcome:
        self.events.append(event)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def session(layer: ClusterLayer, answer: Outcome | Exception = None, group: str = GROUP) -> Session:
    made = Session(answer)
    made.channel = await layer.new_channel()
    layer.attach(made.channel, made.on_event)
    await layer.group_add(group, made.channel)
    return made


async def request(layer: ClusterLayer, event: Event = EVENT, group: str = GROUP) -> None:
    outcome = layer.request(group, event)
    if outcome:
        async with asyncio.timeout(10):
            await outcome


@pytest.fixture
async def trio(redis: RedisServer) -> AsyncIterator[list[ClusterLayer]]:
    async with layers(3, redis) as made:
        yield made


async def test_from_any_process_to_any(trio: list[ClusterLayer]) -> None:
    bob = await session(trio[0])
    for layer in trio:
        await request(layer)
        await request(layer, BINARY)
    assert bob.events == [EVENT, BINARY] * 3
    trio[0].detach(bob.channel)
    for layer in trio:
        with pytest.raises(SessionNotFound):
            await request(layer)


async def test_members_of_this_process_are_called_directly(trio: list[ClusterLayer], redis: RedisServer) -> None:
    await session(trio[0])

    async def published() -> int:
        stats = await redis.execute("INFO", "commandstats")
        calls: int = stats.get("cmdstat_publish", {}).get("calls", 0)
        return calls

    async def by_one_request() -> int:
        before = await published()
        assert trio[0].request(GROUP, EVENT) is None
        await asyncio.sleep(0.05)
        return await published() - before

    # Other servers of the tests that are on this Redis publish now and then.
    assert 0 in [await by_one_request() for _ in range(5)]


@at_once(error=[SessionClosed, SessionNotFound, SendTimeout])
async def test_errors_come_from_the_process_that_has_the_session(
    trio: list[ClusterLayer], error: type[DeliveryError]
) -> None:
    soon, later = f"session.{error.__name__}", f"session.late{error.__name__}"
    await session(trio[0], error(), soon)
    with pytest.raises(error):
        await request(trio[1], group=soon)
    late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await session(trio[0], late, later)
    asyncio.get_running_loop().call_later(1.5, late.set_exception, error())  # longer than an answer may take
    with pytest.raises(error):
        await request(trio[1], group=later)


async def test_a_session_that_takes_its_time(trio: list[ClusterLayer]) -> None:
    late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await session(trio[0], late)
    asyncio.get_running_loop().call_later(1.5, late.set_result, None)
    await request(trio[1])


async def test_a_process_that_does_not_answer(redis: RedisServer) -> None:
    async with layers(1, redis, timeout=0.2) as (layer,):
        before = stats.no_answers
        listening = asyncio.create_task(listen(redis, "test__group__session.bob"))
        await asyncio.sleep(0.3)
        with pytest.raises(NoAnswer):
            await request(layer)
        assert stats.no_answers == before + 1
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def listen(redis: RedisServer, channel: str) -> None:
    """Somebody who subscribes and never says a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", redis.port)
    try:
        writer.write(f"SUBSCRIBE {channel}\r\n".encode())
        while await reader.read(1000):
            continue
    finally:
        writer.close()


async def test_order_is_kept(trio: list[ClusterLayer]) -> None:
    bob = await session(trio[2])
    for number in range(300):
        await request(trio[number % 3], send_event(Frame(str(number), 1), 0.0))
    assert [event["message"]["text"] for event in bob.events] == [str(number) for number in range(300)]


async def test_many_at_once_go_where_they_belong(trio: list[ClusterLayer]) -> None:
    sessions = {f"session.{number}": await session(trio[number % 3], group=f"session.{number}") for number in range(60)}
    await asyncio.gather(
        *[request(layer, send_event(Frame(name, 1), 0.0), name) for name in sessions for layer in trio]
    )
    for name, made in sessions.items():
        assert [event["message"]["text"] for event in made.events] == [name] * 3


async def test_a_cancelled_request_disturbs_nobody(trio: list[ClusterLayer]) -> None:
    """Its answer comes later, to nobody, and not to the next request."""
    names = [f"session.{number}" for number in range(40)]
    for name in names[::2]:
        await session(trio[0], group=name)
    tasks = [asyncio.create_task(request(trio[1], group=name)) for name in names * 5]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for position, result in enumerate(results):
        if position % 3:
            assert isinstance(result, SessionNotFound) is (position % len(names) % 2 == 1)


async def test_a_joined_key_has_sessions_in_several_processes(redis: RedisServer) -> None:
    async with layers(3, redis, join=True) as (one, two, three):
        bob, bill = await session(one), await session(two)
        for layer in (one, two, three):
            await request(layer)
        assert bob.events == bill.events == [EVENT] * 3
        bob.answer = SessionClosed()
        for layer in (one, two, three):
            await request(layer)
        bill.answer = SessionNotFound()
        for layer in (one, two, three):
            with pytest.raises(SessionClosed):
                await request(layer)


async def test_order_is_kept_at_every_connection_of_a_joined_key(redis: RedisServer) -> None:
    async with layers(3, redis, join=True) as processes:
        members = [await session(layer) for layer in processes]
        for number in range(60):
            await request(processes[number % 3], send_event(Frame(str(number), 1), 0.0))
        for member in members:
            assert [event["message"]["text"] for event in member.events] == [str(number) for number in range(60)]


async def test_a_joined_key_works_here_without_redis() -> None:
    async with RedisServer.running() as redis, layers(1, redis, join=True) as (layer,):
        bob = await session(layer)
        await redis.kill()
        await asyncio.sleep(0.2)
        await request(layer)
        assert len(bob.events) == 1


async def test_for_all_is_heard_by_all_in_one_order(trio: list[ClusterLayer]) -> None:
    sessions = [await session(layer) for layer in trio]
    sessions[1].answer = SessionClosed()
    events = [send_event(Frame(str(number), 1), 0.0) for number in range(30)]
    errors = await asyncio.gather(*[trio[at % 3].request_all(GROUP, event) for at, event in enumerate(events)])
    assert [[type(error) for error in found] for found in errors] == [[SessionClosed]] * 30
    assert sessions[0].events == sessions[1].events == sessions[2].events
    assert len(sessions[0].events) == 30


async def test_enter_tells_whether_anybody_else_is_there(trio: list[ClusterLayer]) -> None:
    told: list[bool] = []
    for layer in (*trio, trio[0]):
        channel = await layer.new_channel()
        layer.attach(channel, lambda event: None)
        await layer.enter(GROUP, channel, told.append)
    assert told == [True, False, False, False]


async def test_missing(trio: list[ClusterLayer]) -> None:
    await session(trio[0], group="session.0")
    await session(trio[1], group="session.1")
    asked = [f"session.{number}" for number in range(1200)]
    for layer in trio:
        assert await layer.missing(asked) == set(asked[2:])


async def test_what_cannot_be_known_is_not_guessed(private: RedisServer) -> None:
    async with layers(2, private) as (one, two):
        here = await session(two)
        await private.kill()
        await asyncio.sleep(0.2)
        with pytest.raises(ClusterUnreachable):
            await request(one)
        with pytest.raises(ClusterUnreachable):
            await one.missing([GROUP])
        await request(two)
        assert here.events == [EVENT]
        await private.start()
        await asyncio.sleep(2)
        await request(one)
        assert here.events == [EVENT, EVENT]


async def test_a_redis_that_hangs(private: RedisServer) -> None:
    """Nobody waits for long, and what was in its hands isn't delivered when it goes on."""
    async with layers(2, private) as (one, two):
        bob = await session(two)
        await request(one)
        private.pause()
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(ClusterLost):
            await request(one)
        assert loop.time() - began < 2
        await asyncio.sleep(0.5)
        private.resume()
        await asyncio.sleep(1.5)
        assert len(bob.events) == 1
        await request(one)
        assert len(bob.events) == 2


async def test_a_process_whose_clock_jumps_is_heard_again_at_once(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its virtual machine was paused: to the others all that it sends seems to be late."""
    async with layers(1, redis) as (one,), layers(1, redis) as (two,):
        bob = await session(two)
        await request(one)
        monkeypatch.setattr("proxy.cluster.monotonic", lambda: time.monotonic() - 30)
        with pytest.raises(ClusterUnreachable):  # dropped, and said so
            await request(one)
        for _ in range(3):
            await request(one)
        assert len(bob.events) == 4


async def test_events_that_no_session_could_use_are_dropped(trio: list[ClusterLayer], redis: RedisServer) -> None:
    bob = await session(trio[0])
    before = stats.bad_envelopes
    bad = envelope.pack_event({"type": "session.send", "message": "x"})
    for kind, fields in ((envelope.REQUEST, {"id": 1, "clock": 0, "at": 0.0}), (envelope.ANNOUNCE, {})):
        payload = envelope.pack(kind, inbox=b"test__inbox__nobody", event=bad, **fields)
        await redis.execute("PUBLISH", f"test__group__{GROUP}", payload)
    await asyncio.sleep(0.1)
    assert stats.bad_envelopes == before + 2
    assert not bob.events


async def test_whatever_is_in_an_envelope_it_is_used_or_dropped(
    trio: list[ClusterLayer], caplog: pytest.LogCaptureFixture
) -> None:
    """Fields of the right types, and in them what no process of ours would say."""
    one, other, _ = trio
    bob = await session(one)
    rng = random.Random(1)
    texts = ["session.send", "session.close", "session.claim", "session.shared", "", "\0", "é" * 1000, "stale", "ok"]
    numbers = [0, 1, -1, 1000, (1 << 64) - 1, -(1 << 63)]
    reals = [0.0, -1.0, 1e308, -1e308, math.nan, math.inf, -math.inf]
    inboxes = [one._inbox, other._inbox, b"test__inbox__x", b"test__inbox__\xff", b""]
    frames = [{"type": "websocket.send", "text": "x"}, {"type": "websocket.send", "bytes": "x"}, {"type": []}]
    names = ("message", "size", "timeout", "last", "code", "reason", "connection", "since", "fresh")

    def event() -> Event:
        anything = [None, True, [[]], *texts, *numbers, *reals, *frames, *frames]
        return {"type": rng.choice(texts[:4])} | {name: rng.choice(anything) for name in names}

    by_type: dict[type, Callable[[], Any]] = {
        bytes: lambda: rng.choice([*inboxes, envelope.pack_event(event())]),
        int: lambda: rng.choice([True, *numbers]),
        float: lambda: rng.choice(reals),
        str: lambda: rng.choice([*texts, "specific.x!1", f"specific.{one._process}!1"]),
        bool: lambda: rng.choice([True, False]),
        dict: event,
        list: lambda: [[rng.choice(numbers), rng.choice(texts)], rng.choice(texts), [1]],
    }
    for _ in range(3000):
        kind = rng.choice(list(envelope._FIELDS))
        fields = {name: by_type[expected]() for name, expected in envelope._FIELDS[kind].items()}
        channel = rng.choice([f"test__group__{GROUP}".encode(), one._inbox, one._common])
        one._on_message(one._shards[0], channel, envelope.pack(kind, **fields))
    bob.events.clear()
    with pytest.raises(ClusterUnreachable):
        await request(other)  # forged times of its clock were better than its own, so it begins another
    await request(other)
    assert bob.events == [EVENT]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_nobody_is_answered_outside_of_the_cluster(trio: list[ClusterLayer], redis: RedisServer) -> None:
    """Whoever can publish could else have us publish anywhere, and an ACL that forbids it would end our connection."""
    bob = await session(trio[0])
    before = stats.bad_envelopes
    listening = asyncio.create_task(listen(redis, "elsewhere"))
    fields = {"id": 1, "clock": 0, "at": 0.0, "event": envelope.pack_event(EVENT)}
    payload = envelope.pack(envelope.REQUEST, inbox=b"elsewhere", **fields)
    await redis.execute("PUBLISH", f"test__group__{GROUP}", payload)
    await request(trio[1])
    assert bob.events == [EVENT]
    assert stats.bad_envelopes == before + 1
    assert not listening.done()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_a_key_that_left_while_it_was_looked_for_after_a_gap_can_come_again() -> None:
    """Before the process knew whether others have the key, its session ended; the next one is reached all the same."""
    async with (
        RedisServer.running() as private,
        Wire.running(private.port, latency=0.1) as wire,
        layers(1, private, urls=[f"redis://127.0.0.1:{wire.port}"]) as (one,),
        layers(1, private) as (other,),
    ):
        bob = await session(one)
        wire.cut()

        async def looked_for() -> bool:
            return GROUP in one._returning

        await eventually(looked_for, "the process to look for others")
        one.detach(bob.channel)

        async def back() -> bool:
            return not one.problems()

        await eventually(back, "the connection")
        again = await session(one)
        await request(other)
        assert again.events == [EVENT]


async def test_no_more_is_under_way_than_redis_and_the_others_can_take(private: RedisServer) -> None:
    """1 MiB to each of 100 sessions: Redis cuts off a process for which 32 MB wait."""
    async with layers(2, private) as (one, two):
        names = [f"session.{number}" for number in range(100)]
        for name in names:
            await session(two, group=name)
        losses = stats.link_losses
        event = send_event(Frame("x" * (1 << 20), 1 << 20), 0.0)
        outcomes = []
        for name in names:
            if one.must_wait(name, 1 << 20):
                await asyncio.wait_for(one.room(1 << 20), 5)
            outcomes.append(one.request(name, event))
        for outcome in outcomes:
            assert outcome
            await asyncio.wait_for(outcome, 5)
        assert stats.link_losses == losses


async def test_nobody_waits_for_long_when_nothing_moves(private: RedisServer) -> None:
    async with layers(1, private) as (layer,):
        here = await session(layer)
        private.pause()
        event = send_event(Frame("x" * (1 << 20), 1 << 20), 0.0)
        outcomes = [layer.request("session.eve", event) for _ in range(5)]
        assert layer.must_wait("session.eve", 1)
        assert not layer.must_wait(GROUP, 1)  # a session of this process needs no Redis
        await request(layer)
        assert here.events == [EVENT]
        began = asyncio.get_running_loop().time()
        with pytest.raises(ClusterUnreachable):
            await layer.room(1)
        assert asyncio.get_running_loop().time() - began < 2
        for outcome in outcomes:
            assert outcome
            with pytest.raises(ClusterLost):
                await outcome


async def test_who_comes_while_the_others_are_not_back_waits_with_not_found(private: RedisServer) -> None:
    """Redis restarts: the first to be back, which has never heard of the others, doesn't speak for them."""
    async with layers(1, private) as (two,):
        bob = await session(two)
        two._shards[0]._lose("test")
        async with layers(1, private) as (one,):
            await request(one)
        assert bob.events == [EVENT]


async def test_started_once_it_has_tried() -> None:
    layer = make_layer("redis://127.0.0.1:9")
    assert not layer.started
    await layer.start()
    assert layer.started
    await layer.flush()
