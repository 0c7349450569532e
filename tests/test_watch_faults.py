"""What a watch must not do to a session, whoever watches: slow ones, dead ones, hostile ones; and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection

from proxy import envelope
from proxy.events import watch_event
from proxy.taps import REPORTS
from proxy.watching import MAX_WATCHERS
from tests.clients import client, ending, receive, request, send
from tests.servers import ALONE, Server, Servers
from tests.test_watch_stream import CONTENTS, WITH_CONTENTS
from tests.vectors_api import OK
from tests.watchers import Watch, bare

pytestmark = pytest.mark.usefixtures("clean_logs")

MANY = 3000
PROCESS = "0" * 32
"""A watcher's that isn't there."""


@pytest.mark.parametrize("kind", ["uvicorn", "daphne", "cluster"])
async def test_a_burst_while_a_watcher_sleeps(servers: Servers, kind: str, key: str) -> None:
    """The client has all frames in their order; the watcher those there was room for, and the number of the rest."""
    server = await servers.get(kind, CONTENTS)
    lines = [json.dumps({"session": key, "body": f"{number} {'x' * 1000}"}) for number in range(MANY)]
    async with client(server, key) as connection, Watch.open(server.api, key, WITH_CONTENTS) as watch:
        await watch.next("session")
        pushed = asyncio.create_task(request(server.api, "POST", "/batch", (), "\n".join(lines).encode(), 30))
        for number in range(MANY):
            frame = await receive(connection)
            assert str(frame).split()[0] == str(number)
        answer = await pushed
        assert answer.body.count(b'"result":"OK"') == MANY
        await asyncio.sleep(0.1)  # what was in a batch is on its way
        assert (await send(server, key, b"last")).body == OK
        while (last := await watch.next("sent"))["size"] != 4:
            pass
    sent = [report for report in watch.seen if report["what"] == "sent"]
    missed = [report["count"] for report in watch.seen if report["what"] == "missed"]
    assert missed
    assert len(sent) + sum(missed) == MANY + 1 == last["n"]
    numbers = [int(report["content"].split()[0]) for report in sent[:-1] if report["content"].split()]
    assert numbers == sorted(numbers)
    assert len(numbers) >= 64


async def test_all_connections_of_a_key(servers: Servers, key: str) -> None:
    """With duplicate_session: join, at two nodes."""
    server = await servers.get("cluster", {"EKBO_DUPLICATE_SESSION": "join"})
    assert server.peer
    async with client(server, key) as one, client(server.peer, key) as two, Watch.open(server, key) as watch:
        began = {(await watch.next("session"))["connection"] for _ in range(2)}
        assert len(began) == 2
        assert (await send(server, key, b"both")).body == OK
        assert await receive(one) == await receive(two) == "both"
        assert {(await watch.next("sent"))["connection"] for _ in range(2)} == began
        await one.close()
        assert (await watch.next("closed"))["connection"] in began
        await two.send("still there")
        assert (await watch.next("received"))["size"] == 11


async def test_a_node_that_ends_says_so(servers: Servers, key: str) -> None:
    server = await servers.start("uvicorn")
    async with client(server, key) as connection, Watch.open(server, key) as watch:
        await watch.next("session")
        began = time.monotonic()
        stopped = asyncio.create_task(server.stop())
        assert bare(await watch.next("ended")) == {"what": "ended", "reason": "this process ends"}
        with pytest.raises(asyncio.IncompleteReadError):
            await watch.next()
        assert (await ending(connection)).code == 1012
        assert await stopped == 0
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ALONE)
async def test_watchers_that_hang_up(servers: Servers, kind: str, key: str) -> None:
    """They don't count any more; as many as may be are served at once, and one more isn't."""
    server = await servers.get(kind, CONTENTS)
    for _ in range(MAX_WATCHERS + 5):
        async with Watch.open(server, key) as watch:
            await watch.next("absent")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_WATCHERS):
            await stack.enter_async_context(Watch.open(server, key))
        refused = await request(server, "GET", f"/sessions/{key}?watch")
        assert refused.status == 503
        assert "at most 20 watchers at once" in refused.json()["errors"][0]["error"]


@pytest.mark.parametrize("kind", ["instrumented", "instrumented-daphne"])
async def test_a_watcher_that_reads_nothing(servers: Servers, kind: str, tmp_path: Path, key: str) -> None:
    """Has gone, and its place is free; one that reads stays. At a UNIX socket, for which the kernel has no time-out."""
    server = await servers.start(kind, CONTENTS | {"STALLED": "1"}, sock=str(tmp_path / "proxy"))
    batch = "\n".join([json.dumps({"session": key, "body": "x" * 4000})] * 64).encode()
    async with contextlib.AsyncExitStack() as stack:
        connection = await stack.enter_async_context(client(server, key))
        reading = asyncio.create_task(read_all(connection))
        frozen, *others = [await stack.enter_async_context(Watch.open(server, key, WITH_CONTENTS)) for _ in range(2)]
        frozen.http.shrink(1024)
        others += [await stack.enter_async_context(Watch.open(server, f"{key}-")) for _ in range(MAX_WATCHERS - 2)]
        assert (await request(server, "GET", f"/sessions/{key}?watch")).status == 503
        until = time.monotonic() + 10
        while (dropped := (await request(server, "GET", "/stats?format=full")).json()["request_timeouts"]) == 0:
            assert time.monotonic() < until
            await request(server, "POST", "/batch", (), batch)
            async with asyncio.timeout(5):
                while b"sent" not in await others[0].line():
                    pass
        assert dropped == 1
        async with Watch.open(server, key) as again:
            await again.next("session")
        reading.cancel()
    assert await server.stop() == 0


async def read_all(connection: ClientConnection) -> None:
    async for _ in connection:
        pass


class Bus:
    """The Redis of a cluster, as anybody sees it who can reach it."""

    def __init__(self, server: Server, redis: Redis) -> None:
        self.redis = redis
        self.prefix = server.env["EKBO_REDIS_PREFIX"]

    async def announce(self, key: str, event: dict[str, Any]) -> None:
        """An event for the sessions of a key."""
        inbox = f"{self.prefix}__inbox__{PROCESS}".encode()
        packed = envelope.pack(envelope.ANNOUNCE, inbox=inbox, event=envelope.pack_event(event))
        assert await self.redis.publish(f"{self.prefix}__group__session.{key}", packed) == 1

    async def told(self, seconds: float) -> list[dict[str, Any]]:
        """What is reported to a watcher that isn't there, within so many seconds."""
        found: list[dict[str, Any]] = []
        listener = self.redis.pubsub()
        await listener.subscribe(f"{self.prefix}__inbox__{PROCESS}")
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            message = await listener.get_message(ignore_subscribe_messages=True, timeout=left)
            if message:
                found.append(envelope.unpack(message["data"]))
        await listener.aclose()  # type: ignore[no-untyped-call]
        return found


@pytest.fixture
async def server(servers: Servers) -> Server:
    return await servers.get("cluster", CONTENTS)


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[Bus]:
    redis = Redis.from_url(server.env["EKBO_REDIS_URL"])
    yield Bus(server, redis)
    await redis.aclose()


async def test_a_watcher_that_dies_leaves_nothing_behind(server: Server, bus: Bus, key: str) -> None:
    """It isn't told anything any more when its lease is over."""
    async with client(server, key) as connection:
        await bus.announce(key, watch_event(f"watch.{PROCESS}!1", True, 1.0))
        listening = asyncio.create_task(bus.told(0.7))
        await asyncio.sleep(0.3)
        assert (await send(server, key, b"seen")).body == OK
        message = (await listening)[-1]
        assert message["channel"] == f"watch.{PROCESS}!1"
        assert message["message"]["type"] == REPORTS
        report = message["message"]["reports"][-1]
        assert (report["what"], report["n"], report["content"]) == ("sent", 1, "seen")
        await asyncio.sleep(0.6)
        listening = asyncio.create_task(bus.told(0.5))
        assert (await send(server, key, b"unseen")).body == OK
        assert await listening == []
        assert [await receive(connection) for _ in range(2)] == ["seen", "unseen"]


async def test_a_node_that_knows_no_watches(server: Server, bus: Bus, key: str) -> None:
    """An older one drops the request. The watcher says so, and asks on, until the key is at a newer one."""
    listener = bus.redis.pubsub()
    await listener.subscribe(f"{bus.prefix}__group__session.{key}")
    async with Watch.open(server, key) as watch:
        lost = await watch.next("lost")
        assert (
            lost["reason"] == "no answer from the node that has the session: it hangs, or its version knows no watches"
        )
        await listener.aclose()  # type: ignore[no-untyped-call]
        await watch.next("absent")
        async with client(server, key):
            await watch.next("session")


async def test_watches_that_cannot_be(server: Server, bus: Bus, fresh: Callable[[str], str]) -> None:
    """They are dropped and counted; those that can be, but are too many, get no taps."""
    key = fresh("h")
    good = watch_event(f"watch.{PROCESS}!1", False, 60.0)
    bad: list[dict[str, Any]] = [
        good | {"channel": ""},
        good | {"channel": "x" * (1 << 20)},
        good | {"channel": "kuiperbelt"},
        good | {"channel": f"watch.{PROCESS}!1\r\nPUBLISH"},
        good | {"channel": None},
        good | {"contents": "yes"},
        good | {"lease": 1e9},
        good | {"lease": float("inf")},
        {"type": good["type"]},
    ]
    before = (await request(server, "GET", "/stats?format=full")).json()["bad_envelopes"]
    async with client(server, key) as connection:
        for event in bad:
            await bus.announce(key, event)
        listening = asyncio.create_task(bus.told(0.5))
        await asyncio.sleep(0.1)
        for number in range(200):
            await bus.announce(key, good | {"channel": f"watch.{PROCESS}!{number:x}"})
        assert (await send(server, key, b"here")).body == OK
        assert await receive(connection) == "here"
        batches = [message["message"]["reports"] for message in await listening]
        whats = [[report["what"] for report in batch] for batch in batches]
        assert whats.count(["busy"]) == 195
        assert sum("sent" in batch for batch in whats) == 5
        for number in range(200):
            await bus.announce(key, good | {"channel": f"watch.{PROCESS}!{number:x}", "lease": 0.0})
    after = (await request(server, "GET", "/stats?format=full")).json()["bad_envelopes"]
    assert after - before == len(bad)
