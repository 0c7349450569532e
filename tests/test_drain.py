"""Drain: SIGTERM closes sessions one by one over the window, with 1012, and the backend hears of each."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from proxy.drain import Drain
from tests.at_once import at_once
from tests.backend import Answer, Backend
from tests.clients import Http, client, ending, request
from tests.evidence import Evidence, Figures
from tests.servers import Server, Servers
from tests.test_registry import file

pytestmark = pytest.mark.usefixtures("clean_logs")

SESSIONS = 20
WINDOW = 2.0  # seconds
SLOW_ENDS = 1.2 / SESSIONS  # seconds for the end of each, at a server that is instrumented


async def test_spread() -> None:
    drain = Drain()
    began = time.monotonic()
    alive = {*range(20)}
    closed: list[float] = []

    def close(number: int) -> None:
        alive.discard(number)
        closed.append(time.monotonic() - began)

    await drain.spread(range(20), alive, close, 0.5)
    assert not alive
    assert 0.4 < closed[-1] < 0.8
    for number, moment in enumerate(closed[:15]):  # each in its own share of the window
        assert number / 20 * 0.5 <= moment


async def test_nobody_waits_for_those_that_have_gone() -> None:
    began = time.monotonic()
    await Drain().spread(range(20), set(), {0}.remove, 5.0)
    assert time.monotonic() - began < 1


async def test_a_second_signal_hurries() -> None:
    drain = Drain()
    drain.on_signal()
    assert drain.begun
    assert not drain.hurried
    alive = {*range(20)}
    asyncio.get_running_loop().call_later(0.2, drain.on_signal)
    began = time.monotonic()
    await drain.spread(range(20), alive, alive.discard, 30.0)
    assert not alive
    assert time.monotonic() - began < 2


@contextlib.asynccontextmanager
async def full(
    servers: Servers, kind: str, window: float, fresh: Callable[[str], str]
) -> AsyncIterator[tuple[Server, dict[str, ClientConnection]]]:
    """A server of its own, with sessions by their keys."""
    env = {"EKBO_DRAIN_WINDOW": f"{window:g}s", "SLOW_ENDS": f"{SLOW_ENDS:g}"}
    server = await servers.start(kind, env | (servers.cluster_env() if kind == "workers" else {}))
    async with contextlib.AsyncExitStack() as stack:
        keys = [fresh("drain") for _ in range(SESSIONS)]
        yield server, {key: await stack.enter_async_context(client(server, key)) for key in keys}


@at_once(kind=["uvicorn", "workers", "daphne"])
async def test_deploy(
    servers: Servers, backend: Backend, kind: str, fresh: Callable[[str], str], evidence: Evidence
) -> None:
    """Readiness flips first, who is still connected is served, closes are spread, and the end keeps its time."""
    async with (
        full(servers, kind, WINDOW, fresh) as (server, clients),
        Http.open(server) as http,
        Http.open(server) as on,
        Http.open(server) as batch,
    ):
        assert (await http.request("GET", "/ready")).status == 200
        under_way = on.encode("POST", "/send", [("X-Kuiperbelt-Session", next(iter(clients)))], b"under way")
        await on.write(under_way[:-1])
        await batch.write(b"POST /batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.1)  # both have come in
        began = time.monotonic()
        moments: list[float] = []

        async def end(connection: ClientConnection) -> int | None:
            code = (await ending(connection)).code
            moments.append(time.monotonic() - began)
            return code

        server.signal(signal.SIGTERM)  # to workers too, as a service manager does
        codes = [asyncio.create_task(end(connection)) for connection in clients.values()]
        await asyncio.sleep(0.3)
        answer = await request(server, "GET", "/ready")
        assert answer.status == 503
        assert b"shutting down" in answer.body
        with pytest.raises(InvalidStatus) as refused:
            async with client(server, fresh("late")):
                pass
        if kind == "daphne":
            assert refused.value.response.status_code == 403
        else:
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"] == "1"
        assert len(moments) < SESSIONS / 2
        still = next(key for (key, _), task in zip(clients.items(), reversed(codes), strict=False) if not task.done())
        pushed = await http.request("POST", "/send", [("X-Kuiperbelt-Session", still)], b"x")
        await on.write(under_way[-1:])
        for answer in (pushed, await on.response()):
            assert answer.status == 200
            if kind != "daphne":  # or who keeps connections would ask again just as the process goes
                assert answer.one("Connection") == "close"
        await batch.write(b"0\r\n\r\n")
        if kind != "daphne":
            await batch.ended()
            assert (await request(server, "GET", "/ping")).status == 200  # it wasn't the end that ended it
        assert {*await asyncio.gather(*codes)} == {4012 if kind == "daphne" else 1012}
        await asyncio.wait_for(server.process.wait(), 5)
        evidence(Figures(1, len(clients), worst=time.monotonic() - began))
        assert moments[-1] > WINDOW / 2
        assert sum(moment < WINDOW / 2 for moment in moments) in range(SESSIONS // 4, SESSIONS - SESSIONS // 4 + 1)
        assert server.process.returncode == 0
        for key in clients:
            (closed,) = await backend.wait("/close", key)
            assert closed.one("X-Kuiperbelt-Close-Reason") == "shutdown"


@at_once(kind=["uvicorn", "workers", "instrumented-daphne"])
async def test_a_second_sigterm_ends_at_once(servers: Servers, kind: str, fresh: Callable[[str], str]) -> None:
    """With a Close for everybody, also when the ends of all together take longer than daphne waits for an answer."""
    async with full(servers, kind, 60, fresh) as (server, clients):
        server.process.terminate()
        await asyncio.sleep(0.5)
        began = time.monotonic()
        server.process.terminate()
        codes = {(await ending(connection)).code for connection in clients.values()}
        assert codes == {4012 if "daphne" in kind else 1012}
        await asyncio.wait_for(server.process.wait(), 5)
        assert time.monotonic() - began < 4
        assert server.process.returncode == 0


@at_once(kind=["uvicorn", "workers"])
async def test_ctrl_c_does_not_drain(servers: Servers, kind: str, fresh: Callable[[str], str]) -> None:
    async with full(servers, kind, 60, fresh) as (server, clients):
        began = time.monotonic()
        server.signal(signal.SIGINT)
        assert {(await ending(connection)).code for connection in clients.values()} == {1012}
        await asyncio.wait_for(server.process.wait(), 5)
        assert time.monotonic() - began < 4


async def backend_hangs_without_a_registry(servers: Servers, backend: Backend, key: str) -> None:
    env = {"EKBO_DRAIN_WINDOW": "500ms", "EKBO_CALLBACK_TIMEOUT": "20s", "EKBO_REGISTRY": "false"}
    server = await servers.start("uvicorn", env)
    backend.on("/close", key, Answer(delay=15.0))
    async with client(server, key):
        began = time.monotonic()
        server.process.terminate()
        await asyncio.wait_for(server.process.wait(), 8)
        assert 2 < time.monotonic() - began < 0.5 + 5
    assert "1 sessions: the backend wasn't told of their ends in time" in server.output()


async def database_hangs_too(servers: Servers, backend: Backend, key: str, **tracing: str) -> None:
    server = await servers.start("uvicorn", {"EKBO_CALLBACK_TIMEOUT": "20s"} | tracing)
    backend.on("/close", key, Answer(delay=15.0))
    async with client(server, key):
        with contextlib.closing(sqlite3.connect(file(server), isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            server.process.terminate()
            assert await asyncio.wait_for(server.process.wait(), 8) == 0
            assert 2 < time.monotonic() - began < 5


async def collector_of_spans_hangs_too(servers: Servers, backend: Backend, key: str) -> None:
    """So all of the time that is left for the end is used up."""
    with socket.create_server(("127.0.0.1", 0)) as hangs:  # who connects waits in its backlog
        place = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        await database_hangs_too(servers, backend, key, EKBO_TRACING="spans", OTEL_EXPORTER_OTLP_ENDPOINT=place)


async def backend_hangs_until_the_next_process(servers: Servers, backend: Backend, key: str) -> None:
    """What it didn't hear in time it is told again, under the same event id."""
    server = await servers.start("uvicorn", {"EKBO_DRAIN_WINDOW": "500ms", "EKBO_CALLBACK_TIMEOUT": "7s"})
    backend.on("/close", key, Answer(delay=15.0))
    async with client(server, key) as connection:
        began = time.monotonic()
        server.process.terminate()
        assert (await ending(connection)).code == 1012
        await asyncio.wait_for(server.process.wait(), 8)
        assert time.monotonic() - began < 0.5 + 5
    backend.on("/close", key, Answer())
    await server.restart()
    first, second = await backend.wait("/close", key, 2, timeout=30)
    assert first.one("X-Kuiperbelt-Event-Id") == second.one("X-Kuiperbelt-Event-Id")
    await server.stop()


@at_once(
    end=[
        backend_hangs_without_a_registry,
        database_hangs_too,
        collector_of_spans_hangs_too,
        backend_hangs_until_the_next_process,
    ]
)
async def test_the_end_keeps_its_time_whatever_hangs(
    end: Callable[[Servers, Backend, str], Awaitable[None]], servers: Servers, backend: Backend, key: str
) -> None:
    await end(servers, backend, key)


@at_once(kind=["uvicorn", "workers"])
async def test_sighup_while_it_ends(servers: Servers, backend: Backend, kind: str, fresh: Callable[[str], str]) -> None:
    """It is read, and never lethal, however late."""
    async with full(servers, kind, 0.5, fresh) as (server, clients):
        server.process.terminate()
        while server.process.returncode is None:
            server.signal(signal.SIGHUP)
            await asyncio.sleep(0.005)
        assert server.process.returncode == 0
        assert "configuration: read anew" in server.output()
        for key in clients:
            await backend.wait("/close", key)
        assert "signal" not in server.output()  # a worker that died of one
