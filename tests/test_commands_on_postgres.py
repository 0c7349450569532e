"""Commands and /sessions on a real PostgreSQL: two nodes, with and without Redis; a database that goes."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable

import pytest
from django.utils.timezone import now

from tests.admin_site import run_script, script_env
from tests.at_once import at_once
from tests.clients import client, ending, receive, request
from tests.operators import Registry, manage, registered
from tests.postgres import PostgresServer
from tests.redis_servers import eventually
from tests.servers import Servers
from tests.test_listsessions import MANY, many_listed

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def postgres() -> AsyncIterator[PostgresServer]:
    async with PostgresServer.running() as server:
        yield server


@at_once(clustered=[False, True])
async def test_two_nodes(servers: Servers, clustered: bool, fresh: Callable[[str], str]) -> None:
    """A command reaches the sessions of both, and either node answers for both."""
    async with PostgresServer.running() as postgres:
        await Registry.at(postgres.url)
        env = (servers.cluster_env() if clustered else {}) | {"EKBO_DATABASE_URL": postgres.url}
        await two_nodes(servers, env, fresh)


async def two_nodes(servers: Servers, env: dict[str, str], fresh: Callable[[str], str]) -> None:
    here, there = await servers.start("uvicorn", env), await servers.start("uvicorn", env)
    one, two = fresh("g"), fresh("g")
    async with client(here, one) as first, client(there, two) as second:
        await registered(here, one, two)
        done = await manage("listnodes", "--json", env=env)
        assert sorted(json.loads(line)["endpoint"] for line in done.lines) == sorted([here.host, there.host])
        done = await manage("sendmessage", one, two, "nobody", "hello", env=env)
        assert (done.status, done.output) == (1, "sent to 2 of 3 sessions\n")
        assert await receive(first) == await receive(second) == "hello"
        answer = (await request(there, "POST", "/sessions", (), json.dumps([one, two, "nobody"]).encode())).json()
        assert [entry["session"] for entry in answer["alive"]] == [one, two]
        assert answer["gone"] == ["nobody"]
        done = await manage("closesessions", "--all", "--no-input", env=env)
        assert (done.status, done.output) == (0, "closed 2 of 2 sessions\n")
        assert (await ending(first)).code == (await ending(second)).code == 1000
    for server in (here, there):
        assert await server.stop() == 0


async def test_a_database_that_goes_and_comes_back(servers: Servers, postgres: PostgresServer, key: str) -> None:
    await Registry.at(postgres.url)
    server = await servers.start("uvicorn", {"EKBO_DATABASE_URL": postgres.url})
    async with client(server, key):
        await registered(server, key)
        await postgres.stop()
        for _ in range(3):
            response = await request(server, "GET", f"/sessions/{key}", timeout=8)
            assert (response.status, response.json()["result"]) == (503, "NG")
        await postgres.start()

        async def answers() -> bool:
            return (await request(server, "GET", f"/sessions/{key}")).status == 200

        await eventually(answers, "/sessions to answer again")
        assert postgres.process
        postgres.process.send_signal(signal.SIGSTOP)  # from now on it takes connections, and says nothing
        began = time.monotonic()
        response = await request(server, "GET", f"/sessions/{key}", timeout=8)
        assert (response.status, response.json()["result"]) == (503, "NG")
        assert time.monotonic() - began < 7
    assert await server.stop() == 0


async def test_what_is_missing(postgres: PostgresServer) -> None:
    """Tables, which migrate makes, or the whole database, which it doesn't."""
    done = await manage("listsessions", env={"EKBO_DATABASE_URL": postgres.url})
    assert done.errors.startswith("CommandError: expected the proxy's tables in the database (EKBO_DATABASE_URL), ")
    assert 'found: relation "proxy_node" does not exist; has' in done.errors
    done = await manage("listsessions", env={"EKBO_DATABASE_URL": f"{postgres.url}-not"})
    assert done.errors.startswith("CommandError: expected an answer from the database (EKBO_DATABASE_URL), found: ")
    assert "migrate" not in done.errors


SOCKET = """
import socket
from django.db import connection
connection.ensure_connection()
with socket.socket(fileno=connection.connection.fileno()) as its:
    options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
    print(*(its.getsockopt(socket.IPPROTO_TCP, option) for option in options))
    its.detach()
"""


async def test_a_host_that_dies_without_a_word_is_noticed(postgres: PostgresServer) -> None:
    """By the kernel, which is told so for each connection; what the URL says goes first."""
    for query, expected in (("", "10000 10 5\n"), ("?tcp_user_timeout=3000", "3000 10 5\n")):
        env = script_env({"EKBO_DATABASE_URL": postgres.url + query})
        assert await asyncio.to_thread(run_script, env, SOCKET) == expected


async def test_many_rows(postgres: PostgresServer) -> None:
    """Listed in little time and constant memory; selected, ended and told again as on SQLite."""
    registry = await Registry.at(postgres.url)
    await many_listed(registry)
    node = await registry.node("web2")
    await registry.session("lost", node, ended_at=now(), code=1006, reason="node_lost", gave_up=True)
    again = await manage("replaycloseevents", "--node", "web2", "--no-input", env=registry.env)
    assert again.output == "to be told again: 1 close event\n"
    dry = await manage("closesessions", "--older-than", "10s", "--dry-run", env=registry.env)
    assert len(dry.lines) == MANY
