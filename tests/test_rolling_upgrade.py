"""A rolling upgrade with the older code itself: both versions in one cluster on PostgreSQL, until the older has gone.

`make upgrade FROM=REVISION` takes the older code out of git; without UPGRADE_FROM both are this one.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backend import Backend
from tests.clients import client, close, ending, receive, request, send
from tests.operators import environment
from tests.postgres import PostgresServer
from tests.redis_servers import RedisServer, eventually
from tests.servers import ROOT, Server, Servers
from tests.vectors_api import OK

BINARY = ("Content-Type", "application/octet-stream")
BURST = 100  # pushes each way at once
FORGOTTEN = 20.0  # seconds, over the 15 s for which a process that died may be one that comes back (docs/cluster.md)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Where the older version's code is."""
    revision = os.environ.get("UPGRADE_FROM")
    if not revision:
        return ROOT
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
    (tmp_path / "older").mkdir()
    subprocess.run(["tar", "-x", "-C", str(tmp_path / "older")], input=archive, check=True)
    return tmp_path / "older"


@pytest.fixture
async def env(backend: Backend) -> AsyncIterator[dict[str, str]]:
    """What makes servers nodes of one cluster."""
    async with PostgresServer.running() as postgres, RedisServer.running() as redis:
        yield {
            "EKBO_DATABASE_URL": postgres.url,
            "EKBO_REDIS_URL": redis.url,
            "EKBO_SECRET_KEY": "the-secret-key-of-a-cluster-that-is-upgraded",
            "EKBO_NODE_TIMEOUT": "2s",
        }


async def migrate(root: Path, backend: Backend, env: dict[str, str]) -> None:
    """As the operator does, with this version."""
    known = environment(env | {"EKBO_CONNECT_CALLBACK_URL": f"http://127.0.0.1:{backend.port}/connect"})
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    assert await (await asyncio.create_subprocess_exec(*command, cwd=root, env=known)).wait() == 0


async def work_together(one: Server, other: Server, key: str) -> None:
    """Pushes arrive, the answers are exact, a key moves and is owned once, /close reaches it: both ways."""
    for here, there in ((one, other), (other, one)):
        bob = f"{key}-{here.port}"
        async with client(here, bob) as first:
            assert (await send(there, bob, b"text")).body == OK
            assert (await send(there, bob, b"\0binary", BINARY)).body == OK
            errors = (await send(there, f"{bob},nobody-{bob}", b"two")).json()["errors"]
            assert errors == [{"error": "kuiperbelt: session is not found", "session": f"nobody-{bob}"}]
            assert [await receive(first) for _ in range(3)] == ["text", b"\0binary", "two"]
            async with client(there, bob) as second:
                end = await ending(first)
                assert (end.code, end.reason) == (4001, "replaced")
                assert (await send(here, bob, b"moved")).body == OK
                asked = json.dumps([bob, f"nobody-{bob}"]).encode()
                assert (await request(here, "POST", "/sessions", (), asked)).json()["gone"] == [f"nobody-{bob}"]
                assert (await close(here, bob, b"last", ("X-Kuiperbelt-Close-Code", "4100"))).body == OK
                end = await ending(second)
                assert (end.code, end.frames) == (4100, ["moved", "last"])


async def dies(server: Server, by: Server, backend: Backend, key: str) -> None:
    """Its session is told of, once, by the other one."""
    async with client(server, key):
        await server.kill()
        (told,) = await backend.wait("/close", key, timeout=20)
        assert told.one("x-kuiperbelt-close-reason") == "node_lost"

    async def forgotten() -> bool:
        return (await send(by, f"nobody-{key}")).status == 200

    await eventually(forgotten, "the dead process to be held for gone", FORGOTTEN)
    assert len(backend.seen("/close", key)) == 1


@pytest.mark.timeout(180)
async def test_a_rolling_upgrade(
    servers: Servers, backend: Backend, older: Path, env: dict[str, str], key: str
) -> None:
    await migrate(older, backend, env)
    first = await servers.start("uvicorn", env, root=older)
    async with client(first, f"{key}-stays") as stays:
        await migrate(ROOT, backend, env)
        new = await servers.start("uvicorn", env)
        await work_together(first, new, f"{key}-both")
        async with client(new, f"{key}-came") as came:
            pushes = [send(new, f"{key}-stays", b"%d" % number) for number in range(BURST)]
            pushes += [send(first, f"{key}-came", b"%d" % number) for number in range(BURST)]
            assert {answer.body for answer in await asyncio.gather(*pushes)} == {OK}
            for connection in (stays, came):
                assert {await receive(connection) for _ in range(BURST)} == {str(number) for number in range(BURST)}
    if older != ROOT:  # else tests/test_node_kills.py does it
        await dies(first, new, backend, f"{key}-old-dies")
        back = await servers.start("uvicorn", env, root=older)
        await dies(new, back, backend, f"{key}-new-dies")
        new = await servers.start("uvicorn", env)
        await work_together(back, new, f"{key}-again")
        await back.stop()
        last = await servers.start("uvicorn", env)
        await work_together(new, last, f"{key}-new")
        await last.stop()
    assert (await request(new, "GET", "/stats?format=full")).json()["bad_envelopes"] == 0
    await asyncio.gather(first.stop(), new.stop())
