"""The fault table's rows that concern backends, with prefork workers, fewer than there is to do (docs/backends.md)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.options import Options
from proxy.upstream import upstreams
from tests.at_once import at_once
from tests.backend import Answer
from tests.clients import RawWebSocket, Response, client, request, send
from tests.evidence import Evidence, Figures
from tests.prefork import WORKERS, Prefork, prefork
from tests.servers import ALONE, Server, Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

SHIELD = {"EKBO_CALLBACK_LIMIT": str(WORKERS)}
BREAKER = {"EKBO_CALLBACK_BREAKER_FAILURES": "3", "EKBO_CALLBACK_TIMEOUT": "500ms"}


async def handshake(server: Server, key: str) -> tuple[Response, float]:
    """A client's answer, and the seconds that it took."""
    began = time.monotonic()
    async with RawWebSocket.open(server) as raw:
        response = await raw.handshake(f"/connect?key={key}")
    return response, time.monotonic() - began


async def stats(server: Server) -> Any:
    return (await request(server, "GET", "/stats?format=full")).json()


def most_at_once(backend: Prefork, *paths: str) -> int:
    """How many of these requests a worker was busy with at one time."""
    asked = [request for path in paths for request in backend.asked(path)]
    spans = [(float(request["began"]), float(request["ended"])) for request in asked]
    return max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)


async def test_backend_slow_at_receive_a_connect_goes_first(
    servers: Servers, tmp_path: Path, fresh: Callable[[str], str], evidence: Evidence
) -> None:
    """30 frames of 0.2 s each are 3 s for two workers: a connect doesn't wait for them, and none of them is lost."""
    async with prefork(tmp_path, receive=0.2) as backend, contextlib.AsyncExitStack() as clients:
        server = await servers.start("uvicorn", backend.env | SHIELD)
        keys = [fresh("slow") for _ in range(15)]
        for connection in [await clients.enter_async_context(client(server, key)) for key in keys]:
            await connection.send("a")
            await connection.send("b")
        await backend.answered("/receive", 1)
        response, seconds = await handshake(server, fresh("new"))
        assert (response.status, seconds < 0.8) == (101, True)
        done = len(backend.asked("/receive"))
        assert done < 15
        assert (await send(server, keys[0])).status == 200
        assert (await stats(server))["callbacks_waiting"] > 0
        found = await backend.answered("/receive", 30)
        evidence(Figures(1, 30, max(30 - len(found), 0), max(len(found) - 30, 0), seconds))
        assert sorted(frame["key"] for frame in found) == sorted(keys * 2)
        await server.stop()


async def test_each_kind_has_its_own_limit(servers: Servers, tmp_path: Path, fresh: Callable[[str], str]) -> None:
    async with prefork(tmp_path, receive=0.05) as backend, contextlib.AsyncExitStack() as clients:
        server = await servers.start("uvicorn", backend.env | {"EKBO_RECEIVE_CALLBACK_LIMIT": "1"})
        for _ in range(8):
            connection = await clients.enter_async_context(client(server, fresh("one")))
            await connection.send("a")
        await backend.answered("/receive", 8)
        assert most_at_once(backend, "/receive") == 1
        await server.stop()


async def test_more_connects_than_workers_503_and_no_end_is_lost(
    servers: Servers, tmp_path: Path, fresh: Callable[[str], str]
) -> None:
    """A storm: some get in, the others hear at once when to come back; each that got in ends in one close event."""
    async with prefork(tmp_path, connect=0.2, close=0.05) as backend:
        server = await servers.start("uvicorn", backend.env | SHIELD | {"EKBO_CALLBACK_QUEUE_SIZE": "4"})
        keys = [fresh("storm") for _ in range(20)]
        found = dict(zip(keys, await asyncio.gather(*(handshake(server, key) for key in keys)), strict=True))
        let_in = [key for key, (response, _) in found.items() if response.status == 101]
        refused = [(response, seconds) for response, seconds in found.values() if response.status != 101]
        assert len(let_in) == WORKERS + 4
        for response, seconds in refused:
            assert (response.status, response.one("retry-after"), seconds < 1) == (503, "1", True)
            assert response.body == b"the backend is busy\n"
        assert most_at_once(backend, "/connect") == WORKERS
        assert len(backend.asked("/connect")) == len(let_in)  # the others weren't asked about
        ended = await backend.answered("/close", len(let_in))
        assert sorted(end["key"] for end in ended) == sorted(let_in)
        assert (await stats(server))["callbacks_refused"] >= len(refused)
        await server.stop()


@at_once(kind=ALONE)
async def test_backend_hanging_at_connect_503_at_once_then_back(
    servers: Servers, tmp_path: Path, fresh: Callable[[str], str], kind: str, evidence: Evidence
) -> None:
    """502 within callback.timeout, then 503 without asking, one probe at a time; pushes go on; no end is lost."""
    directory = tmp_path / kind
    directory.mkdir()
    async with prefork(directory) as backend:
        server = await servers.start(kind, backend.env | BREAKER)
        status = (502, 503) if kind == "uvicorn" else (403, 403)
        stays, leaves = fresh("stays"), fresh("leaves")
        async with client(server, stays) as connection:
            async with client(server, leaves):
                backend.signal(signal.SIGSTOP)
                refused = await asyncio.gather(*(handshake(server, fresh("hang")) for _ in range(3)))
                evidence(Figures(1, len(refused), worst=max(seconds for _, seconds in refused)))
                for response, seconds in refused:
                    assert (response.status, seconds < 1.5) == (status[0], True)
                response, seconds = await handshake(server, fresh("at-once"))
                assert (response.status, seconds < 0.3) == (status[1], True)
                if kind == "uvicorn":
                    assert response.one("retry-after") == "1"
            counted = await stats(server)
            assert (counted["backends_failing"], counted["backend_failures"]) == (1, 1)
            assert (await send(server, stays)).status == 200
            assert await connection.recv() == "hello"
            assert (await request(server, "GET", "/ping")).status == 200
            await connection.send("lost")  # the contract: logged and counted, the connection stays
            await connection.send("too")
            backend.signal(signal.SIGCONT)
            for _ in range(100):
                response, _ = await handshake(server, fresh("back"))
                if response.status == 101:
                    break
                await asyncio.sleep(0.1)
            assert response.status == 101
            ends = await backend.answered("/close", 2, timeout=20)
            assert [end["key"] for end in ends].count(leaves) == 1
            counted = await stats(server)
            assert (counted["backends_failing"], counted["receive_errors"]) == (0, 2)
        log = server.output()
        assert log.count("3 callbacks in a row without an answer") == log.count("answers again") == 1
        weren_t_made = re.search(r"answers again; (\d+) callbacks weren't made", log)
        assert weren_t_made
        assert int(weren_t_made[1]) >= 3  # a connect and both frames
        await server.stop()


async def test_backend_down_503_at_once_with_one_probe_at_a_time(servers: Servers, fresh: Callable[[str], str]) -> None:
    """Nobody answers: once the breaker is open, a storm of connects makes no connection but the probe's."""
    asked = 0

    def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    listener = await asyncio.start_server(count, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    env = {"EKBO_CONNECT_CALLBACK_URL": f"http://127.0.0.1:{port}/connect"}
    server = await servers.start("uvicorn", env | BREAKER)
    for _ in range(3):
        assert (await handshake(server, fresh("down")))[0].status == 502
    before = asked
    found = await asyncio.gather(*(handshake(server, fresh("down")) for _ in range(20)))
    assert {response.status for response, _ in found} == {503}
    assert asked == before
    await asyncio.sleep(1.1)
    found = await asyncio.gather(*(handshake(server, fresh("down")) for _ in range(20)))
    assert sorted(response.status for response, _ in found) == [502] + [503] * 19
    assert asked == before + 1
    listener.close()
    await server.stop()


async def test_answers_of_the_application_do_not_open_the_breaker(
    servers: Servers, fresh: Callable[[str], str]
) -> None:
    """A client that makes its frames fail must not be able to lock others out."""
    server = await servers.start("uvicorn", {"EKBO_CALLBACK_BREAKER_FAILURES": "1"})
    too_long = b"HTTP/1.1 200 OK\r\nX-Echo: " + 9000 * b"x" + b"\r\nContent-Length: 0\r\n\r\n"
    for answer, status in (
        (Answer(status=503), 503),
        (Answer(status=431), 431),
        (Answer(raw=too_long), 502),  # what the client sent, in a header of the answer
        (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), 502),
    ):
        key = fresh("refused")
        servers.backend.on("/connect", key, answer)
        assert (await handshake(server, key))[0].status == status
    assert (await handshake(server, fresh("welcome")))[0].status == 101
    await server.stop()


async def test_large_headers_of_a_client_do_not_open_the_breaker(
    servers: Servers, tmp_path: Path, fresh: Callable[[str], str]
) -> None:
    """A real server's answer to them is one."""
    async with prefork(tmp_path) as backend:
        server = await servers.start("uvicorn", backend.env | {"EKBO_CALLBACK_BREAKER_FAILURES": "1"})
        for size, status in ((9_000, 431), (30_000, 431)):
            async with RawWebSocket.open(server) as raw:
                assert (await raw.handshake("/connect", [("X-Large", "a" * size)])).status == status
        assert (await handshake(server, fresh("a" * 7_000)))[0].status == 414
        assert (await handshake(server, fresh("welcome")))[0].status == 101
        await server.stop()


def test_the_log_names_no_user_and_password(caplog: pytest.LogCaptureFixture) -> None:
    urls = {f"{kind}_callback": f"http://{kind}:hunter2@a:81/" for kind in ("connect", "close")}
    found = upstreams(Options(**urls, breaker_failures=1))  # type: ignore[arg-type]
    assert found["connect"] is found["close"]
    found["connect"]._breaker.failed(0)
    assert "backend http://a:81: 1 callbacks" in caplog.text
    assert "hunter2" not in caplog.text


def test_without_configuration_nothing_stands_in_between() -> None:
    options = Options(
        connect_callback="http://a/connect", receive_callback="http://b/receive", close_callback="http://a/close"
    )
    assert upstreams(options) == {}
    found = upstreams(replace(options, callback_limit=2))
    assert set(found) == {"connect", "receive", "close"}
    assert found["connect"] is found["close"] is not found["receive"]
