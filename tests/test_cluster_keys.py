"""A key that connects at several nodes at once: who has it in the end, under each duplicate_session."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from tests.backend import Backend
from tests.clients import RawWebSocket, client, close, ending, receive, send
from tests.cluster import Cluster, Node
from tests.recording import Listener, Recorder
from tests.redis_servers import RedisServer, eventually
from tests.servers import Servers
from tests.vectors_api import OK, not_found

pytestmark = pytest.mark.usefixtures("clean_logs")

KINDS = ("uvicorn", "workers", "daphne")
COMING = 24  # connections that come at once
ROUNDS = 3


@contextlib.asynccontextmanager
async def nodes(servers: Servers, redis: RedisServer, policy: str) -> AsyncIterator[list[Node]]:
    """Three nodes, of several kinds and processes."""
    env: Mapping[str, str] = {"EKBO_DUPLICATE_SESSION": policy}
    async with Cluster.running(servers, KINDS, redis, env=env) as cluster:
        yield cluster.nodes


async def come(recorder: Recorder, nodes: list[Node], key: str) -> list[Listener]:
    """Many connect as `key` at once, everywhere; those who got in."""
    coming = [recorder.connect(nodes[number % len(nodes)], key) for number in range(COMING)]
    return [listener for listener in await asyncio.gather(*coming) if listener]


async def left(listeners: list[Listener], count: int) -> list[Listener]:
    """Wait until so many are still connected, and return them."""

    async def has() -> bool:
        return sum(listener.open for listener in listeners) == count

    await eventually(has, f"{count} of {len(listeners)} connections to stay", 5)
    return [listener for listener in listeners if listener.open]


async def reached(recorder: Recorder, nodes: list[Node], key: str, listeners: list[Listener]) -> None:
    """Each of them gets what is sent at any node; that nobody else does is for the checker to see."""
    sender = recorder.sender(f"to-{key}")
    for node in nodes:
        for _ in range(4):
            sent = await sender.send(node, key)
            assert sent.outcomes == {key: "OK"}
            async with asyncio.timeout(5):
                for listener in listeners:
                    await listener.wait_for(sent.payload)
        sender.end()


async def ends_are_told(backend: Backend, key: str) -> None:
    """Each connection that the backend has let in has one close event."""
    connected = [request.one("X-Kuiperbelt-Connection") for request in backend.seen("/connect", key)]
    await backend.wait("/close", key, len(connected))
    ended = [request.one("X-Kuiperbelt-Connection") for request in backend.seen("/close", key)]
    assert sorted(map(str, connected)) == sorted(map(str, ended))


async def test_the_newest_has_it(
    servers: Servers, backend: Backend, redis: RedisServer, fresh: Callable[[str], str]
) -> None:
    """replace: one stays, all others are told."""
    async with nodes(servers, redis, "replace") as three:
        for _ in range(ROUNDS):
            key, recorder = fresh("n"), Recorder()
            listeners = await come(recorder, three, key)
            assert len(listeners) == COMING
            (owner,) = await left(listeners, 1)
            assert {one.connection.end for one in listeners if one is not owner} == {"4001"}
            await reached(recorder, three, key, [owner])
            await recorder.end()
            await ends_are_told(backend, key)
            assert not recorder.history.problems()


async def test_the_first_has_it(
    servers: Servers, backend: Backend, redis: RedisServer, fresh: Callable[[str], str]
) -> None:
    """reject: of those that come at once one gets in at most, and nobody while somebody is in."""
    async with nodes(servers, redis, "reject") as three:
        for _ in range(ROUNDS):
            key, recorder = fresh("f"), Recorder()
            listeners = await come(recorder, three, key)
            assert len(listeners) <= 1
            owner = listeners[0] if listeners else await recorder.connect(three[0], key)
            assert owner
            assert await come(recorder, three, key) == []
            assert {one.status for one in recorder.history.connections} <= {101, 409, 403}
            await reached(recorder, three, key, [owner])
            await owner.leave()
            await ends_are_told(backend, key)
            again = await recorder.connect(three[1], key)
            assert again, "the key is free again"
            await reached(recorder, three, key, [again])
            await recorder.end()
            assert not recorder.history.problems()


async def test_the_refusal(servers: Servers, backend: Backend, redis: RedisServer, fresh: Callable[[str], str]) -> None:
    """reject: 409, in words, and since the backend said yes, its close event."""
    async with nodes(servers, redis, "reject") as (first, second, _):
        key = fresh("t")
        async with client(second.server, key):
            for node in (first, second):
                async with RawWebSocket.open(node.server) as raw:
                    response = await raw.handshake(f"/connect?key={key}")
                assert response.status == 409
                assert (response.one("Content-Type") or "").startswith("text/plain")
                assert response.body.strip()
            events = await backend.wait("/close", key, 2)
            assert {event.one("X-Kuiperbelt-Close-Reason") for event in events} == {"handshake"}


async def test_all_have_it(servers: Servers, backend: Backend, redis: RedisServer, fresh: Callable[[str], str]) -> None:
    """join: all get in and receive, and /close ends them all."""
    async with nodes(servers, redis, "join") as three:
        key, recorder = fresh("j"), Recorder()
        recorder.history.join = True
        listeners = await come(recorder, three, key)
        assert len(await left(listeners, COMING)) == COMING
        await reached(recorder, three, key, listeners)
        await listeners.pop().leave()
        assert len(await left(listeners, COMING - 1)) == COMING - 1
        await reached(recorder, three, key, listeners)
        assert (await close(three[2].server, key)).body == OK
        await left(listeners, 0)
        assert {one.connection.end for one in listeners} == {"1000"}
        for node in three:
            assert (await send(node.server, key)).body == not_found(key)
        await recorder.end()
        assert not recorder.history.problems()


async def test_reached_as_soon_as_it_is_in(servers: Servers, redis: RedisServer, fresh: Callable[[str], str]) -> None:
    """A /send at another node right after the 101 arrives, also while many connect; and right after a replacement."""
    async with nodes(servers, redis, "replace") as three:

        async def one(number: int) -> None:
            here, there = three[number % 3], three[(number + 1) % 3]
            key = fresh("s")
            async with client(here.server, key) as old:
                assert (await send(there.server, key, b"first")).body == OK
                assert await receive(old) == "first"
                async with client(there.server, key) as new:
                    for node in three:
                        assert (await send(node.server, key, b"second")).body == OK
                        assert await receive(new) == "second"
                    end = await ending(old)
                    assert (end.code, end.frames) == (4001, [])

        for start in range(0, 60, 20):
            await asyncio.gather(*(one(start + number) for number in range(20)))


async def test_order_at_all_of_them(servers: Servers, redis: RedisServer, fresh: Callable[[str], str]) -> None:
    """join: what was answered first comes first everywhere, though it was sent at a node far from the others."""
    env = {"EKBO_DUPLICATE_SESSION": "join"}
    async with Cluster.running(servers, ("uvicorn", "uvicorn"), redis, env=env) as cluster:
        near, far = cluster.nodes
        key = fresh("o")
        async with client(near.server, key) as one, client(far.server, key) as two:
            far.wire.latency = 0.05
            for number in range(10):
                node = (near, far)[number % 2]
                assert (await send(node.server, key, b"%d" % number)).body == OK
            for connection in (one, two):
                assert [await receive(connection) for _ in range(10)] == [str(number) for number in range(10)]
