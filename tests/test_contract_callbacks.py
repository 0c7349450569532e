"""The callbacks establish, receive and close, the ends of sessions and the idle time-out, on every server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.at_once import at_once
from tests.backend import Answer, Backend, Request, reset, welcome
from tests.clients import BINARY, CLOSE, PING, PONG, TEXT, RawWebSocket, client, close, ending, masked, receive, send
from tests.evidence import Evidence, Figures
from tests.servers import KINDS, Servers
from tests.vectors_api import OK, not_found

pytestmark = pytest.mark.usefixtures("clean_logs")

SHORT = {"EKBO_CALLBACK_TIMEOUT": "500ms"}
IDLE = {"EKBO_IDLE_TIMEOUT": "600ms"}
NO_RECEIVE = {"EKBO_RECEIVE_CALLBACK_URL": ""}
ONLY_CONNECT = NO_RECEIVE | {"EKBO_ESTABLISH_CALLBACK_URL": "", "EKBO_CLOSE_CALLBACK_URL": ""}
REPLY = {"EKBO_RECEIVE_REPLY": "true"}
BIG = {"EKBO_MAX_MESSAGE_SIZE": "2000000"}


def event_id(request: Request) -> str:
    """The event id, which must be there."""
    value = request.one("X-Kuiperbelt-Event-Id")
    assert value
    return value


async def test_requests(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """All callbacks of a connection: method, body, headers; one connection id, an event id for each."""
    server = await servers.get(kind)
    async with client(server, key, ("Cookie", "a=b"), ("X-Client", "1")) as connection:
        await backend.wait("/establish", key)
        await connection.send("text ü")
        await connection.send(b"\x00\xff")
        await connection.send("")
        await backend.wait("/receive", key, 3)
        await connection.close(3456, "my reason")
    await backend.wait("/close", key)
    (connect,) = backend.seen("/connect", key)
    (establish,) = backend.seen("/establish", key)
    (ended,) = backend.seen("/close", key)
    received = backend.seen("/receive", key)
    assert [request.body for request in received] == ["text ü".encode(), b"\x00\xff", b""]
    types = [(request.one("Content-Type") or "").partition(";")[0] for request in received]
    assert types == ["text/plain", "application/octet-stream", "text/plain"]
    events = [establish, *received, ended]
    for request in events:
        assert request.method == "POST"
        assert request.one("X-Kuiperbelt-Session") == key
        assert request.one("X-Kuiperbelt-Endpoint") == connect.one("X-Kuiperbelt-Endpoint")
        assert request.one("X-Kuiperbelt-Connection") == connect.one("X-Kuiperbelt-Connection")
        assert request.one("Host") == f"127.0.0.1:{backend.port}"
        assert not request.names & {"cookie", "x-client", "upgrade", "sec-websocket-key"}
    assert (establish.body, ended.body) == (b"", b"")
    assert len({event_id(request) for request in events}) == len(events)
    assert connect.arrived < establish.arrived < received[0].arrived < ended.arrived
    assert ended.one("X-Kuiperbelt-Close-Code") == "3456"
    assert ended.one("X-Kuiperbelt-Close-Reason") == "client"
    assert {"x-kuiperbelt-close-code", "x-kuiperbelt-close-reason"}.isdisjoint(establish.names | received[0].names)


async def test_connection_ids_differ(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """Each connection has a UUID of its own."""
    server = await servers.get(kind)
    keys = [fresh("u") for _ in range(5)]
    for key in keys:
        async with client(server, key):
            pass
    ids = {uuid.UUID(backend.seen("/connect", key)[0].one("X-Kuiperbelt-Connection") or "") for key in keys}
    assert len(ids) == 5


async def test_callbacks_off(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """Only callback.connect is needed: frames are discarded, pushes and the first frame work."""
    server = await servers.get(kind, ONLY_CONNECT)
    backend.on("/connect", key, welcome(key, b"first"))
    async with client(server, key) as connection:
        assert await receive(connection) == "first"
        for _ in range(100):
            await connection.send("x" * 1000)
        assert (await send(server, key, b"push")).body == OK
        assert await receive(connection) == "push"
    await asyncio.sleep(0.2)
    assert {request.path for request in backend.requests if key in (request.key,)} == {"/connect"}


# receive


async def test_receive_is_ordered(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """One at a time and in order per connection, however long the backend takes."""
    server = await servers.get(kind)
    busy: list[int] = []
    most = 0

    async def slow(request: Request) -> Answer:
        nonlocal most
        busy.append(1)
        most = max(most, len(busy))
        await asyncio.sleep(random.random() / 50)
        busy.pop()
        return Answer()

    backend.on("/receive", key, slow)
    async with client(server, key) as connection:
        for number in range(60):
            await connection.send(str(number))
        await backend.wait("/receive", key, 60)
    assert [request.body for request in backend.seen("/receive", key)] == [b"%d" % number for number in range(60)]
    assert most == 1


async def test_frames_before_the_end_come_before_the_end(
    kind: str, servers: Servers, backend: Backend, key: str
) -> None:
    """What a client sent before it left is received, and the close event comes after it."""
    server = await servers.get(kind)
    backend.on("/receive", key, Answer(delay=0.03))
    async with client(server, key) as connection:
        for number in range(8):
            await connection.send(str(number))
    (ended,) = await backend.wait("/close", key)
    received = backend.seen("/receive", key)
    assert [request.body for request in received] == [b"%d" % number for number in range(8)]
    assert received[-1].arrived < ended.arrived


async def test_first_frame_waits_for_establish_and_so_does_receive(
    kind: str, servers: Servers, backend: Backend, key: str
) -> None:
    """A frame that comes in while establish is under way reaches the backend after it."""
    server = await servers.get(kind)
    backend.on("/establish", key, Answer(delay=0.3))
    async with client(server, key) as connection:
        await connection.send("eager")
        (received,) = await backend.wait("/receive", key)
    (establish,) = backend.seen("/establish", key)
    assert received.arrived >= establish.arrived + 0.25


@pytest.mark.parametrize(
    "failure",
    [
        Answer(status=500),
        Answer(status=404),
        Answer(delay=1.0),
        Answer(raw=b"rubbish\r\n\r\n"),
        Answer(hang_up=True),
        Answer(endless=True),
    ],
    ids=["500", "404", "timeout", "garbage", "hang-up", "endless"],
)
async def test_receive_fails(kind: str, failure: Answer, servers: Servers, backend: Backend, key: str) -> None:
    """A failure is logged and the connection stays; the next frame is received."""
    server = await servers.get(kind, SHORT)
    backend.on("/receive", key, lambda request: failure if request.body == b"bad" else Answer())
    async with client(server, key) as connection:
        await connection.send("bad")
        await connection.send("good")
        await backend.until(lambda: any(r.body == b"good" for r in backend.seen("/receive", key)), "the good frame")
        assert (await send(server, key)).body == OK
        assert await receive(connection) == "hello"
    # A hang-up without an answer may have been tried once more, with the same event id.
    bad = [request for request in backend.seen("/receive", key) if request.body == b"bad"]
    assert len({event_id(request) for request in bad}) == 1
    assert len(bad) <= (2 if failure.hang_up else 1)


async def test_slow_receive_delays_nobody(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """While the backend holds one client's frame, pushes to it and everything of another client go on."""
    server = await servers.get(kind)
    slow, other = fresh("s"), fresh("o")
    backend.on("/receive", slow, Answer(delay=1.0))
    async with client(server, slow) as first, client(server, other) as second:
        await first.send("held")
        await backend.wait("/receive", slow)
        began = time.monotonic()
        assert (await send(server, slow, b"push")).body == OK
        assert await receive(first) == "push"
        await second.send("quick")
        await backend.wait("/receive", other)
        assert time.monotonic() - began < 0.7


@at_once(kind=KINDS)
async def test_reading_is_bounded(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """At most 16 frames or 1 MiB wait per connection: then the proxy stops reading, and goes on later, in order."""
    server = await servers.get(kind)
    gate = asyncio.Event()

    async def hold(request: Request) -> Answer:
        await asyncio.wait_for(gate.wait(), 10)
        return Answer()

    backend.on("/receive", key, hold)
    size, limit = 50_000, 400  # 20 MB: more than the sockets' buffers hold
    sent = 0
    async with RawWebSocket.connected(server, key) as raw:
        try:
            for number in range(limit):
                async with asyncio.timeout(1.0):
                    await raw.write(masked(BINARY, b"%08d" % number + b"x" * (size - 8)))
                sent += 1
        except TimeoutError:
            sent += 1  # the last one is on its way as well
        assert sent < limit, f"{sent * size} bytes were taken from a client whose frames nobody takes"
        assert len(backend.seen("/receive", key)) == 1
        gate.set()
        # Each callback now is quick, and all that was sent comes.
        await backend.until(lambda: len(backend.seen("/receive", key)) == sent, f"{sent} frames", 20)
        assert [int(r.body[:8]) for r in backend.seen("/receive", key)] == list(range(sent))
        assert (await send(server, key)).body == OK
        assert await raw.frame() == (TEXT, b"hello")


async def test_receive_reply(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """receive_reply: a non-empty 200 body goes back as a frame, text or binary; nothing else does."""
    server = await servers.get(kind, REPLY)

    def reply(request: Request) -> Answer:
        octets = [("Content-Type", "application/octet-stream")]
        return {
            b"text": Answer(body="zurück ü".encode()),
            b"octets": Answer(headers=octets, body=b"\xff\x00"),
            b"empty": Answer(),
            b"201": Answer(status=201, body=b"no"),
            b"400": Answer(status=400, body=b"no"),
            b"not UTF-8": Answer(body=b"\xff"),
        }.get(request.body, Answer(body=b"echo " + request.body))

    backend.on("/receive", key, reply)
    async with client(server, key) as connection:
        for text in ("text", "empty", "octets", "201", "400", "not UTF-8", "last"):
            await connection.send(text)
        assert [await receive(connection) for _ in range(3)] == ["zurück ü", b"\xff\x00", "echo last"]


async def test_no_reply_by_default(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """Without receive_reply the body of the answer is nobody's business."""
    server = await servers.get(kind)
    backend.on("/receive", key, Answer(body=b"not for you"))
    async with client(server, key) as connection:
        await connection.send("x")
        await backend.wait("/receive", key)
        await connection.send("y")
        await backend.wait("/receive", key, 2)
        assert (await send(server, key)).body == OK
        assert await receive(connection) == "hello"


async def test_message_size(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """EKBO_MAX_MESSAGE_SIZE holds for messages, in one frame or in fragments."""
    server = await servers.get(kind, BIG)
    async with client(server, key) as connection:
        await connection.send(b"x" * 1_000_000)
        await connection.send(["y" * 300_000, "z" * 300_000])
        await backend.wait("/receive", key, 2)
    assert [len(request.body) for request in backend.seen("/receive", key)] == [1_000_000, 600_000]


# A kept-alive connection that the backend closes under a request


@pytest.mark.parametrize("path", ["/connect", "/establish", "/receive", "/close"])
async def test_kept_alive_close(
    kind: str, path: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """The request is made once more on a new connection, with the same event id; nobody notices."""
    server = await servers.get(kind)
    caught = ""

    def hang_up_once(request: Request) -> Answer:
        nonlocal caught
        if not caught and request.nth > 1:
            caught = request.key
            return Answer(hang_up=True)
        return welcome(request.key) if path == "/connect" else Answer()

    for _ in range(10):
        key = fresh("h")
        backend.on(path, key, hang_up_once)
        async with client(server, key) as connection:
            await backend.wait("/establish", key, 2 if (path, caught) == ("/establish", key) else 1)
            await connection.send("up")
            await backend.until(lambda key=key: bool(backend.seen("/receive", key)), "receive")  # type: ignore[misc]
        await backend.until(lambda key=key: bool(backend.seen("/close", key)), "close")  # type: ignore[misc]
        if caught:
            break
    assert caught, "no callback came over a kept-alive connection"
    await backend.until(lambda: len(backend.seen(path, caught)) == 2, "the second try")
    await backend.quiet(path, caught, 2)
    first, second = backend.seen(path, caught)
    assert first.connection != second.connection
    assert first.body == second.body
    assert first.one("X-Kuiperbelt-Connection") == second.one("X-Kuiperbelt-Connection")
    if path != "/connect":
        assert event_id(first) == event_id(second)


async def test_backend_that_closes_after_each_answer(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """No callback fails although each connection is closed, unannounced, after its first answer."""
    server = await servers.get(kind)
    backend.on("/connect", key, Answer(headers=[("X-Kuiperbelt-Session", key)], close=True))
    for path in ("/establish", "/receive", "/close"):
        backend.on(path, key, Answer(close=True))
    async with client(server, key) as connection:
        for number in range(30):
            await connection.send(str(number))
        await backend.until(lambda: len(backend.seen("/receive", key)) >= 30, "30 frames")
    await backend.until(lambda: bool(backend.seen("/close", key)), "close")
    once = {event_id(request): request.body for request in backend.seen("/receive", key)}
    assert list(once.values()) == [b"%d" % number for number in range(30)]


async def test_backend_that_closes_at_random(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str], evidence: Evidence
) -> None:
    """As a request comes or after an answer: nobody is refused, and each event is answered once, in order."""
    server = await servers.get(kind)
    rng, clients, frames = random.Random(5), 8, 12
    heard: list[Request] = []

    def moody(request: Request) -> Answer:
        if request.nth > 1 and rng.random() < 0.4:
            return Answer(hang_up=True)
        heard.append(request)
        answer = welcome(request.key) if request.path == "/connect" else Answer()
        return replace(answer, close=rng.random() < 0.4)

    keys = [fresh("r") for _ in range(clients)]
    for path in ("/connect", "/establish", "/receive", "/close"):
        for key in keys:
            backend.on(path, key, moody)

    async def visit(key: str) -> None:
        async with client(server, key) as connection:  # fails at a 502
            for number in range(frames):
                await connection.send(str(number))

    await asyncio.gather(*(visit(key) for key in keys))
    with contextlib.suppress(AssertionError):
        await backend.until(lambda: len(heard) >= clients * (frames + 3), "all events", 10)
    await asyncio.sleep(0.3)  # for events too many
    events = Counter((request.path, request.key, request.body) for request in heard)
    expected = clients * (frames + 3)
    evidence(Figures(1, expected, expected - len(events), len(heard) - len(events)))
    assert (len(events), len(heard)) == (expected, expected)
    for key in keys:
        found = [request.body for request in heard if (request.path, request.key) == ("/receive", key)]
        assert found == [b"%d" % number for number in range(frames)]
    asked = [request for key in keys for path in ("/receive", "/close") for request in backend.seen(path, key)]
    assert len(asked) > len({event_id(request) for request in asked}), "no connection broke under a request"


# The ends of a session. Each of them makes exactly one close event.


async def ended_once(backend: Backend, key: str, reason: str, *codes: str, timeout: float = 5.0) -> Request:
    """The only close event of a session, which must have this reason and one of these codes."""
    await backend.wait("/close", key, timeout=timeout)
    await backend.quiet("/close", key, 1)
    (event,) = backend.seen("/close", key)
    assert (event.method, event.body) == ("POST", b"")
    assert event.one("X-Kuiperbelt-Close-Reason") == reason
    assert event.one("X-Kuiperbelt-Close-Code") in codes, event
    return event


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_end_client(kind: str, code: int, servers: Servers, backend: Backend, key: str) -> None:
    """The client closes; its code is told."""
    server = await servers.get(kind)
    async with client(server, key) as connection:
        await backend.wait("/establish", key)
        await connection.close(code, "any words")
        # daphne answers every Close with 1000.
        assert connection.close_code == (code if kind != "daphne" else 1000)
    await ended_once(backend, key, "client", str(code))
    assert (await send(server, key)).body == not_found(key)


async def test_end_client_without_code(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """A Close frame without a code is a client's close as well (1005, RFC 6455 7.1.5)."""
    server = await servers.get(kind)
    async with RawWebSocket.connected(server, key) as raw:
        await backend.wait("/establish", key)
        await raw.write(masked(CLOSE))
        assert await raw.closed() in (1000, 1005)
        await ended_once(backend, key, "client", "1005")


@pytest.mark.parametrize("how", ["FIN", "RST", "RST in a frame", "FIN in a frame"])
async def test_end_lost(kind: str, how: str, servers: Servers, backend: Backend, key: str) -> None:
    """The connection breaks without a Close frame: 1006, lost; what was cut is not received."""
    server = await servers.get(kind)
    async with RawWebSocket.connected(server, key) as raw:
        await backend.wait("/establish", key)
        if "frame" in how:
            await raw.write(masked(TEXT, b"x" * 1000)[:300])
            await asyncio.sleep(0.05)
        if how.startswith("RST"):
            reset(raw.writer)
        else:
            raw.writer.close()
        await ended_once(backend, key, "lost", "1006")
    assert (await send(server, key)).body == not_found(key)
    assert not backend.seen("/receive", key)


@at_once(kind=KINDS)
async def test_end_idle(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """Nothing for idle_timeout: 4002."""
    server = await servers.get(kind, IDLE)
    async with client(server, key) as connection:
        began = time.monotonic()
        end = await ending(connection)
        assert 0.5 < time.monotonic() - began < 2.5
        assert (end.code, end.reason) == (4002, "idle" if kind != "daphne" else "")
    await ended_once(backend, key, "idle", "4002")
    assert (await send(server, key)).body == not_found(key)


@at_once(kind=KINDS, way=["frames in", "frames out"])
async def test_idle_is_extended(kind: str, way: str, servers: Servers, backend: Backend, key: str) -> None:
    """A data frame either way extends."""
    server = await servers.get(kind, IDLE)
    async with client(server, key) as connection:
        for _ in range(9):
            await asyncio.sleep(0.15)
            if way == "frames in":
                await connection.send("alive")
            else:
                assert (await send(server, key)).body == OK
        assert not backend.seen("/close", key)
        assert (await ending(connection)).code == 4002


@at_once(kind=KINDS, opcode=[PONG, PING])
async def test_idle_and_control_frames(kind: str, opcode: int, servers: Servers, backend: Backend, key: str) -> None:
    """Pongs do not extend; a client's pings do where the server shows them, which daphne does not."""
    server = await servers.get(kind, IDLE)
    async with RawWebSocket.connected(server, key) as raw:
        began = time.monotonic()

        async def chatter() -> None:
            while True:
                await raw.write(masked(opcode, b"?"))
                await asyncio.sleep(0.15)

        task = asyncio.create_task(chatter())
        if opcode == PING and kind != "daphne":
            await asyncio.sleep(1.5)
            assert not backend.seen("/close", key)
        else:
            assert await raw.closed() == 4002
            assert time.monotonic() - began < 3.0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@at_once(kind=KINDS)
async def test_end_by_backend(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """/close makes no close event, also when the client vanishes instead of answering."""
    server = await servers.get(kind)
    async with RawWebSocket.connected(server, key) as raw:
        await backend.wait("/establish", key)
        assert (await close(server, key)).body == OK
        reset(raw.writer)
    await backend.quiet("/close", key, 0, 0.6)


async def test_close_callback_fails(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """A failing close callback harms nobody: the session is gone all the same."""
    server = await servers.get(kind, SHORT)
    backend.on("/close", key, Answer(status=500, body=b"broken"))
    async with client(server, key):
        await backend.wait("/establish", key)
    await backend.until(lambda: bool(backend.seen("/close", key)), "close")
    assert (await send(server, key)).body == not_found(key)
    assert len({event_id(request) for request in backend.seen("/close", key)}) == 1


async def test_end_shutdown(kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]) -> None:
    """SIGTERM: 1012 where the server can say so, and one close event each; also of clients that do not answer."""
    server = await servers.start(kind)
    keys = [fresh("t") for _ in range(5)]
    stubborn = fresh("t")
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client(server, key)) for key in keys]
        await stack.enter_async_context(RawWebSocket.connected(server, stubborn))
        for key in (*keys, stubborn):
            await backend.wait("/establish", key)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for connection in connections:
            end = await ending(connection, timeout=12)
            assert end.code == 1012 if kind != "daphne" else end.code in (4012, None)
        await asyncio.wait_for(server.process.wait(), 12)
        assert time.monotonic() - began < 12
    assert server.process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    for key in (*keys, stubborn):
        (event,) = await backend.wait("/close", key)
        assert event.one("X-Kuiperbelt-Close-Reason") == "shutdown"
        assert event.one("X-Kuiperbelt-Close-Code") in ("1012", "4012")
