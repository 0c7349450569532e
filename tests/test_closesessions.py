"""`closesessions` on running proxies, with and without Redis: by key, by filter, many."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing

import pytest

from tests.at_once import at_once
from tests.backend import Backend
from tests.clients import client, ending
from tests.operators import at_terminal, manage, registered
from tests.servers import Server, Servers
from tests.test_registry import file

KINDS = ["uvicorn", "daphne", "cluster"]


@asynccontextmanager
async def running(servers: Servers, kind: str) -> AsyncIterator[Server]:
    """One with a registry of its own, for filters find all sessions."""
    server = await servers.start(kind)
    yield server
    await server.stop()


@at_once(kind=KINDS)
async def test_by_key(kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]) -> None:
    """A last message, then Close with code and reason; the backend, which didn't ask for it, is told."""
    one, two, other = fresh("c"), fresh("c"), fresh("c")
    async with (
        running(servers, kind) as server,
        client(server, one) as first,
        client(server, two) as second,
        client(server, other) as third,
    ):
        await registered(server, one, two, other)
        options = ["--code", "4000", "--reason", "moved ☃", "--message", "good bye"]
        done = await manage("closesessions", one, two, "nobody", *options, env=server.env)
        assert (done.status, done.output) == (1, "closed 2 of 3 sessions\n")
        assert done.errors == "nobody: kuiperbelt: session is not found\n"
        for connection in (first, second):
            end = await ending(connection)
            assert (end.code, end.frames) == (4000, ["good bye"])
            assert end.reason == ("" if server.kind == "daphne" else "moved ☃")
        await third.ping()
        for key in (one, two):
            (event,) = await backend.wait("/close", key)
            assert event.one("X-Kuiperbelt-Close-Code") == "4000"
            assert event.one("X-Kuiperbelt-Close-Reason") == "operator"
        await backend.quiet("/close", other, 0)
        done = await manage("listsessions", "--json", one, two, env=server.env)
        assert done.output == ""


@at_once(kind=KINDS)
async def test_by_filter(kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]) -> None:
    """Only look; then all, in more than one request, also one whose node's clock is ahead."""
    async with running(servers, kind) as server, AsyncExitStack() as stack:
        keys = [fresh("f") for _ in range(30)]
        connections = [await stack.enter_async_context(client(server, key)) for key in keys]
        await registered(server, *keys)
        with closing(sqlite3.connect(file(server), isolation_level=None)) as database:
            database.execute("UPDATE proxy_session SET connected_at = '2126-01-01 00:00:00' WHERE key = ?", keys[:1])
        done = await manage("closesessions", "--all", "--dry-run", env=server.env)
        assert sorted(done.lines) == sorted(keys)
        done = await manage("closesessions", "--older-than", "1h", "--dry-run", env=server.env)
        assert (done.status, done.output, done.errors) == (0, "", "there is none\n")
        done = await manage("closesessions", "--older-than", "1h", "--no-input", env=server.env)
        assert (done.status, done.output) == (0, "closed 0 of 0 sessions\n")
        done = await at_terminal("closesessions", "--address", "127.0.0.1", env=server.env, typed="y\n")
        assert done.status == 0
        assert "Close 30 sessions? [y/N]" in done.output
        assert "closed 30 of 30 sessions" in done.output
        ends = await asyncio.gather(*(ending(connection) for connection in connections))
        assert {end.code for end in ends} == {1000}
        told = [event for key in keys for event in await backend.wait("/close", key)]
        assert {event.one("X-Kuiperbelt-Close-Reason") for event in told} == {"operator"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--address or --older-than, found neither"),
        (["bob", "--all"], "--address or --older-than, found both"),
        (["bob", "--code", "1006"], "X-Kuiperbelt-Close-Code: expected 1000 or 3000-4999, found '1006'"),
        (["bob", "--reason", "x" * 124], "expected at most 123 bytes, found 124"),
        (["bob", "--reason", "a\nb"], "--reason: expected printable text"),
        (["b b"], "KEY: expected 1-256 visible ASCII"),
    ],
)
async def test_wrong_arguments(servers: Servers, arguments: list[str], expected: str) -> None:
    done = await manage("closesessions", *arguments, env=servers.database_env("unused"))
    assert done.status == 1
    assert expected in done.errors
