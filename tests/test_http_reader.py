"""Requests that ask for another protocol, targets without a path, and frames that come with the handshake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backend import Backend
from tests.clients import Http, RawWebSocket, client, handshake_headers, masked
from tests.servers import Servers
from tests.vectors_api import OK

pytestmark = pytest.mark.usefixtures("clean_logs")

H2C = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAEAAEAAAAIAAAAB")]


@pytest.mark.parametrize("lane", ["true", "false"])
@pytest.mark.parametrize("cut", [None, 1, 60, -9, -1], ids=str)
async def test_a_body_after_another_upgrade_is_a_body(servers: Servers, key: str, lane: str, cut: int | None) -> None:
    """Java's HTTP clients ask for h2c with every request, cut wherever it may be; what is pipelined is answered too."""
    server = await servers.get("uvicorn", {"EKBO_PUSH_LANE": lane})
    async with RawWebSocket.connected(server, key) as socket, Http.open(server) as http:
        raw = http.encode("POST", "/send", [("X-Kuiperbelt-Session", key), *H2C], b"hello")
        await http.write(raw[:cut])
        if cut is not None:
            await asyncio.sleep(0.05)
            await http.write(raw[cut:])
        await http.write(raw + http.encode("GET", "/ping", H2C))
        for method in ("POST", "POST", "GET"):
            assert (await http.response(method)).body == OK
        assert [await socket.frame(), await socket.frame()] == [(1, b"hello")] * 2


async def test_chunks_after_another_upgrade_are_a_body(servers: Servers, key: str) -> None:
    server = await servers.get("uvicorn")
    async with RawWebSocket.connected(server, key) as socket, Http.open(server) as http:
        head = http.encode("POST", "/send", [("X-Kuiperbelt-Session", key), ("Transfer-Encoding", "chunked"), *H2C])
        await http.write(head)
        await http.write(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n" + http.encode("GET", "/ping"))
        assert (await http.response()).body == OK
        assert (await http.response("GET")).body == OK
        assert await socket.frame() == (1, b"hello")


@pytest.mark.parametrize("path", ["/connect", "/ping", "/nowhere"])
@pytest.mark.parametrize("upgrade", ["h2c", "x", "websocket, h2c"])
async def test_no_request_is_smuggled_in_a_body(servers: Servers, key: str, path: str, upgrade: str) -> None:
    """Neither in the same piece as the head nor in the next ones."""
    server = await servers.get("uvicorn")
    async with RawWebSocket.connected(server, key) as socket, Http.open(server) as http:
        inner = http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"smuggled")
        headers = [("Connection", "upgrade"), ("Upgrade", upgrade)]
        await http.write(http.encode("POST", path, headers, b"\r\n" * 50_000 + inner))
        await http.write(http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"own"))
        await http.response()
        assert (await http.response()).body == OK
        assert await socket.frame() == (1, b"own")


@pytest.mark.parametrize(("method", "count"), [("GET", 20_000), ("POST", 10_000)], ids=["queued", "in the lane"])
async def test_a_flood_of_requests_waits_for_itself_only(
    servers: Servers, fresh: Callable[[str], str], method: str, count: int
) -> None:
    """All are answered; meanwhile they take no memory, and others have their turns."""
    pushes = 0
    server, other = await servers.get("uvicorn"), fresh("other")

    def megabytes() -> int:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) // 1024

    async def answers(http: Http) -> None:
        for _ in range(count):
            assert (await http.response(method)).status == 200

    async with client(server, other) as session, Http.open(server) as flood, Http.open(server) as http:
        before = megabytes()
        one = ("/ping", ()) if method == "GET" else ("/send", [("X-Kuiperbelt-Session", fresh("nobody"))], b"x")
        writing = asyncio.create_task(flood.write(flood.encode(method, *one) * count))
        reading = asyncio.create_task(answers(flood))
        most = before
        while not reading.done():
            assert (await http.request("POST", "/send", [("X-Kuiperbelt-Session", other)], b"x")).body == OK
            assert await session.recv() == "x"
            pushes, most = pushes + 1, max(most, megabytes())
            await asyncio.sleep(0.02)
        await asyncio.gather(reading, writing)
    assert most - before < 30
    assert pushes > 8


async def test_a_flood_of_chunks(servers: Servers, key: str) -> None:
    """Its end comes when all before it is taken."""
    server = await servers.get("uvicorn")
    async with RawWebSocket.connected(server, key) as socket, Http.open(server) as http:
        head = http.encode("POST", "/send", [("X-Kuiperbelt-Session", key), ("Transfer-Encoding", "chunked")])
        await http.write(head + b"1\r\nx\r\n" * 40_000)
        await asyncio.sleep(0.3)
        await http.write(b"0\r\n\r\n" + http.encode("GET", "/ping"))
        assert (await http.response()).body == OK
        assert (await http.response("GET")).body == OK
        assert await socket.frame() == (1, b"x" * 40_000)


@pytest.mark.parametrize("count", [0, 300])
async def test_a_handshake_and_frames_after_a_flood_of_pushes(
    servers: Servers, backend: Backend, fresh: Callable[[str], str], count: int
) -> None:
    """They come in one piece, and are taken in several."""
    server, key = await servers.get("uvicorn"), fresh("late")
    async with RawWebSocket.open(server) as socket:
        pushes = socket.encode("POST", "/send", [("X-Kuiperbelt-Session", fresh("nobody"))], b"x") * 500
        head = socket.encode("GET", f"/connect?key={key}", handshake_headers())
        frames = [b"%0100d" % number for number in range(count)]
        await socket.write(pushes + head + b"".join(masked(1, frame) for frame in frames))
        for _ in range(500):
            assert (await socket.response()).status == 200
        assert (await socket.response("GET")).status == 101
        await socket.write(masked(1, b"end"))
        got = await backend.wait("/receive", key, len(frames) + 1, timeout=20)
        assert [request.body for request in got] == [*frames, b"end"]


@pytest.mark.parametrize(
    "start",
    ["GET http:// HTTP/1.1", "GET http://x HTTP/1.1", "CONNECT a:1 HTTP/1.1", "GET http://x:99999/?t=secret HTTP/1.1",
     "CONNECT a:1 HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x"],
)  # fmt: skip
async def test_a_target_without_a_path(servers: Servers, start: str) -> None:
    """400, and nothing of it in the log."""
    server = await servers.get("uvicorn")
    async with Http.open(server) as http:
        await http.write(f"{start}\r\nHost: x\r\n\r\n".encode())
        assert b"HTTP/1.1 400 " in await http.ended()


async def test_frames_that_come_with_the_handshake(
    servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """A client must wait for the 101 (RFC 6455 section 4.1). One that doesn't loses nothing."""
    server = await servers.get("uvicorn")
    key = fresh("early")
    async with RawWebSocket.open(server) as socket:
        second = masked(1, b"second")
        head = socket.encode("GET", f"/connect?key={key}", handshake_headers())
        await socket.write(head + masked(1, b"first") + second[:4])
        assert (await socket.response("GET")).status == 101
        await socket.write(second[4:])
        got = await backend.wait("/receive", key, 2)
        assert [request.body for request in got] == [b"first", b"second"]
