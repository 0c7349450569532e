"""`manage.py tail` beside running proxies: over Redis, and without it over HTTP; what it says, and how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.at_once import at_once
from tests.backend import Backend, welcome
from tests.clients import TIMEOUT, client, receive, send
from tests.cluster import Cluster
from tests.operators import environment, manage, registered
from tests.redis_servers import RedisServer
from tests.servers import ROOT, Servers
from tests.test_watch_stream import CONTENTS, KEY
from tests.vectors import each_of

kind = each_of(("uvicorn", "daphne", "cluster"))


class Tail:
    """A running command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout
        assert process.stderr
        self.process, self.output, self.errors = process, process.stdout, process.stderr
        self.seen: list[dict[str, Any]] = []

    @classmethod
    @asynccontextmanager
    async def running(cls, *arguments: str, env: Mapping[str, str]) -> AsyncIterator[Tail]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "manage.py", "tail", *arguments, cwd=ROOT, env=environment(env),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def line(self) -> str:
        async with asyncio.timeout(TIMEOUT):
            return (await self.output.readline()).decode().removesuffix("\n")

    async def report(self, *whats: str) -> dict[str, Any]:
        """The next report of one of these kinds."""
        while True:
            line = await self.line()
            assert line, (await self.errors.read()).decode()
            self.seen.append(json.loads(line))
            if self.seen[-1]["what"] in whats:
                return self.seen[-1]

    async def end(self) -> tuple[int, str]:
        """Ctrl-C; its status and last words."""
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(TIMEOUT):
            errors = (await self.errors.read()).decode()
            return await self.process.wait(), errors


@at_once(kind=["uvicorn", "daphne", "cluster"])
async def test_a_session(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """Before it is there, while it is, and after; contents if they may be shown."""
    server = await servers.get(kind, CONTENTS)
    async with client(server, f"{key}-before"):
        await registered(server, f"{key}-before")  # daphne begins its registry with its first session
    async with Tail.running(key, "--json", "--contents", env=server.env) as tail:
        await tail.report("absent")
        backend.on("/connect", key, welcome(key, b"hello"))
        async with client(server, key) as connection:
            assert await receive(connection) == "hello"
            await tail.report("session")
            assert (await send(server, key, b"\xff", ("Content-Type", "application/octet-stream"))).status == 200
            await connection.send("x\x1b[2J")
            sent, received = await tail.report("sent"), await tail.report("received")
            assert (sent["content"], sent["encoding"], received["content"]) == ("/w==", "base64", "x\x1b[2J")
            assert (await tail.report("callback"))["status"] == 200
        assert (await tail.report("closed"))["reason"] == "client"
        assert (await tail.report("callback"))["kind"] == "close"
        await tail.report("absent")
        assert await tail.end() == (0, "\n1 sent, 1 received, 2 callbacks\n")


async def test_for_people(servers: Servers, key: str) -> None:
    """Lines, so many and no more."""
    server = await servers.get("uvicorn", CONTENTS)
    async with client(server, key) as connection:
        await registered(server, key)
        async with Tail.running(key, "--count", "3", "--contents", env=server.env) as tail:
            assert f"session {key} at " in await tail.line()
            await send(server, key, b"snow")
            await connection.send("white")
            lines = [await tail.line(), await tail.line()]
            assert [line.split(maxsplit=2)[2] for line in lines] == ["-> text 4 bytes  snow", "<- text 5 bytes  white"]
            assert (await tail.errors.read()).decode() == "1 sent, 1 received, 0 callbacks\n"
            assert await tail.process.wait() == 0


async def test_what_cannot_be_watched(servers: Servers, key: str) -> None:
    plain = await servers.get("uvicorn")
    cluster = await servers.get("cluster")
    guarded = await servers.get("uvicorn", {"EKBO_API_KEYS": KEY, **CONTENTS})
    off = "EKBO_WATCH_CONTENTS"
    unreachable = {"EKBO_REDIS_URL": "redis://127.0.0.1:1/0"}
    cases: list[tuple[list[str], dict[str, str], int, str]] = [
        ([key, "--contents"], plain.env, 1, f"refused with 403: not allowed: contents aren't shown, {off} is off"),
        ([key, "--contents"], cluster.env, 1, f"expected that contents may be shown, found {off} off"),
        ([key], cluster.env | unreachable, 1, "expected Redis (EKBO_REDIS_URL), found: "),
        ([key], guarded.env | {"EKBO_API_KEYS": f"{KEY}-wrong"}, 1, "refused with 401: not allowed"),
        ([key, "--count", "0"], plain.env, 2, "expected a whole number from 1 on, found '0'"),
    ]
    done = await asyncio.gather(*(manage("tail", *arguments, env=env) for arguments, env, _, _ in cases))
    for ended, (_, _, status, words) in zip(done, cases, strict=True):
        assert ended.status == status, ended
        assert words in ended.errors


async def test_nobody_runs(servers: Servers, key: str) -> None:
    """As far as the registry knows: a node whose last heartbeat is longer ago than that doesn't."""
    server = await servers.get("uvicorn")
    done = await manage("tail", key, "--seconds", "1", env=server.env | {"EKBO_NODE_TIMEOUT": "1us"})
    assert (done.status, done.errors) == (0, "0 sent, 0 received, 0 callbacks\n")
    assert done.output.endswith("lost: the registry knows no process that runs\n")


@pytest.mark.timeout(90)
async def test_redis_goes_away(servers: Servers, key: str) -> None:
    """And comes back; the session is watched on."""
    async with RedisServer.running() as redis, Cluster.running(servers, ("uvicorn",), redis) as cluster:
        (node,) = cluster.nodes
        env = node.server.env | {"EKBO_REDIS_URL": redis.url}
        async with client(node.server, key) as connection, Tail.running(key, "--json", env=env) as tail:
            await tail.report("session")
            await redis.kill()
            assert (await tail.report("lost"))["reason"]
            await redis.restart()
            await tail.report("regained")
            await cluster.all_ready()
            await send(node.server, key, b"again")
            assert await receive(connection) == "again"
            assert (await tail.report("sent"))["size"] == 5
