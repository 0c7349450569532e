"""The push lane beside the Django view: the same bytes in, the same bytes out, and the same frames to the sessions.

The contract's rows run through both as well: on uvicorn through the lane, on daphne through the view.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from bench.processes import cpu_seconds
from proxy.server import HttpProtocol
from tests.clients import CLOSE, TIMEOUT, Http, RawWebSocket, close, handshake_headers, request
from tests.fuzzing import World, examples
from tests.redis_servers import eventually
from tests.servers import Server, Servers, free_port
from tests.vectors_api import OK

DATE = re.compile(rb"\r\ndate: [^\r]+")
LIMIT = 1000  # bytes of a body
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""After it the server hangs up, so that all answers are there."""

pytestmark = pytest.mark.usefixtures("clean_logs")


class Pair(World):
    """A server with the lane and one without, for hypothesis' examples."""

    def __init__(self, logs: Path) -> None:
        super().__init__(logs)
        self.numbers = itertools.count(10_000)
        self.lane: Server
        self.view: Server

    async def start(self) -> None:
        await super().start()
        env = {"EKBO_MAX_BODY_SIZE": str(LIMIT), "EKBO_STRICT_BROADCAST_MODE_SWITCH": "true"}
        self.lane, self.view = await asyncio.gather(
            *(self.servers.start("uvicorn", env | {"EKBO_PUSH_LANE": on}) for on in ("true", "false"))
        )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair.running(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


# Random requests. {a} and {b} stand for sessions of the example.

session = st.sampled_from([["{a}"], ["{a}"], ["{b}"], ["{a}", "{b}"], ["{a},{b}"], ["{a},{a}"], [], ["x y"], ["gone"]])
close_code = st.integers().map(str) | st.text("0123456789+-_ .e", max_size=6)
close_reason = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=150)
target = st.sampled_from(
    ["/send", "/send", "/send", "/close", "/send?a=b", "/se%6ed", "//send", "/ping", "/nowhere", "http://x/send", "*"]
)
method = st.sampled_from(["POST", "POST", "POST", "POST", "GET", "PUT", "HEAD", "OPTIONS"])
body = st.one_of(
    st.just(b"hello"), st.text(max_size=9).map(str.encode), st.binary(max_size=9), st.just(b"y" * (LIMIT + 1))
)
more = st.one_of(
    st.sampled_from(
        [
            "Content-Type: application/octet-stream",
            "content-type: text/plain; charset=utf-8",
            "Content-Type: Application/Octet-Stream ; a=b",
            "X-Kuiperbelt-Close-Code: 4100",
            "X-Kuiperbelt-Close-Code: 1005",
            "X-Kuiperbelt-Close-Reason: bye",
            "X-Kuiperbelt-Close-Callback: true",
            "X-Kuiperbelt-Close-Callback: yes",
            "Authorization: Bearer nothing",
            "X-Forwarded-For: 1.2.3.4",
            "Expect: 100-continue",
            "Connection: keep-alive",
            "Cookie: a=b",
        ]
    ),
    close_code.map("X-Kuiperbelt-Close-Code: {}".format),
    close_reason.map("X-Kuiperbelt-Close-Reason: {}".format),
)
framing = st.sampled_from(["length", "length", "length", "length", "chunked"])


@dataclass
class Push:
    """One request."""

    method: str
    target: str
    sessions: list[str]
    more: list[str]
    body: bytes
    framing: str

    def encode(self, version: str = "1.1", *extra: str) -> bytes:
        """Its bytes."""
        lines = [f"{self.method} {self.target} HTTP/{version}", "Host: x", *self.more, *extra]
        lines += [f"X-Kuiperbelt-Session: {value}" for value in self.sessions]
        body = self.body
        if self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
            pieces = [body[:3], body[3:]]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"
        else:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


pushes = st.builds(Push, method, target, session, st.lists(more, max_size=2), body, framing)


cuts_anywhere = st.lists(st.integers(0, 1200), max_size=6)
changes = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 3), st.binary(max_size=3)), max_size=3)
"""Where how many bytes become which others."""


@examples(120)
@given(st.lists(pushes, min_size=1, max_size=5), changes | st.just([]), cuts_anywhere)
def test_lane_and_view_do_the_same(
    pair: Pair, requests: list[Push], changed: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    """Random requests on one connection, pipelined, damaged, cut anywhere: the same bytes as answers and as frames."""
    raw = b"".join(push.encode() for push in requests)
    for at, count, new in changed:
        raw = raw[:at] + new + raw[at + count :]
    number = next(pair.numbers)
    keys = [f"{number}a", f"{number}b"]
    raw = raw.replace(b"{a}", keys[0].encode()).replace(b"{b}", keys[1].encode())
    pieces = [raw[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(raw)])]
    by_lane, by_view = (pair.do(conversation(server, keys, [*pieces, PING])) for server in (pair.lane, pair.view))
    if changed:
        # What can't be read ends the connection. With it answers may be lost that aren't written or read yet, and, by
        # the view, what had come in just before, which it does a moment later than the lane.
        for lane, view in zip(by_lane[1], by_view[1], strict=True):
            assert [frame for frame in lane if frame[0] != CLOSE][: len(view) - 1] == view[:-1]
        assert not [answers for answers in (by_lane[0], by_view[0]) if b"HTTP/1.1 5" in answers]
    else:
        assert by_lane == by_view


async def conversation(
    server: Server, keys: Sequence[str], pieces: Sequence[bytes], pause: float = 0.001
) -> tuple[bytes, list[list[tuple[int, bytes]]]]:
    """What the caller gets, less its date, and what each session gets, up to its Close frame; `pause` is in seconds."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawWebSocket.connected(server, key)) for key in keys]
        said = await answers(server, pieces, pause)
        for key in keys:
            await close(server, key)
        return DATE.sub(b"", said), [await frames(client) for client in clients]


async def answers(server: Server, pieces: Sequence[bytes], pause: float) -> bytes:
    """Until the server hangs up. Not by asyncio's streams: they forget what has come in when a write fails."""
    loop = asyncio.get_running_loop()
    said = bytearray()
    assert not isinstance(server.address, str)
    with socket.create_connection(server.address) as connection:
        connection.setblocking(False)
        async with asyncio.timeout(TIMEOUT):
            for piece in pieces:
                with contextlib.suppress(ConnectionError):
                    await loop.sock_sendall(connection, piece)
                await asyncio.sleep(pause)  # so that it arrives as a piece
            with contextlib.suppress(ConnectionError):
                while data := await loop.sock_recv(connection, 65536):
                    said += data
    return bytes(said)


async def frames(client: RawWebSocket) -> list[tuple[int, bytes]]:
    """All frames up to Close."""
    got = [await client.frame()]
    while got[-1][0] != 8:
        got.append(await client.frame())
    return got


HELLO = Push("POST", "/send", ["{a}"], [], b"hello", "length")


def with_length(line: str) -> bytes:
    """A push whose framing is this."""
    return HELLO.encode().replace(b"Content-Length: 5\r\n", line.encode())


@pytest.mark.parametrize(
    "raw",
    [
        HELLO.encode("1.0"),
        HELLO.encode("1.0", "Connection: keep-alive") + PING,
        HELLO.encode("1.0", "Proxy-Connection: keep-alive"),
        HELLO.encode("1.1", "Connection: close"),
        HELLO.encode("1.1", "Upgrade: websocket", "Connection: upgrade"),
        HELLO.encode("1.1", "Upgrade: h2c", "Connection: upgrade, close"),
        HELLO.encode("1.1", "Content-Length: 5"),
        HELLO.encode("1.1", "Transfer-Encoding: chunked"),
        with_length("Content-Length: -5\r\n"),
        with_length("Content-Length: +5\r\n"),
        with_length("Content-Length: 99999999999999999999\r\n"),
        with_length("Content-Length: 0005\r\n") + PING,
        with_length("Content-Length:\r\n") + PING,
        with_length("")[:-5] + PING,
        HELLO.encode().replace(b"Host: x", b"Host:x\r\n folded: y"),
        HELLO.encode().replace(b"Host: x", b"Ho st: x"),
        HELLO.encode().replace(b" HTTP/1.1", b" HTTP/2.0"),
        HELLO.encode()[:-1] + b"\xff" + PING,
    ],
)
def test_odd_requests(pair: Pair, raw: bytes) -> None:
    """Each ends its connection."""
    key = str(next(pair.numbers))
    raw = raw.replace(b"{a}", key.encode())
    by_lane, by_view = (pair.do(conversation(server, [key], [raw])) for server in (pair.lane, pair.view))
    assert by_lane == by_view


# What waits, and what comes meanwhile.

SLOW = {
    "EKBO_SEND_QUEUE_SIZE": "2",
    "EKBO_SEND_TIMEOUT": "1s",
    "EKBO_BLOCKED_TIMEOUT": "60s",
    "EKBO_MAX_BACKLOG_SIZE": "100000000",
}


async def test_what_is_pipelined_after_a_push_that_waits_waits_too(servers: Servers, key: str) -> None:
    """A session that doesn't read: its pushes wait for send_timeout, and the answers keep their order."""
    server = await servers.get("uvicorn", SLOW)
    async with RawWebSocket.connected(server, key, receive_buffer=2048), Http.open(server) as http:
        big = http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"x" * 1024 * 1024)
        ping = http.encode("GET", "/ping")
        writing = asyncio.create_task(http.write((big + ping) * 10))
        bodies = []
        for _ in range(10):
            bodies.append((await http.response()).body)
            assert (await http.response("GET")).body == OK
        await writing
    assert bodies[0] == OK
    assert bodies[-1] != OK


async def test_the_caller_hangs_up_while_its_push_waits(servers: Servers, key: str) -> None:
    """Nothing is written to a closed connection, and the server goes on."""
    server = await servers.get("uvicorn", SLOW)
    async with RawWebSocket.connected(server, key, receive_buffer=2048):
        for _ in range(10):
            async with Http.open(server) as http:
                await http.write(http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"x" * 1024 * 1024))
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.1)
        assert (await request(server, "GET", "/ping")).body == OK


async def test_sigterm_in_the_middle_of_a_push(servers: Servers, key: str) -> None:
    """One whose body is half here is still answered; then the connection ends."""
    server = await servers.start("uvicorn")
    async with RawWebSocket.connected(server, key), Http.open(server) as http:
        raw = http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"0123456789")
        await http.write(raw[:-1])
        await asyncio.sleep(0.1)
        server.signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        await http.write(raw[-1:])
        answer = await http.response()
        assert answer.status == 200
        assert answer.one("connection") == "close"
        assert await http.ended() == b""
    assert await server.stop() == 0


async def test_sigterm_while_a_push_waits(servers: Servers, key: str) -> None:
    """It is answered with what became of it, and the connection ends."""
    server = await servers.start("uvicorn", SLOW)
    async with RawWebSocket.connected(server, key, receive_buffer=2048), Http.open(server) as http:
        big = http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"x" * 1024 * 1024)
        with contextlib.suppress(TimeoutError):
            for _ in range(20):
                await http.write(big)
                await http.response(timeout=0.4)
        server.signal(signal.SIGTERM)
        last = await http.response()
        assert last.one("connection") == "close"
        assert last.body != OK
    assert await server.stop() == 0


async def waits(server: Server, key: str, http: Http) -> None:
    """Push over this connection until the session, whose client doesn't read, lets one wait."""
    with contextlib.suppress(TimeoutError):
        for _ in range(30):
            await http.write(http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"x" * 1024 * 1024))
            await http.response(timeout=0.3)
        raise AssertionError("no push waits")


async def test_no_handshake_behind_a_push_that_waits(servers: Servers, key: str, fresh: Callable[[str], str]) -> None:
    """Its answer would come in the middle of the frames."""
    server = await servers.get("uvicorn", SLOW)
    async with RawWebSocket.connected(server, key, receive_buffer=2048), RawWebSocket.open(server) as http:
        await waits(server, key, http)
        await http.write(http.encode("GET", f"/connect?key={fresh('k')}", handshake_headers()))
        assert (await http.ended()).startswith(b"HTTP/1.1 400 ")


async def test_a_handshake_behind_a_push_that_is_answered(servers: Servers, fresh: Callable[[str], str]) -> None:
    server = await servers.get("uvicorn", SLOW)
    key = fresh("k")
    async with RawWebSocket.open(server) as http:
        push = http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"x")
        await http.write(push + http.encode("GET", f"/connect?key={key}", handshake_headers()))
        assert (await http.response()).status == 200
        assert (await http.response("GET")).status == 101
        await request(server, "POST", "/send", [("X-Kuiperbelt-Session", key)], b"y")
        assert await http.frame() == (1, b"y")


async def test_garbage_behind_a_push_that_waits(servers: Servers, key: str) -> None:
    """The connection ends, and nothing is written to it afterwards."""
    server = await servers.get("uvicorn", SLOW)
    async with RawWebSocket.connected(server, key, receive_buffer=2048), Http.open(server) as http:
        await waits(server, key, http)
        await http.write(http.encode("GET", "/ping") + b"\0garbage\r\n\r\n")
        assert b" 400 " in await http.ended()
        await asyncio.sleep(1.1)


async def test_sigterm_while_a_push_to_another_process_waits(servers: Servers, key: str) -> None:
    """That session goes on, so nothing is known of the frame, but the caller is told in time."""
    front = await servers.start("cluster", SLOW | {"EKBO_SEND_TIMEOUT": "20s"})
    async with RawWebSocket.connected(front, key, receive_buffer=2048), Http.open(front.api) as http:
        await waits(front, key, http)
        front.api.signal(signal.SIGTERM)
        answer = await http.response(timeout=8)
        assert (answer.status, answer.one("connection")) == (503, "close")
        assert b"shutting down" in answer.body
    assert await front.stop() == 0


async def test_a_trailer_is_no_header(servers: Servers, key: str) -> None:
    server = await servers.get("uvicorn")
    async with Http.open(server) as http:
        trailer = f"X-Kuiperbelt-Session: {key}\r\n\r\n".encode()
        await http.write(
            http.encode("POST", "/send", [("Transfer-Encoding", "chunked")]) + b"1\r\nx\r\n0\r\n" + trailer
        )
        answer = await http.response()
        assert (answer.status, b"session header is missing" in answer.body) == (400, True)


async def test_the_keep_alive_time_out_ends_no_request_that_came_with_the_last_one() -> None:
    config: Any = uvicorn.Config(print, timeout_keep_alive=1, log_config=None, lifespan="off")
    config.load()
    server = await asyncio.get_running_loop().create_server(
        partial(HttpProtocol, config, ServerState(), {}), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    push = HELLO.encode().replace(b"{a}", b"nobody")
    writer.write(push + push[:-2])
    await asyncio.sleep(1.4)
    writer.write(push[-2:])
    for _ in range(2):
        assert b" 200 OK\r\n" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
        await reader.readuntil(b"}\n")
    assert await asyncio.wait_for(reader.read(), 3) == b""
    writer.close()
    server.close()


async def test_a_mistake_of_ours_while_a_request_comes_in_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """To uvicorn it is a request that can't be read."""

    class Mistaken(HttpProtocol):
        def on_header(self, name: bytes, value: bytes) -> None:
            raise RuntimeError("a mistake")

    config: Any = uvicorn.Config(print, log_config=None, lifespan="off")
    config.load()
    server = await asyncio.get_running_loop().create_server(
        partial(Mistaken, config, ServerState(), {}), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(PING)
    assert b" 400 " in await asyncio.wait_for(reader.read(), 3)
    assert "a mistake" in caplog.text
    caplog.clear()
    writer.close()
    server.close()


# Options


async def test_keys_changed_by_sighup_count_in_the_lane(servers: Servers, tmp_path: Path, key: str) -> None:
    file = tmp_path / "keys"
    file.write_text("first-key-0123456789abcdef\n")
    server = await servers.start("uvicorn", {"EKBO_API_KEYS_FILE": str(file)})
    to = ("X-Kuiperbelt-Session", key)
    old, new = (("Authorization", f"Bearer {name}-key-0123456789abcdef") for name in ("first", "second"))
    async with Http.open(server) as http:
        assert (await http.request("POST", "/send", [to, old], b"a")).status == 200
        file.write_text("second-key-0123456789abcdef\n")
        server.signal(signal.SIGHUP)

        async def taken() -> bool:
            return (await http.request("POST", "/send", [to, new], b"b")).status == 200

        await eventually(taken, "the new key", 5)
        assert (await http.request("POST", "/send", [to, old], b"c")).status == 401
    await server.stop()


async def test_none_on_the_public_listener_if_the_api_has_its_own(
    servers: Servers, fresh: Callable[[str], str]
) -> None:
    server = await servers.start("uvicorn", {"EKBO_API_PORT": str(free_port())})
    headers = [("X-Kuiperbelt-Session", fresh("k"))]
    assert (await request(server, "POST", "/send", headers, b"x")).status == 404
    assert (await request(server.api, "POST", "/send", headers, b"x")).status == 200
    await server.stop()


async def test_access_log(servers: Servers, key: str) -> None:
    """A line per push, as the view writes it."""
    for on in ("true", "false"):
        server = await servers.start("uvicorn", {"EKBO_PUSH_LANE": on})
        await request(server, "POST", "/send", [("X-Kuiperbelt-Session", key)], b"x")
        await server.stop()
        assert re.search(r"POST /send 200 0\.\d{6} request [0-9a-f]{16}\n", server.output())


async def test_a_big_body_is_not_copied_for_each_of_its_pieces(servers: Servers) -> None:
    """96 MiB in pieces of 64 KiB would be 72 GiB of copying, a quarter of a minute or more."""
    server = await servers.start("uvicorn", {"EKBO_MAX_BODY_SIZE": str(1 << 27)})
    headers = [("X-Kuiperbelt-Session", "nobody"), ("Content-Type", "application/octet-stream")]
    before = cpu_seconds(server.process.pid)
    async with Http.open(server) as http:
        answer = await http.request("POST", "/send", headers, bytes(96 << 20))
    assert (answer.status, b"not found" in answer.body) == (200, True)
    assert cpu_seconds(server.process.pid) - before < 4
    await server.stop()
