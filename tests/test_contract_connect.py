"""GET {path.connect}: every row of the contract over real sockets, on every server."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import socket
import uuid
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.at_once import at_once
from tests.backend import Answer, Backend, Request, welcome
from tests.clients import CLOSE, TEXT, RawWebSocket, client, close, ending, masked, receive, send
from tests.evidence import Evidence, Figures
from tests.servers import KINDS, Server, Servers
from tests.vectors import (
    Case,
    Connect,
    Opened,
    Refused,
    Seen,
    filled,
    filled_bytes,
    filled_headers,
    rows,
)
from tests.vectors_connect import ANSWERS, BEFORE, CALLBACK, CONFIGURED, ORIGINS

pytestmark = pytest.mark.usefixtures("clean_logs")

ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3


def values(server: Server, backend: Backend, key: str) -> dict[str, str]:
    """What stands for the names in braces."""
    return {
        "key": key,
        "port": str(server.port),
        "host": server.host,
        "hostname": socket.gethostname(),
        "backend": f"127.0.0.1:{backend.port}",
    }


def callback_path(env: dict[str, str]) -> str:
    """The path of the auth callback."""
    return urlsplit(env["EKBO_CONNECT_CALLBACK_URL"]).path


def script(backend: Backend, path: str, key: str, answer: Answer, names: dict[str, str]) -> None:
    """Have `answer` ready, with the names in braces replaced."""
    backend.on(
        path,
        key,
        dataclasses.replace(
            answer,
            headers=filled_headers(answer.headers, names),
            body=answer.body.replace(b"{key}", key.encode()),
            raw=None if answer.raw is None else filled_bytes(answer.raw, names),
        ),
    )


@rows(BEFORE, ORIGINS, ANSWERS)
async def test_answer(
    case: Case[Connect, Opened | Refused], kind: str, servers: Servers, backend: Backend, key: str
) -> None:
    """What a client gets, by what it sends and what the backend answers."""
    server = await servers.get(kind, case.env)
    names = values(server, backend, key)
    query = filled(case.do.query, names)
    asked_key = query.removeprefix("key=")
    if case.do.answer:
        script(backend, "/connect", asked_key, case.do.answer, names)
    expected = case.on(kind)
    async with RawWebSocket.open(server) as raw:
        response = await raw.handshake(
            f"{case.do.path}?{query}", filled_headers(case.do.headers, names), case.do.without, case.do.method
        )
        if isinstance(expected, Opened):
            assert response.status == 101, response
            assert response.one("Sec-WebSocket-Protocol") == expected.subprotocol
            for frame in expected.frames:
                data = frame.encode() if isinstance(frame, str) else frame
                assert await raw.frame() == (TEXT if isinstance(frame, str) else 2, data)
            await no_more_frames(raw)
            assert len(backend.seen("/connect", asked_key)) == 1
            return
    assert response.status == expected.status, response
    if expected.body is not None:
        assert response.body == expected.body
    for name, value in expected.headers.items():
        assert value in [part.strip() for line in response.all(name) for part in line.split(",")] + response.all(name)
    assert not [name for name in expected.absent if response.all(name)], response
    assert bool(backend.seen("/connect", asked_key)) == expected.asked
    assert not backend.seen("/establish", asked_key)
    if kind != "daphne" or expected.asked:
        await nobody_registered(server, key)


async def no_more_frames(raw: RawWebSocket) -> None:
    """Nothing comes before the answer to our ping, and no close."""
    await raw.write(masked(9, b"marker"))
    assert await raw.frame() == (10, b"marker")


async def nobody_registered(server: Server, key: str) -> None:
    """A refused connect leaves no session behind."""
    answer = await send(server, key)
    assert answer.json()["errors"] == [{"error": "kuiperbelt: session is not found", "session": key}]


@rows(CALLBACK)
async def test_callback(case: Case[Connect, Seen], kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """What the backend sees, by what the client sends."""
    server = await servers.get(kind, case.env)
    names = values(server, backend, key)
    path = callback_path(server.env)
    header = case.env.get("EKBO_SESSION_HEADER_NAME", "X-Kuiperbelt-Session")
    backend.on(path, key, Answer(headers=[(header, key)]))
    async with RawWebSocket.open(server) as raw:
        response = await raw.handshake(
            f"{case.do.path}?{filled(case.do.query, names)}", filled_headers(case.do.headers, names), case.do.without
        )
        assert response.status == 101, response
    expected = case.on(kind)
    (request,) = backend.seen(path, key)
    assert request.method == "GET"
    assert request.body == b""
    if expected.target is not None:
        assert request.target == filled(expected.target, names)
    got = {name: tuple(request.all(name)) for name in expected.headers}
    assert got == {name: tuple(filled(value, names) for value in lines) for name, lines in expected.headers.items()}
    assert not [line for line in request.headers if "evil" in line[1]], "a forged value got through"
    assert uuid.UUID(request.one("X-Kuiperbelt-Connection") or "")


async def test_redirect_is_not_followed(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """connect 2: the place that a backend redirects to is never asked."""
    server = await servers.get(kind)
    place = f"http://127.0.0.1:{backend.port}/elsewhere/connect?key={key}"
    for status in (301, 302, 303, 307, 308):
        backend.on("/connect", key, Answer(status=status, headers=[("Location", place)]))
        async with RawWebSocket.open(server) as raw:
            response = await raw.handshake(f"/connect?key={key}")
        assert response.status == (502 if kind != "daphne" else 403)
    assert not backend.seen("/elsewhere/connect", key)


async def test_accept_header(kind: str, servers: Servers, key: str) -> None:
    """The 101 is right: Upgrade, Connection, and the accept value of the client's key."""
    server = await servers.get(kind)
    nonce = base64.b64encode(b"0123456789abcdef")
    async with RawWebSocket.open(server) as raw:
        response = await raw.handshake(
            f"/connect?key={key}", [("Sec-WebSocket-Key", nonce.decode())], ["Sec-WebSocket-Key"]
        )
    assert response.status == 101
    assert (response.one("Upgrade") or "").lower() == "websocket"
    assert (response.one("Connection") or "").lower() == "upgrade"
    accept = base64.b64encode(hashlib.sha1(nonce + ACCEPT_GUID).digest()).decode()
    assert response.one("Sec-WebSocket-Accept") == accept
    assert response.one("Sec-WebSocket-Extensions") is None


async def test_order_of_events(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """connect 4: registered, 101, establish, first frame; a /send from inside establish is delivered."""
    server = await servers.get(kind)
    backend.on("/connect", key, welcome(key, b"first"))
    inside: list[tuple[int, bytes]] = []
    go_on = asyncio.Event()

    async def establish(request: Request) -> Answer:
        response = await send(server, key, b"inside")
        inside.append((response.status, response.body))
        backend.touch()
        await asyncio.wait_for(go_on.wait(), 5)
        return Answer()

    backend.on("/establish", key, establish)
    async with RawWebSocket.connected(server, key) as raw:
        # The 101 is here although establish has not answered.
        await backend.wait("/establish", key)
        assert await raw.frame() == (TEXT, b"inside")
        await backend.until(lambda: bool(inside), "the answer to /send")
        assert inside == [(200, b'{"result":"OK"}')]
        await no_more_frames(raw)
        go_on.set()
        assert await raw.frame() == (TEXT, b"first")
    (connect,), (establish_request,) = backend.seen("/connect", key), backend.seen("/establish", key)
    assert connect.arrived < establish_request.arrived


@pytest.mark.parametrize(
    "answer",
    [Answer(status=500), Answer(status=204), Answer(status=302, headers=[("Location", "/")]), Answer(delay=1.5)],
    ids=["500", "204", "302", "timeout"],
)
async def test_establish_fails(kind: str, answer: Answer, servers: Servers, backend: Backend, key: str) -> None:
    """connect 4: Close 1011, no first frame, and since auth said 200 the close callback."""
    server = await servers.get(kind, {"EKBO_CALLBACK_TIMEOUT": "500ms"})
    backend.on("/connect", key, welcome(key, b"first"))
    backend.on("/establish", key, answer)
    code = 1011 if kind != "daphne" else 4011
    async with client(server, key) as connection:
        end = await ending(connection)
    assert (end.code, end.frames) == (code, [])
    (event,) = await backend.wait("/close", key)
    assert event.one("X-Kuiperbelt-Close-Code") == "1011"
    assert event.one("X-Kuiperbelt-Close-Reason") == "handshake"
    await nobody_registered(server, key)


async def test_client_leaves_during_establish(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """A client that is gone before establish has answered still ends in exactly one close event."""
    server = await servers.get(kind)
    backend.on("/establish", key, Answer(delay=0.4))
    async with RawWebSocket.connected(server, key):
        await backend.wait("/establish", key)
    await backend.wait("/close", key)
    await backend.quiet("/close", key, 1)
    await nobody_registered(server, key)


async def test_newest_connection_owns_the_key(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """connect 5: the older gets 4001 "replaced", and its late end does not remove the newer."""
    server = await servers.get(kind)
    async with client(server, key) as old:
        await backend.wait("/establish", key)
        async with client(server, key) as new:
            end = await ending(old)
            assert (end.code, end.reason) == (4001, "replaced" if kind != "daphne" else "")
            (event,) = await backend.wait("/close", key)
            first, second = backend.seen("/connect", key)
            assert event.one("X-Kuiperbelt-Close-Reason") == "replaced"
            assert event.one("X-Kuiperbelt-Close-Code") == "4001"
            assert event.one("X-Kuiperbelt-Connection") == first.one("X-Kuiperbelt-Connection")
            assert first.one("X-Kuiperbelt-Connection") != second.one("X-Kuiperbelt-Connection")
            assert (await send(server, key, b"to the new")).body == b'{"result":"OK"}'
            assert await receive(new) == "to the new"
    await backend.wait("/close", key, 2)
    last = backend.seen("/close", key)[1]
    assert last.one("X-Kuiperbelt-Connection") == second.one("X-Kuiperbelt-Connection")
    assert last.one("X-Kuiperbelt-Close-Reason") == "client"
    await backend.quiet("/close", key, 2)
    await nobody_registered(server, key)


async def test_replaced_client_that_ignores_its_close(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """connect 5: the older neither reads nor closes; the newer works all the same, before and after its late end."""
    server = await servers.get(kind)
    async with RawWebSocket.connected(server, key) as old:
        await backend.wait("/establish", key)
        async with client(server, key) as new:
            assert await old.closed() == 4001
            assert (await send(server, key, b"one")).body == b'{"result":"OK"}'
            assert await receive(new) == "one"
            # Nobody waits for a client that does not answer our Close: it is dropped within 10 s.
            await backend.wait("/close", key, timeout=12)
            assert (await send(server, key, b"two")).body == b'{"result":"OK"}'
            assert await receive(new) == "two"
    await backend.wait("/close", key, 2)
    assert [event.one("X-Kuiperbelt-Close-Reason") for event in backend.seen("/close", key)] == ["replaced", "client"]


@at_once(kind=KINDS)
async def test_many_replace_each_other(
    kind: str, servers: Servers, backend: Backend, key: str, evidence: Evidence
) -> None:
    """connect 5: of twenty that come at once one stays, and each of the others has exactly one close event."""
    server = await servers.get(kind)
    async with asyncio.TaskGroup() as group:

        async def come() -> int | None:
            async with client(server, key) as connection:
                try:
                    return (await ending(connection, timeout=1.5)).code
                except TimeoutError:
                    return -1

        tasks = [group.create_task(come()) for _ in range(20)]
    codes = sorted(task.result() or 0 for task in tasks)
    assert codes == [-1] + [4001] * 19
    await backend.until(lambda: len(backend.seen("/close", key)) >= 20, "20 ends")
    connections = {request.one("X-Kuiperbelt-Connection") for request in backend.seen("/connect", key)}
    told = [request.one("X-Kuiperbelt-Connection") for request in backend.seen("/close", key)]
    evidence(Figures(1, 20, len(connections - set(told)), len(told) - len(set(told))))
    assert (set(told), len(told)) == (connections, 20)
    await nobody_registered(server, key)


async def test_client_leaves_during_auth(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """Every auth 200 ends in a close event, also when the client did not wait for it; and no session is left."""
    server = await servers.get(kind)
    backend.on("/connect", key, welcome(key, b"first", delay=0.5))
    async with RawWebSocket.open(server) as raw:
        raw.writer.write(raw.encode("GET", f"/connect?key={key}", [("Upgrade", "websocket"), *HANDSHAKE]))
        await backend.wait("/connect", key)
    (event,) = await backend.wait("/close", key)
    assert event.one("X-Kuiperbelt-Close-Reason") == "handshake"
    await backend.quiet("/close", key, 1)
    await nobody_registered(server, key)


HANDSHAKE = [
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]


async def test_configured_names(kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]) -> None:
    """session_header, endpoint and proxy_set_header hold for all callbacks and for the API."""
    key = fresh("c")
    server = await servers.get(kind, CONFIGURED)
    backend.on("/app/connect", key, Answer(headers=[("X-App-Session", key)]))
    async with client(server, key) as connection:
        await backend.wait("/establish", key)
        await connection.send("up")
        await backend.wait("/receive", key)
        response = await send(server, "ignored", b"down", ("X-App-Session", key))
        assert response.body == b'{"result":"OK"}'
        assert await receive(connection) == "down"
        missing = await close(server, key)
        assert missing.json()["errors"] == [{"error": "session header is missing"}]
    await backend.wait("/close", key)
    for path in ("/establish", "/receive", "/close"):
        (event,) = backend.seen(path, key)
        assert event.one("X-App-Session") == key
        assert event.one("X-Kuiperbelt-Session") is None
        assert event.one("X-Kuiperbelt-Endpoint") == "node7.internal:9180"
        assert event.one("X-Static") == "one"
        assert event.one("User-Agent") == "proxy/1"


async def test_frames_before_the_101(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """Frames right behind the handshake: they are kept for later; daphne loses them. It all ends well."""
    server = await servers.get(kind)
    backend.on("/connect", key, welcome(key, delay=0.2))
    async with RawWebSocket.open(server) as raw:
        head = raw.encode("GET", f"/connect?key={key}", [("Upgrade", "websocket"), *HANDSHAKE])
        raw.writer.write(head + masked(TEXT, b"early"))
        response = await raw.response("GET", "/connect")
        assert response.status == 101
        await raw.write(masked(CLOSE, b"\x03\xe8"))
        await raw.closed()
        await backend.wait("/close", key)
    assert [event.body for event in backend.seen("/receive", key)] == ([] if kind == "daphne" else [b"early"])
    await nobody_registered(server, key)
