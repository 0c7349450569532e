"""A release beside its predecessors: their databases are taken over, and their processes' messages are understood.

What they left and said is recorded in tests/recorded, by record_release.py, and doesn't change with the code.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import msgpack
import pytest
from django.db.migrations import AddField, AddIndex, CreateModel
from django.db.migrations.loader import MigrationLoader
from redis.asyncio import Redis

from tests.at_once import at_once
from tests.backend import Backend
from tests.clients import client, close, ending, receive, send
from tests.operators import manage
from tests.postgres import PostgresServer, programs
from tests.record_release import FOLDER, GIVEN_UP, LIVE, PENDING, PREFIX, REVOKED, SECRET_KEY, TOKEN
from tests.redis_servers import RedisServer
from tests.servers import Server, Servers
from tests.vectors_api import OK

pytestmark = pytest.mark.usefixtures("clean_logs")

RELEASES = sorted({int(file.name.partition(".")[0]) for file in FOLDER.glob("*.cluster.jsonl")})
FIRST_RELEASE = "0002_token"
"""The migration that it had last."""


# Databases


def dump(release: int, kind: str, key: str) -> str:
    """What a release left, as SQL, with session keys that no other test has."""
    return (FOLDER / f"{release}.{kind}.sql").read_text().replace("'recorded-", f"'recorded-{key}-")


@contextlib.asynccontextmanager
async def database(kind: str, release: int, directory: Path, key: str) -> AsyncIterator[str]:
    """The URL of one with what a release left."""
    if kind == "sqlite":
        file = directory / f"{release}.sqlite3"
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.executescript(dump(release, kind, key))
        yield f"sqlite:///{file}"
        return
    async with PostgresServer.running() as server:
        line = [str(programs() / "psql"), "--quiet", "-v", "ON_ERROR_STOP=1", server.url]
        run = functools.partial(subprocess.run, text=True, check=True, capture_output=True)
        await asyncio.to_thread(run, line, input=dump(release, kind, key))
        yield server.url


@at_once(release=RELEASES, kind=["sqlite", "postgresql"])
async def test_a_database_is_taken_over(
    release: int, kind: str, servers: Servers, backend: Backend, tmp_path: Path, key: str
) -> None:
    """Sessions that the old process left are told of, once, under their ids; tokens count, or stay revoked."""
    async with database(kind, release, tmp_path, key) as url:
        await taken_over(url, release, servers, backend, key)


async def taken_over(url: str, release: int, servers: Servers, backend: Backend, key: str) -> None:
    env = {"EKBO_DATABASE_URL": url, "EKBO_SECRET_KEY": SECRET_KEY}
    command_env = env | {"EKBO_CONNECT_CALLBACK_URL": f"http://127.0.0.1:{backend.port}/connect"}
    done = await manage("migrate", env=command_env)
    assert done.status == 0, done.errors
    server = await servers.start("uvicorn", env | {"EKBO_NODE_TIMEOUT": "2s"})
    live, pending, given_up, new = (f"recorded-{key}-{name}" for name in ("live", "pending", "given-up", "new"))

    async def told(session: str, connection: str, reason: str) -> None:
        (event,) = await backend.wait("/close", session, timeout=20)
        assert event.one("x-kuiperbelt-close-reason") == reason
        assert event.one("x-kuiperbelt-event-id") == str(uuid5(UUID(connection), "close"))

    await told(live, LIVE, "node_lost")
    await told(pending, PENDING, "lost")
    tokens = json.loads((FOLDER / f"{release}.tokens.json").read_text())
    async with client(server, new) as connected:
        assert (await send(server, new, b"hello", ("Authorization", f"Bearer {tokens[TOKEN]}"))).body == OK
        assert await receive(connected) == "hello"
        refused = await send(server, new, b"hello", ("Authorization", f"Bearer {tokens[REVOKED]}"))
        assert (refused.status, b"revoked" in refused.body) == (401, True)
    await backend.wait("/close", new)
    done = await manage("replaycloseevents", "--all", "--no-input", env=command_env)
    assert done.status == 0, done.errors
    await told(given_up, GIVEN_UP, "lost")
    assert await server.stop() == 0
    assert [len(backend.seen("/close", session)) for session in (live, pending, given_up)] == [1, 1, 1]


def test_migrations_leave_older_processes_working() -> None:
    """In a rolling upgrade they go on with the new tables: what is added, they must be able to leave out."""
    graph = MigrationLoader(None).graph
    names = [name for app, name in sorted(graph.nodes) if app == "proxy"]
    for name in names[names.index(FIRST_RELEASE) + 1 :]:
        for operation in graph.nodes["proxy", name].operations:
            if isinstance(operation, AddField):
                field: Any = operation.field
                assert field.null or field.has_db_default(), f"{name}: {operation.name} needs null or db_default"
            else:
                assert isinstance(operation, CreateModel | AddIndex), f"{name}: {operation} may break older processes"


# Messages between processes


class Recording:
    """What two processes of a release said: the first, `one`, sent to the other, which held the sessions."""

    def __init__(self, release: int) -> None:
        lines = map(json.loads, (FOLDER / f"{release}.cluster.jsonl").read_text().splitlines())
        self.messages = [(line["channel"], bytes.fromhex(line["payload"])) for line in lines]
        self.common = self.messages[0][0]
        self.one: str = msgpack.unpackb(self.messages[0][1])["inbox"].decode()

    def of_kind(self, kind: str) -> Iterator[tuple[str, bytes]]:
        return (each for each in self.messages if msgpack.unpackb(each[1])["kind"] == kind)

    def like(self, kind: str) -> Any:
        """The fields of the first message of a kind."""
        return msgpack.unpackb(next(self.of_kind(kind))[1])


class OldPeer:
    """A process of an older release, as far as its messages go, with sessions `channels` of its own."""

    def __init__(self, recording: Recording, redis: RedisServer) -> None:
        self.recording = recording
        self.redis = Redis(port=redis.port, protocol=3)
        self.subscription = self.redis.pubsub()

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, recording: Recording, redis: RedisServer, *channels: str) -> AsyncIterator[OldPeer]:
        peer = cls(recording, redis)
        await peer.subscription.subscribe(recording.one, *channels)
        for _ in range(1 + len(channels)):
            await peer.subscription.get_message(timeout=5)
        await peer.publish(*next(recording.of_kind("present")))
        yield peer
        await peer.subscription.aclose()  # type: ignore[no-untyped-call]
        await peer.redis.aclose()

    async def publish(self, channel: str, payload: bytes) -> None:
        assert await self.redis.publish(channel, payload) >= 1

    async def next(self, kind: str) -> Any:
        """The next message of this kind, which must have all fields that it had in the older release."""
        async with asyncio.timeout(5):
            while True:
                message = await self.subscription.get_message(timeout=5)
                found = message and msgpack.unpackb(message["data"])
                if found and found["kind"] == kind:
                    expected = self.recording.like(kind)
                    assert found["v"] == expected["v"]
                    assert {name: type(found[name]) for name in expected} == {
                        name: type(value) for name, value in expected.items()
                    }
                    return found

    async def answer_ok(self, request: Any) -> None:
        replies = self.recording.like("replies") | {"replies": [[request["id"], "ok"]]}
        await self.publish(request["inbox"].decode(), msgpack.packb(replies))


@pytest.fixture(params=RELEASES)
def recording(request: pytest.FixtureRequest) -> Recording:
    return Recording(request.param)


@pytest.fixture
async def node(servers: Servers, redis: RedisServer) -> AsyncIterator[Server]:
    """One of this release, in the recorded cluster."""
    server = await servers.start("uvicorn", {"EKBO_REDIS_URL": redis.url, "EKBO_REDIS_PREFIX": PREFIX})
    yield server
    await server.stop()


async def test_an_older_process_reaches_sessions_of_this_one(
    node: Server, backend: Backend, redis: RedisServer, recording: Recording
) -> None:
    """Its pushes and closes arrive, its claim ends the older connection of a key, and it is answered each time.

    Its closes are the backend's own, as far as it can say: no close callback follows.
    """
    before = {key: len(backend.seen("/close", key)) for key in ("bob", "carol")}
    async with (
        OldPeer.running(recording, redis) as old,
        client(node, "bob") as bob,
        client(node, "carol") as carol,
    ):
        for number, message in enumerate(recording.of_kind("request"), 1):
            await old.publish(*message)
            assert (await old.next("replies"))["replies"] == [[number, "ok"]]
        assert [await receive(bob) for _ in range(3)] == ["text", b"\0binary", "last"]
        assert (await ending(bob)).code == 1000
        ((channel, claim),) = recording.of_kind("request all")
        await old.publish(channel, claim)
        assert (await old.next("replies"))["replies"] == [[msgpack.unpackb(claim)["id"], "ok"]]
        end = await ending(carol)
        assert (end.code, end.reason) == (4001, "replaced")
        await backend.wait("/close", "carol", before["carol"] + 1)
        await backend.quiet("/close", "bob", before["bob"])


async def test_this_process_reaches_sessions_of_an_older_one(
    node: Server, redis: RedisServer, recording: Recording
) -> None:
    """Its requests have all that the older one reads, and it takes the answers."""
    events = [msgpack.unpackb(msgpack.unpackb(payload)["event"]) for _, payload in recording.of_kind("request")]
    channel = f"{PREFIX}__group__session.dave"
    async with OldPeer.running(recording, redis, channel) as old:
        texts = [("Content-Type", "text/plain")], [("Content-Type", "application/octet-stream")]
        for headers, body, expected in zip(texts, (b"text", b"\0binary"), events, strict=False):
            sending = asyncio.create_task(send(node, "dave", body, *headers))
            request = await old.next("request")
            assert_covers(msgpack.unpackb(request["event"]), expected)
            await old.answer_ok(request)
            assert (await sending).body == OK
        # An operator's close is to it what it knows as a close.
        closing = asyncio.create_task(close(node, "dave", b"last", ("X-Kuiperbelt-Close-Callback", "true")))
        request = await old.next("request")
        assert_covers(msgpack.unpackb(request["event"]), events[2])
        await old.answer_ok(request)
        assert (await closing).body == OK
        connecting = asyncio.create_task(come_and_go(node, "dave"))
        claim = await old.next("request all")
        assert msgpack.unpackb(claim["event"]).keys() >= msgpack.unpackb(recording.like("request all")["event"]).keys()
        await old.subscription.unsubscribe(channel)  # it gives the key up
        await old.answer_ok(claim)
        await connecting


def assert_covers(found: Any, expected: Any) -> None:
    """All that the older release sent is there, with the same values."""
    assert {name: found[name] for name in expected} == expected


async def come_and_go(node: Server, key: str) -> None:
    async with client(node, key):
        pass
