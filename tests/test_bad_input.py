"""Bad input from API callers, clients and backends: no traceback, no 500, nothing delivered, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
from collections.abc import Callable

import pytest

from tests.backend import Answer, Backend, reset, welcome
from tests.clients import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Http,
    RawWebSocket,
    client,
    close,
    handshake_headers,
    masked,
    receive,
    send,
)
from tests.evidence import Evidence, Figures
from tests.servers import ALONE, Servers
from tests.vectors import each_of
from tests.vectors_api import OK, not_found

pytestmark = pytest.mark.usefixtures("clean_logs")
kind = each_of(ALONE)  # input is refused before another node could take part

# What callers of the API send. `{key}` is a connected session, which must get nothing.
HEAD = b"POST /send HTTP/1.1\r\nHost: x\r\nX-Kuiperbelt-Session: {key}\r\n"
REFUSED: dict[str, bytes] = {
    "both lengths": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "negative length": HEAD + b"Content-Length: -5\r\n\r\nhello",
    "length that is no number": HEAD + b"Content-Length: five\r\n\r\nhello",
    "bad chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "control byte in the key": HEAD[:-2] + b"\x01\r\nContent-Length: 2\r\n\r\nhi",
    "NUL in the key": HEAD[:-2] + b"\0\r\nContent-Length: 2\r\n\r\nhi",
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"POST /send\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

HUNG_UP: dict[str, bytes] = {
    "short body": HEAD + b"Content-Length: 10\r\n\r\nhello",
    "no body": HEAD + b"Content-Length: 10\r\n\r\n",
    "half of a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nA\r\nhello",
    "no last chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "half of the head": HEAD,
    "half of a line": HEAD[:30],
    "nothing": b"",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_api_refuses(kind: str, name: str, servers: Servers, key: str) -> None:
    """400, or the connection is closed without an answer; the session gets nothing."""
    server = await servers.get(kind)
    async with client(server, key) as connection:
        async with Http.open(server) as http:
            await http.write(REFUSED[name].replace(b"{key}", key.encode()))
            answer = await http.ended() if name in ("garbage", "no version", "HTTP/2 preface") else await first(http)
            assert answer == b"" or answer.split(b" ")[1].startswith(b"4"), answer
        assert (await send(server, key, b"marker")).body == OK
        assert await receive(connection) == "marker"


async def first(http: Http) -> bytes:
    """The first line of an answer; empty if the server just hangs up."""
    async with asyncio.timeout(5):
        try:
            return await http.reader.readuntil(b"\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_api_hang_up(kind: str, how: str, servers: Servers, key: str) -> None:
    """Requests that stop half-way send nothing, and each leaves the server in order."""
    server = await servers.get(kind)
    async with client(server, key) as connection:
        for data in HUNG_UP.values():
            async with Http.open(server) as http:
                await http.write(data.replace(b"{key}", key.encode()))
                await asyncio.sleep(0.02)
                if how == "RST":
                    reset(http.writer)
        assert (await send(server, key, b"marker")).body == OK
        assert await receive(connection) == "marker"


async def test_api_noise(kind: str, servers: Servers, key: str) -> None:
    """Requests with bytes changed at random: whatever the answers, none is 500 and the server lives."""
    server = await servers.get(kind)
    rng = random.Random(20)
    async with client(server, key) as connection:
        for _ in range(150):
            data = bytearray(HEAD.replace(b"{key}", b"nobody") + b"Content-Length: 5\r\n\r\nhello")
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            async with Http.open(server) as http:
                await http.write(bytes(data))
                http.writer.write_eof()
                try:
                    async with asyncio.timeout(0.5):
                        line = await http.reader.readuntil(b"\r\n")
                except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
                    continue
                assert b" 500 " not in line, bytes(data)
        assert (await send(server, key, b"marker")).body == OK
        assert await receive(connection) == "marker"


@pytest.mark.parametrize(
    "headers",
    [[("X-Long", "l" * 100_000)], [(f"X-{number}", "v") for number in range(2000)], [("X-" + "n" * 70_000, "v")]],
    ids=["long value", "many", "long name"],
)
@pytest.mark.parametrize("path", ["/send", "/connect"])
async def test_large_heads(
    kind: str, path: str, headers: list[tuple[str, str]], servers: Servers, backend: Backend, key: str
) -> None:
    """Too many or too long headers are refused (or borne), and a refused client leaves no session behind."""
    server = await servers.get(kind)
    async with Http.open(server) as http:
        if path == "/send":
            data = http.encode("POST", "/send", [("X-Kuiperbelt-Session", key), *headers], b"x")
        else:
            data = http.encode("GET", f"/connect?key={key}", [*handshake_headers(), *headers])
        await http.write(data)
        line = await first(http)
        if (kind, path) == ("uvicorn", "/connect"):
            assert b" 431 " in line
        assert line == b"" or line.split(b" ")[1] in (b"101", b"200", b"400", b"403", b"413", b"431", b"502"), line
    if b" 101 " in line:
        await backend.wait("/close", key)
    assert (await send(server, key)).body == not_found(key)


@pytest.mark.parametrize(
    "before", [b"", b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"], ids=["head", "trailers"]
)
async def test_a_head_without_end(before: bytes, servers: Servers) -> None:
    """It is neither kept, nor read until header_timeout or body_timeout; daphne has no limit."""
    async with Http.open(await servers.get("uvicorn")) as http:
        await http.write(b"POST /send HTTP/1.1\r\nHost: a\r\n" + before)
        for number in range(600):
            await http.write(b"X-%d: %s\r\n" % (number, b"v" * 1000))
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                answer = await http.reader.read()
                assert answer.startswith(b"HTTP/1.1 431 ") or before
                assert b" 200 " not in answer


# What clients send after their handshake

LIMIT = {"EKBO_MAX_MESSAGE_SIZE": "1000"}
DROPPED = (None,)
"""daphne drops clients that break the protocol without a Close frame."""
FRAMES: dict[str, tuple[bytes, tuple[int | None, ...], tuple[int | None, ...]]] = {
    "oversize message": (masked(TEXT, b"x" * 1001), (1009,), (4009,)),
    "oversize binary message": (masked(BINARY, b"x" * 70_000), (1009,), (4009,)),
    "oversize sum of fragments": (masked(TEXT, b"x" * 600, fin=False) + masked(0, b"x" * 600), (1009,), (4009,)),
    "oversize sum of many fragments": (
        masked(TEXT, b"x", fin=False) + b"".join(masked(0, b"x", fin=False) for _ in range(1100)) + masked(0),
        (1009,),
        (4009,),
    ),
    "length of 2**63": (b"\x82\xff" + b"\xff" * 8 + b"mask", (1002, 1009, None), DROPPED),
    "announced giant": (b"\x82\xff" + b"\x00\x00\x00\xff\x00\x00\x00\x00" + b"mask", (1009,), DROPPED),
    "invalid UTF-8": (masked(TEXT, b"ab\xff"), (1007,), DROPPED),
    "UTF-8 cut at the end": (masked(TEXT, b"ab\xc3"), (1007,), DROPPED),
    "unmasked frame": (b"\x81\x02hi", (1002,), DROPPED),
    "reserved opcode": (masked(3, b"hi"), (1002,), DROPPED),
    "reserved bit": (bytes([0x41 | 0x80]) + masked(TEXT, b"hi")[1:], (1002,), DROPPED),
    "continuation of nothing": (masked(0, b"hi"), (1002,), DROPPED),
    "long ping": (masked(PING, b"x" * 126), (1002,), DROPPED),
    "fragmented ping": (masked(PING, b"x", fin=False), (1002,), DROPPED),
    "close with one byte": (masked(8, b"\x03"), (1002,), DROPPED),
    "close with code 1005": (masked(8, b"\x03\xed"), (1002,), DROPPED),
    "close with reason that is not UTF-8": (masked(8, b"\x03\xe8\xff"), (1002, 1007), DROPPED),
}


@pytest.mark.parametrize("name", FRAMES)
async def test_bad_frames(kind: str, name: str, servers: Servers, backend: Backend, key: str) -> None:
    """The right Close code, one close event, nothing received, nobody registered."""
    server = await servers.get(kind, LIMIT)
    data, codes, daphne = FRAMES[name]
    async with RawWebSocket.connected(server, key) as raw:
        await backend.wait("/establish", key)
        await raw.write(data)
        assert await raw.closed() in (daphne if kind == "daphne" else codes)
    await backend.wait("/close", key)
    await backend.quiet("/close", key, 1, 0.15)
    assert not backend.seen("/receive", key)
    assert (await send(server, key)).body == not_found(key)


async def test_message_at_the_limit(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """The limit itself is allowed, also in fragments."""
    server = await servers.get(kind, LIMIT)
    async with client(server, key) as connection:
        await connection.send("x" * 1000)
        await connection.send([b"x" * 500, b"y" * 500])
        await backend.wait("/receive", key, 2)


async def test_flood_of_pings(kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]) -> None:
    """Pings are answered in order or the client is closed; others go on, and no ping reaches the backend."""
    server = await servers.get(kind)
    key, other = fresh("f"), fresh("o")
    async with RawWebSocket.connected(server, key) as raw, client(server, other) as good:
        writing = asyncio.create_task(raw.write(b"".join(masked(PING, b"%d" % number) for number in range(5000))))
        assert (await send(server, other, b"meanwhile")).body == OK
        assert await receive(good) == "meanwhile"
        for number in range(5000):
            opcode, payload = await raw.frame()
            if opcode != PONG:
                break
            # Pongs may be left out if a later one is sent (RFC 6455 5.5.3).
            if int(payload) == 4999:
                break
            assert int(payload) >= number
        await writing
    await backend.wait("/close", key)
    assert not backend.seen("/receive", key)


async def test_a_flood_of_small_frames_delays_nobody(servers: Servers, fresh: Callable[[str], str]) -> None:
    """Frames that are no messages, as fast as they are taken: others' pushes have their turn in between.

    daphne reads up to 64 KiB of one client at once, which takes it a tenth of a second.
    """
    server = await servers.get("uvicorn")
    other = fresh("o")
    flood = masked(TEXT, fin=False) + (masked(0, fin=False) + masked(PONG)) * 100_000 + masked(0) + masked(PING, b"end")
    async with (
        RawWebSocket.connected(server, fresh("f")) as raw,
        client(server, other) as good,
        Http.open(server) as http,
    ):
        writing, pushes = asyncio.create_task(raw.write(flood)), 0
        end = asyncio.create_task(raw.frame(60))
        while not end.done():
            assert (await http.request("POST", "/send", [("X-Kuiperbelt-Session", other)], b"x")).body == OK
            assert await receive(good) == "x"
            pushes += 1
            await asyncio.sleep(0.01)
        assert await end == (PONG, b"end")
        await writing
        assert pushes > 8


async def test_client_that_ignores_our_close(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """It is dropped within 10 s."""
    server = await servers.get(kind)
    async with RawWebSocket.connected(server, key) as raw:
        await backend.wait("/establish", key)
        assert (await close(server, key)).body == OK
        assert await raw.closed() == 1000
        await raw.ended(11)
        assert (await send(server, key)).body == not_found(key)


async def test_frames_after_our_close(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """What a client sends after its session was closed reaches nobody."""
    server = await servers.get(kind)
    async with RawWebSocket.connected(server, key) as raw:
        await backend.wait("/establish", key)
        assert (await close(server, key)).body == OK
        assert await raw.closed() == 1000
        await raw.write(masked(TEXT, b"too late") * 3)
        await asyncio.sleep(0.3)
    assert not backend.seen("/receive", key)
    assert not backend.seen("/close", key)


async def test_frames_cut_anywhere(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """Frames that arrive byte by byte, with pings between fragments, come out whole."""
    server = await servers.get(kind)
    data = masked(TEXT, "grü".encode()[:3], fin=False) + masked(PING, b"p") + masked(0, "grü".encode()[3:] + b"n")
    async with RawWebSocket.connected(server, key) as raw:
        for byte in data + masked(BINARY, b"\x00" * 130):
            await raw.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await raw.frame() == (PONG, b"p")
        first_one, second = await backend.wait("/receive", key, 2)
    assert (first_one.body, second.body) == ("grün".encode(), b"\x00" * 130)


# What backends do to callbacks other than connect, whose rows stand in vectors_connect

BAD_ANSWERS = {
    "garbage": Answer(raw=b"\x00\x01\x02\r\n\r\n"),
    "reset": Answer(raw=b"", reset=True),
    "reset after the headers": Answer(reset=True, body=b"hello"),
    "endless": Answer(endless=True),
    "101": Answer(raw=b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
    "redirect": Answer(status=307, headers=[("Location", "/elsewhere")]),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_bad_answers_to_events(kind: str, name: str, servers: Servers, backend: Backend, key: str) -> None:
    """A backend that misbehaves on receive and close breaks neither the connection nor the proxy."""
    server = await servers.get(kind, {"EKBO_CALLBACK_TIMEOUT": "500ms"})
    backend.on("/receive", key, BAD_ANSWERS[name])
    backend.on("/close", key, BAD_ANSWERS[name])
    async with client(server, key) as connection:
        await connection.send("up")
        await backend.until(lambda: bool(backend.seen("/receive", key)), "receive")
        assert (await send(server, key, b"down")).body == OK
        assert await receive(connection) == "down"
    await backend.until(lambda: bool(backend.seen("/close", key)), "close")
    assert (await send(server, key)).body == not_found(key)
    assert not [request for request in backend.requests if request.path == "/elsewhere"]


# Whatever comes

INPUTS = int(os.environ.get("BAD_INPUTS", "300"))
SEED = os.environ.get("BAD_INPUTS_SEED", "1")


def raw(target: str, *headers: tuple[str, str], body: bytes | None = None) -> bytes:
    """The bytes of a request: POST if it has a body."""
    lines = [f"{'GET' if body is None else 'POST'} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [] if body is None else [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


TO = ("X-Kuiperbelt-Session", "{key}")
LINES = b'{"session":"{key}","body":"one","id":[1]}\n{"sessions":["a"],"base64":"AQI="}\n'
HANDSHAKE = raw("/connect?key={key}&a=b", *handshake_headers())
SEEDS = [
    *REFUSED.values(),
    *HUNG_UP.values(),
    HANDSHAKE,
    raw("/send", TO, ("Content-Type", "application/octet-stream"), body=b"hello"),
    raw("/close", TO, ("X-Kuiperbelt-Close-Code", "4000"), ("X-Kuiperbelt-Close-Reason", "x"), body=b""),
    raw("/send", ("X-Kuiperbelt-Session", "{key}é"), body=b"x"),
    raw("/send", TO, body=b"\xff"),
    raw("/close", TO, ("X-Kuiperbelt-Close-Code", "four"), body=b""),
    raw("/close", TO, ("X-Kuiperbelt-Close-Reason", "é" * 100), body=b""),
    raw("/connect?key={key}", ("X-Odd", "é"), *handshake_headers()),
    raw("/sessions?limit=x&after=%ff&prefix=%00"),
    raw("/sessions", body=b'{"sessions":[1,null,{}]}'),
    raw("/batch", body=b'{"session":1}\n[]\nnull\n{"session":"a","close":"x","code":{}}\n\xff\n'),
    raw("/batch", body=LINES),
    raw("/batch", ("Transfer-Encoding", "chunked")) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(LINES), LINES),
    raw("/sessions", ("Content-Type", "application/json"), body=b'{"sessions":["bob"]}'),
    raw("/sessions?prefix=a&limit=10&after=b"),
    raw("/sessions/bob"),
    raw("/stats?format=tsv") + raw("/ready") + raw("/ping"),
    raw("/admin/login/?next=/admin/", ("Cookie", "kuiperbelt_session=x")),
    raw("/admin/login/", ("Cookie", "kuiperbelt_csrf=x"), body=b"csrfmiddlewaretoken=x&username=a&password=b"),
    raw("/static/proxy/dashboard.js", ("Range", "bytes=0-5"), ("If-None-Match", "x")),
]
PIECES = [b"\0", b"\r\n", b"\r\n\r\n", b"%00", b"%ff", b"\xff\xfe", b"..", b"//", b"9" * 20, b"-1", b"{", b"[" * 200]
PIECES += [b"{key}", b",", b";", b"?", b"&limit=x", b'"', b"\xed\xa0\x80", b"x" * 5000, b"Expect: 100-continue\r\n"]


def spoilt(rng: random.Random, data: bytes) -> bytes:
    """Changed at random: bytes, pieces put in, cut out, cut off, or followed by something else."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(6):
            case 0 | 1:
                found[at:at] = rng.choice(PIECES)
            case 2 if at < len(found):
                found[at] = rng.randrange(256)
            case 3:
                del found[at : at + rng.randint(1, 30)]
            case 4:
                del found[at:]
            case _:
                found += rng.choice(SEEDS)
    return bytes(found)


@pytest.mark.timeout(60 + INPUTS / 20)
async def test_whatever_comes(kind: str, servers: Servers, fresh: Callable[[str], str], evidence: Evidence) -> None:
    """No traceback and no 500 from all that clients and callers can send, in its usual form or spoilt at random."""
    server, key = await servers.start(kind), fresh("good")
    rng = random.Random(f"{SEED} {kind}")
    bad: list[bytes] = []

    async def throw(number: int) -> None:
        data = SEEDS[number] if number < len(SEEDS) else rng.choice([*SEEDS, HANDSHAKE, HANDSHAKE])
        frames = b"".join(rng.choice(list(FRAMES.values()))[0] for _ in range(rng.randint(1, 3)))
        if number >= len(SEEDS) and (data != HANDSHAKE or rng.random() < 0.2):
            data = spoilt(rng, data)
        async with Http.open(server) as http:
            await http.write(data.replace(b"{key}", fresh("any").encode()))
            line = b""
            with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
                async with asyncio.timeout(0.2):
                    line = await http.reader.readuntil(b"\r\n")
            if b" 101 " in line:
                await http.write(spoilt(rng, frames))
                await asyncio.sleep(0.02)
            if b" 500 " in line:
                bad.append(data)
            if rng.random() < 0.3:
                reset(http.writer)

    async with client(server, key) as connection:
        for start in range(0, INPUTS, 20):
            await asyncio.gather(*map(throw, range(start, min(start + 20, INPUTS))))
        assert (await send(server, key, b"marker")).body == OK
        assert await receive(connection) == "marker"
    code = await server.stop()
    evidence(Figures(1, INPUTS, len(bad)))
    assert not bad
    assert not re.search(r" 500\b", server.output())
    assert not server.complaints()
    assert code in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


async def test_clients_that_vanish_all_the_time(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """Sixty clients that break off at a random moment: one close event for each auth 200, and nobody left."""
    server = await servers.get(kind)
    rng = random.Random(7)
    keys = [fresh("v") for _ in range(60)]
    for key in keys:
        backend.on("/connect", key, welcome(key, b"first", delay=rng.random() / 20))
        backend.on("/establish", key, Answer(delay=rng.random() / 20))

    async def vanish(key: str) -> None:
        async with Http.open(server) as http:
            await http.write(http.encode("GET", f"/connect?key={key}", handshake_headers()))
            await asyncio.sleep(rng.random() / 8)
            if rng.random() < 0.5:
                reset(http.writer)

    await asyncio.gather(*(vanish(key) for key in keys))
    await asyncio.sleep(0.5)
    asked = [key for key in keys if backend.seen("/connect", key)]
    assert asked
    for key in asked:
        await backend.wait("/close", key)
    assert (await send(server, ",".join(keys))).body == not_found(*keys)
