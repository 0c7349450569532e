"""POST {path.send} and {path.close}: every row of the contract over real sockets, on every server."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection

from tests.backend import Backend
from tests.clients import Ending, Frame, Http, Response, client, close, ending, receive, request, send
from tests.servers import Server, Servers
from tests.vectors import Call, Case, Ended, Reply, filled, filled_headers, rows
from tests.vectors_api import (
    ACCESS,
    AT_LIMIT,
    BOTH_PATHS,
    CLOSE,
    KEYS,
    OK,
    SEND,
    STRICT,
    not_found,
)

pytestmark = pytest.mark.usefixtures("clean_logs")

MARKER = "-- marker --"
JSON = "application/json; charset=utf-8"


async def call(server: Server, do: Call, names: dict[str, str]) -> Response:
    """Carry a row's request out."""
    headers = filled_headers(do.headers, names)
    body = do.body
    if do.chunk and body is not None:
        headers.append(("Transfer-Encoding", "chunked"))
        parts = [body[offset : offset + do.chunk] for offset in range(0, len(body), do.chunk)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])
    return await request(server, do.method, do.path, headers, body)


async def outcome(
    server: Server, connection: ClientConnection, key: str, expected: Ended | None, headers: list[tuple[str, str]]
) -> Ending:
    """What came to a session: up to its end if one is expected, else up to a marker that is sent now."""
    if expected:
        return await ending(connection)
    assert (await send(server, key, MARKER.encode(), *headers)).body == OK
    frames: list[Frame] = []
    while (frame := await receive(connection)) != MARKER:
        frames.append(frame)
    return Ending(None, "", frames)


@rows(SEND, AT_LIMIT, BOTH_PATHS, CLOSE, ACCESS)
async def test_row(case: Case[Call, Reply], kind: str, servers: Servers, fresh: Callable[[str], str]) -> None:
    """What the caller gets and what the sessions get, to the byte."""
    server = await servers.get(kind, case.env)
    names = {name: fresh(name) for name in "abx"}
    expected = case.on(kind)
    keys = [("Authorization", "Bearer second-key-0123456789")] if "EKBO_API_KEYS" in case.env else []
    async with client(server, names["a"]) as a, client(server, names["b"]) as b:
        response = await call(server.api, case.do, names)
        assert response.status == expected.status, response
        if expected.json:
            assert response.one("Content-Type") == JSON
            check_body(response, expected, names)
        for name, value in expected.headers.items():
            assert value in (response.one(name) or ""), response
        for connection, key, frames, ended in (
            (a, names["a"], expected.a, expected.a_ended),
            (b, names["b"], expected.b, expected.b_ended),
        ):
            got = await outcome(server, connection, key, ended, keys)
            assert tuple(got.frames) == frames
            if ended:
                assert (got.code, got.reason) == (ended.code, ended.reason)


def check_body(response: Response, expected: Reply, names: dict[str, str]) -> None:
    """The exact bytes where the contract has them, else one error in its shape."""
    if expected.body is not None:
        assert response.body == filled(expected.body.decode(), names).encode()
        return
    answer = response.json()
    assert set(answer) == {"errors", "result"}
    assert answer["result"] == "NG"
    assert [set(error) for error in answer["errors"]] == [{"error"}]
    assert answer["errors"][0]["error"]
    assert response.body.startswith(b'{"errors":[{"error":"')


async def test_body_over_the_limit_is_not_awaited(servers: Servers, key: str) -> None:
    """413 comes on the Content-Length alone, and on the chunks so far. Daphne reads the whole body before it asks."""
    server = await servers.get("uvicorn")
    head = [("X-Kuiperbelt-Session", key)]
    for headers, body in (
        ([*head, ("Content-Length", "99999999")], b"a little"),
        ([*head, ("Transfer-Encoding", "chunked")], b"200000\r\n" + b"x" * (1024 * 1024 + 1)),
    ):
        response = await request(server, "POST", "/send", headers, body)
        assert response.status == 413
        assert response.one("Content-Type") == JSON


async def test_what_was_sent_is_what_comes(kind: str, servers: Servers, key: str) -> None:
    """Any bytes, any text, of sizes about each form of a frame's length and up to the limit."""
    server = await servers.get(kind)
    rng = random.Random(key)
    async with client(server, key) as connection, Http.open(server.api) as http:
        for size in (0, 1, 2, 125, 126, 127, 1000, 65535, 65536, 65537, 1024 * 1024):
            octets = [("X-Kuiperbelt-Session", key), ("Content-Type", "application/octet-stream")]
            data = rng.randbytes(size)
            assert (await http.request("POST", "/send", octets, data)).body == OK
            assert await receive(connection) == data
            text = "".join(rng.choices('a\0\n"é\u2028\ufeff\U0001f600', k=size // 4))
            assert (await http.request("POST", "/send", [("X-Kuiperbelt-Session", key)], text.encode())).body == OK
            assert await receive(connection) == text


async def test_order(kind: str, servers: Servers, key: str) -> None:
    """Frames to one session keep the order in which sequential sends were answered, over any connections."""
    server = await servers.get(kind)
    async with client(server, key) as connection, Http.open(server.api) as one, Http.open(server.api) as two:
        for number in range(200):
            http = one if number % 3 else two
            headers = [("X-Kuiperbelt-Session", key)]
            if number % 2:
                headers.append(("Content-Type", "application/octet-stream"))
            response = await http.request("POST", "/send", headers, str(number).encode())
            assert response.body == OK
        for number in range(200):
            assert await receive(connection) == (str(number).encode() if number % 2 else str(number))


async def test_many_senders(kind: str, servers: Servers, fresh: Callable[[str], str]) -> None:
    """Nothing gets lost, doubled or mixed up: 8 senders, 10 sessions, each sender's frames in order in each session."""
    server = await servers.get(kind)
    keys = [fresh("m") for _ in range(10)]
    async with contextlib.AsyncExitStack() as stack:
        connections = {key: await stack.enter_async_context(client(server, key)) for key in keys}

        async def sender(name: int) -> None:
            async with Http.open(server.api) as http:
                for number in range(50):
                    key = keys[(name + number) % 10]
                    body = f"{key} {name} {number}".encode()
                    assert (await http.request("POST", "/send", [("X-Kuiperbelt-Session", key)], body)).body == OK

        await asyncio.gather(*(sender(name) for name in range(8)))
        for key, connection in connections.items():
            got: dict[str, list[int]] = {}
            for _ in range(8 * 50 // 10):
                to, name, number = str(await receive(connection)).split(" ")
                assert to == key
                got.setdefault(name, []).append(int(number))
            assert all(numbers == sorted(set(numbers)) for numbers in got.values())
            assert sum(map(len, got.values())) == 40


async def test_close_twice_and_send_after(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """/close fires no close callback; after it the session is not found, though the client still talks."""
    server = await servers.get(kind)
    async with client(server, key) as connection:
        await backend.wait("/establish", key)
        assert (await close(server, key, b"bye")).body == OK
        assert (await close(server, key)).body == not_found(key)
        assert (await send(server, key)).body == not_found(key)
        assert (await ending(connection)).frames == ["bye"]
    await backend.quiet("/close", key, 0, 0.5)


async def test_strict_close_leaves_all_open(kind: str, servers: Servers, fresh: Callable[[str], str]) -> None:
    """With strict_broadcast a session that is missing keeps the others open."""
    server = await servers.get(kind, STRICT)
    key, gone = fresh("s"), fresh("x")
    async with client(server, key) as connection:
        assert (await close(server, f"{gone},{key}", b"bye")).body == not_found(gone, result="NG")
        assert (await send(server, key, b"still here")).body == OK
        assert await receive(connection) == "still here"


async def test_reconnect_after_close(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """A key can be used again at once after /close, and the first connection's end does not touch the second."""
    server = await servers.get(kind)
    async with client(server, key) as first:
        await backend.wait("/establish", key)
        assert (await close(server, key)).body == OK
        async with client(server, key) as second:
            assert (await ending(first)).code == 1000
            await asyncio.sleep(0.2)
            assert (await send(server, key, b"second")).body == OK
            assert await receive(second) == "second"
    (event,) = await backend.wait("/close", key)
    assert event.one("X-Kuiperbelt-Connection") == backend.seen("/connect", key)[1].one("X-Kuiperbelt-Connection")


async def test_pipelined(kind: str, servers: Servers, fresh: Callable[[str], str]) -> None:
    """Requests in one write are answered in order, whatever each of them needs."""
    server = await servers.get(kind)
    key, other = fresh("p"), fresh("o")
    async with client(server, key) as connection, client(server, other) as second, Http.open(server.api) as http:
        data = b""
        expected: list[tuple[int, bytes]] = []
        for number in range(30):
            unknown = f"nobody{number}"
            data += http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"%d" % number)
            data += http.encode("POST", "/send", [("X-Kuiperbelt-Session", unknown)], b"lost")
            data += http.encode("GET", "/ping")
            data += http.encode("POST", "/send", [("X-Kuiperbelt-Session", "bad key")], b"lost")
            expected += [(200, OK), (200, not_found(unknown)), (200, OK), (400, b"")]
        data += http.encode("POST", "/close", [("X-Kuiperbelt-Session", other)], b"last")
        data += http.encode("POST", "/send", [("X-Kuiperbelt-Session", other)], b"too late")
        expected += [(200, OK), (200, not_found(other))]
        await http.write(data)
        for status, body in expected:
            response = await http.response()
            assert response.status == status
            assert response.body == body or status == 400
        for number in range(30):
            assert await receive(connection) == str(number)
        end = await ending(second)
        assert (end.frames, end.code) == (["last"], 1000)


async def test_pipelined_in_pieces(kind: str, servers: Servers, key: str) -> None:
    """A stream of requests that arrives in pieces cut anywhere."""
    server = await servers.get(kind)
    async with client(server, key) as connection, Http.open(server.api) as http:
        requests = [http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"body %d" % n) for n in range(12)]
        data = b"".join(requests)
        reading = asyncio.create_task(responses(http, len(requests)))
        for offset in range(0, len(data), 47):
            await http.write(data[offset : offset + 47])
            await asyncio.sleep(0.001)
        assert [(response.status, response.body) for response in await reading] == [(200, OK)] * 12
        assert [await receive(connection) for _ in requests] == [f"body {n}" for n in range(12)]


async def responses(http: Http, count: int) -> list[Response]:
    """The next answers on a connection."""
    return [await http.response() for _ in range(count)]


async def test_ten_thousand_on_one_connection(kind: str, servers: Servers, key: str) -> None:
    """10,000 keep-alive requests on one connection: all answered, all delivered, in order."""
    server = await servers.get(kind)
    count = 10_000
    async with client(server, key, max_queue=None) as connection, Http.open(server.api) as http:

        async def collect() -> list[Frame]:
            return [await receive(connection, timeout=30) for _ in range(count)]

        collecting = asyncio.create_task(collect())
        for number in range(count):
            response = await http.request("POST", "/send", [("X-Kuiperbelt-Session", key)], b"%d" % number)
            assert response.status == 200
            assert response.body == OK
        assert await collecting == [str(number) for number in range(count)]


async def test_connection_close_is_honoured(kind: str, servers: Servers, key: str) -> None:
    """A caller that asks for it gets its connection closed after the answer; HTTP/1.0 callers too."""
    server = await servers.get(kind)
    async with client(server, key) as connection:
        async with Http.open(server.api) as http:
            headers = [("X-Kuiperbelt-Session", key), ("Connection", "close")]
            assert (await http.request("POST", "/send", headers, b"one")).body == OK
            assert await http.ended() == b""
        async with Http.open(server.api) as http:
            await http.write(b"POST /send HTTP/1.0\r\nX-Kuiperbelt-Session: %s\r\n" % key.encode())
            await http.write(b"Content-Length: 3\r\n\r\ntwo")
            assert (await http.response()).body == OK
            assert await http.ended() == b""
        assert [await receive(connection), await receive(connection)] == ["one", "two"]


async def test_clients_and_ping_need_no_key(kind: str, servers: Servers, key: str) -> None:
    """Clients and load balancers need no API key."""
    server = await servers.get(kind, KEYS)
    async with client(server, key):
        assert (await request(server, "GET", "/ping")).status == 200


@contextlib.asynccontextmanager
async def on_socket(servers: Servers, kind: str, path: Path) -> AsyncIterator[Server]:
    """A server that listens on a UNIX socket."""
    server = await servers.start(kind, sock=str(path))
    try:
        yield server
    finally:
        await server.stop()


async def test_unix_socket(kind: str, servers: Servers, backend: Backend, key: str, tmp_path: Path) -> None:
    """Everything works over a UNIX socket, whose callers need no key as long as nothing was forwarded."""
    async with on_socket(servers, kind, tmp_path / "s") as server, client(server, key) as connection:
        await backend.wait("/establish", key)
        assert (await send(server, key, b"over a file")).body == OK
        assert await receive(connection) == "over a file"
        forwarded = await send(server, key, b"no", ("X-Forwarded-For", "192.0.2.1"))
        assert forwarded.status == 403
        await connection.send("up")
        await backend.wait("/receive", key)
        assert (await close(server, key, b"bye")).body == OK
        end = await ending(connection)
        assert (end.frames, end.code) == (["bye"], 1000)
