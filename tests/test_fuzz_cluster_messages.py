"""Whatever somebody publishes on the cluster's Redis, hostile or of a newer version: the nodes live and serve on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from proxy import envelope
from proxy.envelope import BadEnvelope
from proxy.events import claim_event, watch_event
from tests.clients import TEXT, RawWebSocket, close, request, send
from tests.fuzzing import World, examples
from tests.redis_servers import RedisServer
from tests.servers import Server
from tests.vectors_api import OK

NODES = 2
GROWTH = 32 << 20  # bytes that a node may have more in the end
PAGE = 4096  # bytes


class Nodes(World):
    """Two nodes, of which the first has the fuzzed channels, and what they said to each other."""

    async def start(self) -> None:
        await super().start()
        self._stack = contextlib.AsyncExitStack()
        redis = await self._stack.enter_async_context(RedisServer.running())
        self.servers.redis_url = redis.url
        self.redis = Redis(port=redis.port)
        self._stack.push_async_callback(self.redis.aclose)
        env = self.servers.cluster_env()
        self.prefix = env["EKBO_REDIS_PREFIX"]
        self.numbers = itertools.count()
        self.recorded: list[dict[str, Any]] = []
        listener = self.redis.pubsub()
        await listener.psubscribe(f"{self.prefix}*")
        recording = asyncio.create_task(self._record(listener))
        self.node = await self.servers.start("uvicorn", env)
        self.inbox = await self._inbox()
        self.peer = await self.servers.start("uvicorn", env)
        await self._talk()
        recording.cancel()
        await asyncio.gather(recording, return_exceptions=True)
        await listener.aclose()  # type: ignore[no-untyped-call]
        # What isn't said without a fault, or by others than Channels.
        watch = watch_event(f"watch.{self.inbox[-32:].decode()}!7", contents=True, lease=1.0)
        for event in map(envelope.pack_event, (claim_event("x", 1.0, fresh=False), watch)):
            self.recorded.append(
                {"v": envelope.VERSION, "kind": envelope.ANNOUNCE, "inbox": self.inbox, "event": event}
            )
        named = {"channel": f"specific.{self.inbox[-32:].decode()}!7", "message": {"type": "x"}}
        self.recorded.append({"v": envelope.VERSION, "kind": envelope.CHANNEL, **named})
        self.recorded.append({"v": envelope.VERSION, "kind": envelope.GROUP, "inbox": b"", "message": {"type": "x"}})
        assert {found["kind"] for found in self.recorded} == set(envelope._FIELDS)
        self.recorded.sort(key=lambda found: str(found["kind"]))

    async def _record(self, listener: Any) -> None:
        async for message in listener.listen():
            if message["type"] == "pmessage":
                self.recorded.append(envelope.unpack(message["data"]))

    async def _inbox(self) -> bytes:
        (inbox,) = await self.redis.pubsub_channels(f"{self.prefix}__inbox__*")
        return cast(bytes, inbox)

    async def _talk(self) -> None:
        """All kinds of messages: sends, closes, claims, answers."""
        for here, there in ((self.node, self.peer), (self.peer, self.node)):
            async with RawWebSocket.connected(here, "a"), RawWebSocket.connected(there, "a") as newest:
                assert (await send(here, "a")).body == OK
                assert (await newest.frame())[1] == b"hello"
                assert (await close(here, "a", b"bye")).body == OK
        await asyncio.sleep(0.2)

    async def end(self) -> None:
        await self.servers.stop()
        await self._stack.aclose()
        await super().end()

    async def stats(self) -> dict[str, int]:
        found: dict[str, int] = (await request(self.node, "GET", "/stats?format=full")).json()
        return found

    def memory(self) -> int:
        """Bytes of the node."""
        return int(Path(f"/proc/{self.node.process.pid}/statm").read_text().split()[1]) * PAGE

    async def publish(self, key: str, where: str, payload: bytes) -> bool:
        """To one of the channels that the node listens to; False: it has left that one."""
        channels = {
            "inbox": self.inbox,
            "common": f"{self.prefix}__processes".encode(),
            "group": await self.group(key),
        }
        return bool(channels[where] and await self.redis.publish(channels[where], payload))

    async def group(self, key: str) -> bytes:
        """The channel of a session's group; empty when it is gone."""
        found = cast(list[bytes], await self.redis.pubsub_channels(f"{self.prefix}__group__*"))
        return next((name for name in found if name.endswith(key.encode()) or len(found) == 1), b"")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Nodes.running(tmp_path_factory.mktemp("nodes")) as world:
        yield world


deep = st.builds(
    lambda opening, depth, end: opening * depth + end,
    st.sampled_from([b"\x91", b"\x81\xa1a", b"\x92\x00", b"\xdc\x00\x01"]),
    st.sampled_from([10, 300, 500, 1000, 1021, 1023, 1500]),
    st.sampled_from([b"\x90", b"\xc0", b""]),
)
scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 2**63, 0, 1, 2]),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from(["session.send", "session.close", "session.claim", "session.shared", "websocket.send", "later"]),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=12)),
    st.just(b"x" * 100_000),
)
value = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = sorted({field for fields in envelope._FIELDS.values() for field in fields})
EVENT_FIELDS = ["type", "message", "size", "timeout", "last", "code", "reason", "connection", "since", "fresh"]
kinds = st.sampled_from(list(envelope._FIELDS))
places = st.sampled_from(["inbox", "inbox", "common", "group", "group"])


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """How a real message is changed: a function of the recorded ones and of the node's inbox."""
    number, what = (
        draw(st.integers(0, 10_000)),
        draw(st.sampled_from(["field", "event", "version", "bytes", "raw", "as is"])),
    )
    new, foreign = draw(value), draw(st.sampled_from(["", "f" * 32, "x" * 5000, "\n"]))
    seed, nested = draw(st.integers(0, 2**32)), draw(deep)
    name = draw(st.sampled_from(EVENT_FIELDS))

    def make(recorded: Sequence[dict[str, Any]], inbox: bytes) -> bytes:
        found = dict(recorded[number % len(recorded)])
        chance = random.Random(seed)
        if foreign and "inbox" in found:
            found["inbox"] = inbox[:-32] + foreign.encode()
        field = chance.choice(sorted(found))
        if what == "field":
            found[field] = new
        elif what == "version":
            found |= {"v": new, "extra": new}
        elif what == "event" and "event" in found:
            event = envelope.unpack_event(found["event"]) | {name: new}
            with contextlib.suppress(ValueError):
                found["event"] = msgpack.packb(event)
        packed = bytearray(msgpack.packb(found))
        if what == "raw":  # a field's value is nested deeply
            return bytes([packed[0]]) + b"".join(
                msgpack.packb(key) + (nested if key == field else msgpack.packb(item)) for key, item in found.items()
            )
        if what == "bytes":
            for _ in range(chance.randint(1, 4)):
                packed[chance.randrange(len(packed))] = chance.randrange(256)
            del packed[chance.choice([len(packed), chance.randrange(len(packed))]) :]
        return bytes(packed)

    return make


payload = st.one_of(
    mutated(),
    mutated(),
    mutated(),
    st.one_of(
        st.binary(max_size=60),
        deep,
        value.map(msgpack.packb),
        st.builds(
            lambda kind, fields: msgpack.packb({"v": 1, "kind": kind} | fields),
            kinds,
            st.dictionaries(st.sampled_from(FIELDS), value),
        ),
    ).map(lambda payload: lambda recorded, inbox: payload),
)


@examples(60)
@given(st.lists(st.tuples(places, payload), min_size=1, max_size=12))
def test_a_node_lives_on(world: Nodes, messages: list[tuple[str, Any]]) -> None:
    """It serves its sessions, counts what it can't read, and says so without a traceback."""
    made = [(where, make(world.recorded, world.inbox)) for where, make in messages]
    world.do(attack(world, made))


async def attack(world: Nodes, messages: Sequence[tuple[str, bytes]]) -> None:
    key = f"k{next(world.numbers)}"
    async with RawWebSocket.connected(world.node, key) as client:
        before = await world.stats()
        bad = 0
        for where, payload in messages:
            # The session is gone when one of them has closed it.
            if await world.publish(key, where, payload):
                bad += not is_good(payload)
        # The answer comes over the same connection to Redis, and so after all those messages.
        nobody = await send(world.node, f"{key}nobody")
        assert nobody.status in (200, 503), nobody
        after = await world.stats()
        assert after["bad_envelopes"] - before["bad_envelopes"] >= bad
        await still_there(world.node, key, client)
    assert world.node.process.returncode is None


async def still_there(node: Server, key: str, client: RawWebSocket) -> None:
    """What is sent to the session arrives, unless the session was told to end."""
    answer = await send(node, key, b"still there")
    if answer.body == OK:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await client.frame() != (TEXT, b"still there"):
                continue
        return
    assert "errors" in answer.json(), answer


def is_good(payload: bytes) -> bool:
    """Can it be read at all?"""
    try:
        envelope.unpack(payload)
    except BadEnvelope:
        return False
    return True


def test_processes_that_do_not_exist_take_no_room(world: Nodes) -> None:
    """Whoever invents them, with long names."""
    world.do(invent(world))


async def invent(world: Nodes) -> None:
    before = world.memory()
    pipeline = world.redis.pipeline(transaction=False)
    fields = {"number": 1, "clock": 0, "at": 1.0, "left": False}
    for number in range(4000):
        inbox = world.inbox[:-32] + b"%032x" % number
        for name in (inbox, inbox + b"x" * 10_000):
            payload = envelope.pack(envelope.PRESENT, inbox=name, **fields)
            pipeline.publish(f"{world.prefix}__processes", payload)
        if number % 200 == 199:
            await pipeline.execute()
    # Its answer comes after all that.
    assert (await send(world.node, "nobody")).status in (200, 503)
    grown = world.memory() - before
    assert grown < GROWTH, f"{grown >> 20} MiB more"
