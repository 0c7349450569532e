"""Sessions in the database, and their close events, whatever dies: real servers, SQLite and PostgreSQL.

Nodes that are killed: test_node_kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from websockets.asyncio.client import ClientConnection

from proxy import registry
from tests.at_once import at_once
from tests.backend import Answer, Backend
from tests.clients import client, ending, request, send
from tests.databases import rows, using
from tests.evidence import Evidence, Figures
from tests.operators import manage
from tests.postgres import PostgresServer
from tests.servers import Server, Servers
from tests.vectors_api import OK

pytestmark = pytest.mark.usefixtures("clean_logs")

QUICK = {"EKBO_NODE_TIMEOUT": "2s"}
LOCKED = float(os.environ.get("LOCKED_SECONDS", "6"))  # over SQLite's own patience
LIMIT = 20.0  # seconds for an event of a dead node

Fresh = Callable[[str], str]


@contextlib.asynccontextmanager
async def pair(servers: Servers, database: str) -> AsyncIterator[Server]:
    """Two nodes with one database; the first knows the other as its peer."""
    async with contextlib.AsyncExitStack() as stack:
        env = QUICK
        if database == "postgres":
            postgres = await stack.enter_async_context(PostgresServer.running())
            await migrate(postgres)
            env = env | {"EKBO_DATABASE_URL": postgres.url}
        server = await servers.start("cluster", env)
        yield server
        await server.stop()


async def migrate(postgres: PostgresServer) -> None:
    def work() -> None:
        with using(postgres.url):
            pass

    await asyncio.to_thread(work)


def file(server: Server) -> Path:
    return Path(server.env["EKBO_DATABASE_URL"].removeprefix("sqlite:///"))


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout: float = LIMIT) -> None:
    deadline = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def sessions(server: Server, keys: Sequence[str]) -> AsyncIterator[list[ClientConnection]]:
    async with contextlib.AsyncExitStack() as stack:
        yield list(await asyncio.gather(*(stack.enter_async_context(client(server, key)) for key in keys)))


def reasons(backend: Backend, keys: Sequence[str]) -> Counter[str]:
    """Of the close events of these, each told under its one id."""
    found: Counter[str] = Counter()
    for key in keys:
        for event in backend.seen("/close", key):
            connection = UUID(event.one("x-kuiperbelt-connection") or "")
            assert event.one("x-kuiperbelt-event-id") == str(uuid5(connection, "close"))
            found[event.one("x-kuiperbelt-close-reason") or ""] += 1
    return found


async def test_a_row_as_long_as_the_session_lives(servers: Servers, backend: Backend, key: str) -> None:
    server = await servers.start("uvicorn")
    agent = "agent\x7f" + "x" * 600
    async with client(server, key, ("User-Agent", agent.replace("\x7f", "")), origin=None) as connection:
        (row,) = rows(file(server), "SELECT key, address, path, query, transport, user_agent FROM proxy_session")
        assert row == (key, "127.0.0.1", "/connect", "", "websocket", ("agent" + "x" * 600)[:512])
        assert (await request(server, "GET", "/ready")).body == OK
        await connection.close()
    await backend.wait("/close", key)

    async def gone() -> bool:
        return not rows(file(server), "SELECT 1 FROM proxy_session")

    await until(gone, "the row to go")
    await server.stop()
    assert rows(file(server), "SELECT declared_dead, ended_at IS NULL FROM proxy_node") == [(0, 0)]


async def test_a_query_string_is_kept_if_that_is_wanted(servers: Servers, key: str) -> None:
    """And else not: the row above has none, though its client sent one."""
    server = await servers.start("uvicorn", {"EKBO_REGISTRY_QUERY": "true"})
    async with client(server, key, target="/connect?a=b%20c"):
        assert rows(file(server), "SELECT path, query FROM proxy_session") == [("/connect", f"a=b%20c&key={key}")]
    await server.stop()


@at_once(database=["sqlite", "postgres"])
async def test_a_paused_process_that_was_declared_dead(
    database: str, servers: Servers, backend: Backend, fresh: Fresh
) -> None:
    """Its sockets are closed when it goes on, each session is told once, and it serves on as a new node."""
    lost, alive, late = [fresh("lost") for _ in range(10)], [fresh("alive") for _ in range(10)], fresh("late")
    async with pair(servers, database) as here, sessions(here, lost) as sockets, sessions(here.api, alive):
        here.pause()
        await backend.until(lambda: all(backend.seen("/close", key) for key in lost), "all events", LIMIT)
        here.resume()
        ends = await asyncio.gather(*(ending(socket) for socket in sockets))
        assert {(end.code, end.reason) for end in ends} == {(1012, "node_lost")}
        async with client(here, late) as connection:
            assert (await send(here, late)).body == OK
            await asyncio.sleep(3)  # more than the limit: nobody holds it for dead
            assert reasons(backend, [*alive, late]) == {}
            await connection.close()
        await backend.wait("/close", late)
        assert reasons(backend, lost) == {"node_lost": len(lost)}
        assert reasons(backend, [late]) == {"client": 1}


async def test_a_process_alone_is_told_of_after_its_restart(servers: Servers, backend: Backend, fresh: Fresh) -> None:
    server = await servers.start("uvicorn", QUICK)
    lost = [fresh("lost") for _ in range(10)]
    async with sessions(server, lost):
        await server.kill()
    await server.restart()
    await backend.until(lambda: all(backend.seen("/close", key) for key in lost), "all events", LIMIT)
    assert reasons(backend, lost) == {"node_lost": len(lost)}


async def test_a_backend_that_fails(servers: Servers, backend: Backend, key: str, evidence: Evidence) -> None:
    """Told again after growing delays, over a kill in between, always under the same id, until it hears."""
    server = await servers.start("uvicorn", QUICK)
    backend.on("/close", key, Answer(status=500))
    async with client(server, key):
        pass
    await backend.until(lambda: len(backend.seen("/close", key)) >= 3, "three attempts", 10)
    first, second, third = (event.arrived for event in backend.seen("/close", key)[:3])
    assert 0.9 < second - first < 1.9 < third - second < 3.5
    attempts = rows(file(server), "SELECT attempts, reason, gave_up, last_error FROM proxy_session")
    assert attempts[0][1:] == ("client", 0, "close: expected status 200, found 500")
    await server.kill()
    seen = len(backend.seen("/close", key))
    backend.on("/close", key, Answer())
    await server.restart()
    await backend.until(lambda: len(backend.seen("/close", key)) > seen, "an attempt after the restart", LIMIT)
    await backend.quiet("/close", key, seen + 1, 2.0)
    evidence(Figures(1, seen + 1, worst=third - second))
    assert reasons(backend, [key]) == {"client": seen + 1}
    assert not rows(file(server), "SELECT 1 FROM proxy_session")


async def test_an_operators_close_is_told_though_the_process_dies(
    servers: Servers, backend: Backend, fresh: Fresh
) -> None:
    """What the process couldn't tell any more, the next one does: under the same id, with the same code and reason."""
    server = await servers.start("uvicorn", QUICK)
    keys = [fresh("closed") for _ in range(5)]
    for key in keys:
        backend.on("/close", key, Answer(status=500))
    async with sessions(server, keys) as sockets:
        done = await manage("closesessions", *keys, "--code", "4000", env=server.env)
        assert (done.status, done.output) == (0, "closed 5 of 5 sessions\n")
        assert {end.code for end in await asyncio.gather(*map(ending, sockets))} == {4000}
        await backend.until(lambda: all(backend.seen("/close", key) for key in keys), "the first attempts")
        await server.kill()
    seen = {key: len(backend.seen("/close", key)) for key in keys}
    for key in keys:
        backend.on("/close", key, Answer())
    await server.restart()
    for key in keys:
        await backend.wait("/close", key, seen[key] + 1, LIMIT)
    assert reasons(backend, keys) == {"operator": sum(seen.values()) + 5}
    assert {event.one("x-kuiperbelt-close-code") for key in keys for event in backend.seen("/close", key)} == {"4000"}
    await server.stop()
    assert not rows(file(server), "SELECT 1 FROM proxy_session")


async def test_retries_are_spread(servers: Servers, backend: Backend, fresh: Fresh, evidence: Evidence) -> None:
    """A backend that comes back isn't told of all at once: each delay has its own jitter."""
    server = await servers.start("uvicorn", QUICK)
    keys = [fresh("jitter") for _ in range(30)]
    for key in keys:
        backend.on("/close", key, Answer(status=500))
    async with sessions(server, keys) as sockets:
        for socket in sockets:
            socket.transport.abort()
        await backend.until(lambda: all(len(backend.seen("/close", key)) >= 2 for key in keys), "second attempts", 10)
    for key in keys:
        backend.on("/close", key, Answer())
    pauses = [second.arrived - first.arrived for first, second in (backend.seen("/close", key)[:2] for key in keys)]
    evidence(Figures(1, len(keys), worst=max(pauses)))
    assert min(pauses) > 0.9
    assert max(pauses) - min(pauses) > 0.12, sorted(pauses)  # of the 0.25 s that there may be
    await server.stop()


async def test_what_is_given_up_stays_visible(servers: Servers, backend: Backend, key: str) -> None:
    server = await servers.start("uvicorn", {"EKBO_CLOSE_RETRY_FOR": "1s"})
    backend.on("/close", key, Answer(status=500))
    async with client(server, key):
        pass

    async def given_up() -> bool:
        return rows(file(server), "SELECT attempts FROM proxy_session WHERE gave_up") == [(2,)]

    await until(given_up, "it to give up")
    assert "gave up after 2 attempts" in server.output()


async def test_shutdown_leaves_what_is_not_told(servers: Servers, backend: Backend, key: str) -> None:
    server = await servers.start("uvicorn", QUICK)
    backend.on("/close", key, Answer(status=500))
    async with client(server, key):
        await server.stop()
    assert reasons(backend, [key]) == {"shutdown": 1}
    backend.on("/close", key, Answer())
    await server.restart()
    await backend.wait("/close", key, 2, LIMIT)
    assert reasons(backend, [key]) == {"shutdown": 2}


async def test_a_locked_database_stops_nothing(
    servers: Servers, backend: Backend, fresh: Fresh, evidence: Evidence
) -> None:
    server = await servers.start("uvicorn", QUICK)
    before, while_locked, short = fresh("before"), [fresh("locked") for _ in range(20)], fresh("short")
    visitors: list[str] = []
    with contextlib.closing(sqlite3.connect(file(server), isolation_level=None)) as lock:
        async with client(server, before):
            lock.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            async with client(server, short):
                assert time.monotonic() - began < 1.5
            await backend.wait("/close", short)
            began = time.monotonic()
            async with sessions(server, while_locked):
                assert time.monotonic() - began < 1.5
                assert (await send(server, while_locked[0])).body == OK
                ready = await request(server, "GET", "/ready")
                assert (ready.status, "degraded" in ready.json()) == (200, True)
                assert ready.json()["degraded"][0].startswith("database: ")
                until_unlocked = time.monotonic() + LOCKED
                while time.monotonic() < until_unlocked:
                    visitors.append(fresh("visitor"))
                    began = time.monotonic()
                    async with client(server, visitors[-1]):
                        assert time.monotonic() - began < 1.5
                    await asyncio.sleep(0.5)
                assert len(rows(file(server), "SELECT 1 FROM proxy_session")) == 1
                lock.execute("ROLLBACK")

                async def caught_up() -> bool:
                    return len(rows(file(server), "SELECT 1 FROM proxy_session")) == 21

                unlocked = time.monotonic()
                await until(caught_up, "all rows")
                back = time.monotonic() - unlocked
                assert (await request(server, "GET", "/ready")).body == OK
    everybody = [before, short, *while_locked, *visitors]
    await backend.until(lambda: all(backend.seen("/close", key) for key in everybody), "their ends")
    ends = reasons(backend, everybody)
    count = len(everybody)
    evidence(Figures(1, count, max(count - ends.total(), 0), max(ends.total() - count, 0), back))
    assert ends == {"client": count}


async def test_postgresql_that_goes_and_comes_back(servers: Servers, backend: Backend, fresh: Fresh) -> None:
    """A backend that doesn't hear meanwhile is told again from memory."""
    async with PostgresServer.running() as postgres:
        server = await servers.start("uvicorn", QUICK | {"EKBO_DATABASE_URL": postgres.url})
        ready = await request(server, "GET", "/ready")
        assert ready.json()["degraded"] == ["database: not migrated, run `manage.py migrate`"]
        await migrate(postgres)

        async def works() -> bool:
            return (await request(server, "GET", "/ready")).body == OK

        await until(works, "it to notice the tables")
        first, second = fresh("pg"), fresh("pg")
        async with client(server, first):
            await postgres.stop()
            backend.on("/close", second, Answer(status=500))
            async with client(server, second):
                assert (await send(server, second)).body == OK
            await backend.until(lambda: len(backend.seen("/close", second)) >= 2, "a retry from memory")
            backend.on("/close", second, Answer())
            await backend.until(lambda: len(backend.seen("/close", second)) >= 3, "the one that is heard", 10)
            await postgres.start()
            await until(works, "it to be back")
        await backend.wait("/close", first)
        assert reasons(backend, [first]) == {"client": 1}
        await backend.quiet("/close", second, 3, 1.0)
        await server.stop()


async def test_a_database_that_is_replaced_by_an_older_copy(servers: Servers, backend: Backend, fresh: Fresh) -> None:
    """It knows neither process nor sessions: all are written again, and none is held for lost while it lives."""
    server = await servers.start("uvicorn", QUICK)
    facts = "SELECT key, address, path, connected_at FROM proxy_session ORDER BY key"
    keys = [fresh("old") for _ in range(5)]
    async with sessions(server, keys) as sockets:
        before = rows(file(server), facts)
        change(server, "DELETE FROM proxy_session", "DELETE FROM proxy_sample", "DELETE FROM proxy_node")

        async def known() -> bool:
            return rows(file(server), facts) == before

        await until(known, "the rows to come back", 5)

        async def beaten() -> bool:
            return rows(file(server), "SELECT 1 FROM proxy_node WHERE heartbeats > 1") == [(1,)]

        # It knows the process, but not all that came later.
        await until(beaten, "heartbeats", 5)
        change(server, "DELETE FROM proxy_session", "UPDATE proxy_node SET heartbeats = 0")
        await until(known, "the rows to come back again", 5)

        async def swept() -> bool:
            return rows(file(server), "SELECT declared_dead FROM proxy_node ORDER BY started_at") == [(1,), (0,)]

        await until(swept, "the end of the node that it was", 5)
        assert [(await send(server, key)).body for key in keys] == [OK] * 5
        assert reasons(backend, keys) == {}
        # A session's row alone, and the backend doesn't hear at once: the event isn't forgotten with it.
        backend.on("/close", keys[0], Answer(status=500))
        change(server, "DELETE FROM proxy_session")
        await sockets[0].close()

        async def pending() -> bool:
            found = rows(file(server), "SELECT key, reason FROM proxy_session WHERE attempts > 0")
            return found == [(keys[0], "client")]

        await until(pending, "the event to be in the database", 5)
        backend.on("/close", keys[0], Answer())
        await backend.until(lambda: len(backend.seen("/close", keys[0])) > 1, "it to be told", 5)
    await backend.until(lambda: all(backend.seen("/close", key) for key in keys), "their ends")
    assert set(reasons(backend, keys)) == {"client"}
    assert "declared dead" not in server.output()
    await server.stop()


def change(server: Server, *statements: str) -> None:
    """Of an embedded database, all at once."""
    with contextlib.closing(sqlite3.connect(file(server), timeout=30, isolation_level=None)) as database:
        database.executescript(";".join(("BEGIN IMMEDIATE", *statements, "COMMIT")))


async def test_switched_off(servers: Servers, backend: Backend, key: str) -> None:
    server = await servers.start("uvicorn", {"EKBO_REGISTRY": "false"})
    async with client(server, key):
        assert (await request(server, "GET", "/ready")).body == OK
    await backend.wait("/close", key)
    assert reasons(backend, [key]) == {"client": 1}
    assert not file(server).exists()


async def test_daphne_begins_with_the_first_connection(servers: Servers, backend: Backend, key: str) -> None:
    server = await servers.start("daphne", QUICK)
    assert (await request(server, "GET", "/ready")).body == OK
    async with client(server, key):
        assert rows(file(server), "SELECT key FROM proxy_session") == [(key,)]
        assert rows(file(server), "SELECT endpoint FROM proxy_node") == [(f"127.0.0.1:{server.port}",)]
    await backend.wait("/close", key)


def test_it_does_not_begin_again_after_its_end(tmp_path: Path) -> None:
    """daphne answers /ready until the very end; and no thread is left."""
    before = set(threading.enumerate())

    async def live() -> None:
        scope = {"type": "http", "server": ("127.0.0.1", 1)}
        assert await registry.start(scope) == []
        found = registry.running()
        assert found
        assert (await found.ask(threading.current_thread)) not in before
        await registry.shut_down()
        assert await registry.start(scope) == []
        assert registry.running() is None

    with using(f"sqlite:///{tmp_path}/test.sqlite3"):
        asyncio.run(live())
    assert {thread for thread in threading.enumerate() if thread.name == "database"} <= before


async def test_workers_are_nodes_of_their_own(servers: Servers) -> None:
    server = await servers.start("workers", servers.cluster_env())

    async def both() -> bool:
        found = rows(file(server), "SELECT worker, endpoint FROM proxy_node ORDER BY worker")
        return found == [(1, f"127.0.0.1:{server.port}"), (2, f"127.0.0.1:{server.port}")]

    await until(both, "both workers' rows")
    await server.stop()
    assert server.process.returncode in (0, -signal.SIGTERM)
