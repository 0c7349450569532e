"""Clients that stop reading: queue, send_timeout, and the limits after which they are closed; on every server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

import pytest
from websockets.asyncio.client import ClientConnection

from tests.at_once import at_once
from tests.backend import Backend
from tests.clients import TEXT, Http, RawWebSocket, Response, client, close, receive, send
from tests.evidence import Evidence, Figures
from tests.servers import KINDS, Server, Servers
from tests.vectors_api import OK, not_found

pytestmark = pytest.mark.usefixtures("clean_logs")

# Bytes: the receive buffer of a client that does not read. One that is smaller than a loopback packet makes reading on
# take minutes, because TCP then only probes.
BUFFER = 256 * 1024
SIZE = 64 * 1024  # bytes of a frame
MOST = 400  # frames: 25 MiB, far more than the kernel's buffers take

# Blocked for ever as far as time goes, and a queue of two.
QUEUE = {
    "EKBO_SEND_QUEUE_SIZE": "2",
    "EKBO_SEND_TIMEOUT": "400ms",
    "EKBO_BLOCKED_TIMEOUT": "60s",
    "EKBO_MAX_BACKLOG_SIZE": "100000000",
}
PATIENT = QUEUE | {"EKBO_SEND_TIMEOUT": "10s"}
# Closed after a time: no queue, no send_timeout.
TIMED = {"EKBO_BLOCKED_TIMEOUT": "1s", "EKBO_MAX_BACKLOG_SIZE": "100000000"}
# Closed over a size: a long queue.
SIZED = {"EKBO_SEND_QUEUE_SIZE": "1000000", "EKBO_BLOCKED_TIMEOUT": "60s", "EKBO_MAX_BACKLOG_SIZE": "300000"}

# Many at once: short here, in full as in docs/faults.md.
FULL = "STALLED_READERS" in os.environ
READERS = int(os.environ.get("STALLED_READERS", "5"))
PHASE, TURNS = (25.0, 2) if FULL else (2.5, 1)  # seconds of reading, then of stalling; how often
SLOWER, ANYWAY = (1.2, 0.0) if FULL else (5.0, 1.0)  # of p99, and seconds: a short run can't show more


def frame(number: int) -> bytes:
    """A frame that tells its number."""
    return b"%08d" % number + b"x" * (SIZE - 8)


def failure(key: str, error: str) -> bytes:
    """The answer of a /send that was not delivered."""
    return b'{"errors":[{"error":"%s","session":"%s"}],"result":"OK"}\n' % (error.encode(), key.encode())


async def fill(server: Server, key: str, timeout: float = 5.0) -> tuple[int, Response, float]:
    """Send until an answer is not OK; how many were taken, that answer, and how long it took."""
    for number in range(MOST):
        began = time.monotonic()
        response = await send(server, key, frame(number), timeout=timeout)
        if response.body != OK:
            return number, response, time.monotonic() - began
    raise AssertionError(f"{MOST} frames of {SIZE} bytes were taken for a client that does not read")


async def closed_as_slow(kind: str, server: Server, backend: Backend, key: str) -> None:
    """The session is gone, and its only close event says why."""
    assert (await send(server, key)).body == not_found(key)
    (event,) = await backend.wait("/close", key, timeout=12)
    assert event.one("X-Kuiperbelt-Close-Reason") == "slow"
    assert event.one("X-Kuiperbelt-Close-Code") == "1013"
    await backend.quiet("/close", key, 1)


@at_once(kind=KINDS)
async def test_queue_and_send_timeout(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """With the queue full a /send waits send_timeout for room; all that was taken comes later, in order, once."""
    server = await servers.get(kind, QUEUE)
    async with RawWebSocket.connected(server, key, receive_buffer=BUFFER) as raw:
        await backend.wait("/establish", key)
        taken, response, took = await fill(server, key)
        assert response.body == failure(key, "context deadline exceeded")
        assert response.status == 200
        assert 0.35 < took < 2.0
        assert taken >= 2
        # Some of the socket's buffer may have got free in the meantime, but it is no leak.
        again = await send(server, key, frame(taken))
        numbers = []
        extra = 1 if again.body == OK else 0
        for _ in range(taken + extra):
            opcode, payload = await raw.frame()
            assert (opcode, len(payload)) == (TEXT, SIZE)
            numbers.append(int(payload[:8]))
        assert numbers == list(range(taken + extra))
        assert (await send(server, key, b"marker")).body == OK
        assert await raw.frame() == (TEXT, b"marker")
    assert len(await backend.wait("/close", key)) == 1


@at_once(kind=KINDS)
async def test_room_in_time(kind: str, servers: Servers, key: str) -> None:
    """A /send that waits for room goes on as soon as the client reads."""
    server = await servers.get(kind, PATIENT)
    async with RawWebSocket.connected(server, key, receive_buffer=BUFFER) as raw:
        sent = 0
        waiting: asyncio.Task[Response] | None = None
        while sent < MOST:
            waiting = asyncio.create_task(send(server, key, frame(sent)))
            done, _ = await asyncio.wait([waiting], timeout=1.0)
            sent += 1
            if not done:
                break
        assert waiting is not None
        assert not waiting.done(), "nothing ever waited"
        numbers = [int((await raw.frame())[1][:8]) for _ in range(sent)]
        assert (await waiting).body == OK
        assert numbers == list(range(sent))


@at_once(kind=KINDS)
async def test_blocked_for_too_long(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """With send_timeout 0 a /send waits no longer than the time after which a blocked session is closed."""
    server = await servers.get(kind, TIMED)
    async with RawWebSocket.connected(server, key, receive_buffer=BUFFER):
        await backend.wait("/establish", key)
        _, response, took = await fill(server, key)
        assert response.body == failure(key, "kuiperbelt: session is closed")
        assert took < 3.0
        await closed_as_slow(kind, server, backend, key)


@at_once(kind=KINDS)
async def test_a_steady_reader_is_not_slow(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """A client that reads all the time, but slower than is sent, stays: its socket is never blocked for long."""
    server = await servers.get(kind, TIMED)
    async with RawWebSocket.connected(server, key, receive_buffer=BUFFER) as raw:
        await backend.wait("/establish", key)

        async def push() -> list[bytes]:
            return [(await send(server, key, frame(number), timeout=30)).body for number in range(150)]

        pushing = asyncio.create_task(push())
        for number in range(150):  # 10 MiB in 3 s, three times as long as a session may be blocked
            assert int((await raw.frame())[1][:8]) == number
            await asyncio.sleep(0.02)
        assert set(await pushing) == {OK}


@at_once(kind=KINDS)
async def test_many_wait(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """All that wait for a blocked session are answered when it is closed."""
    server = await servers.get(kind, TIMED)
    async with RawWebSocket.connected(server, key, receive_buffer=BUFFER):
        await backend.wait("/establish", key)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(send(server, key, b"w" * 1_000_000)) for _ in range(40)]
        bodies = {task.result().body for task in tasks}
        closed = failure(key, "kuiperbelt: session is closed")
        assert closed in bodies
        assert bodies <= {OK, closed, not_found(key)}
        await closed_as_slow(kind, server, backend, key)


async def test_backlog_too_large(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """A session whose backlog passes the limit is closed at once, however long the queue may be."""
    server = await servers.get(kind, SIZED)
    async with RawWebSocket.connected(server, key, receive_buffer=BUFFER):
        await backend.wait("/establish", key)
        _, response, took = await fill(server, key)
        assert response.body in (failure(key, "kuiperbelt: session is closed"), not_found(key))
        assert took < 2.0
        await closed_as_slow(kind, server, backend, key)


@at_once(kind=KINDS)
async def test_limits_by_default(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """Without any option: closed after 5 s or 1 MiB, and no /send waits longer."""
    server = await servers.get(kind)
    async with RawWebSocket.connected(server, key, receive_buffer=BUFFER):
        await backend.wait("/establish", key)
        _, response, took = await fill(server, key, timeout=9)
        assert response.body in (failure(key, "kuiperbelt: session is closed"), not_found(key))
        assert took < 8.0
        await closed_as_slow(kind, server, backend, key)


@at_once(kind=KINDS)
async def test_slow_reader_is_no_stalled_one(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """A client that reads all the time, if slowly, gets everything and is not closed."""
    server = await servers.get(kind, TIMED)
    count = 60
    async with RawWebSocket.connected(server, key, receive_buffer=BUFFER) as raw:

        async def read() -> list[int]:
            numbers = []
            for _ in range(count):
                numbers.append(int((await raw.frame())[1][:8]))
                await asyncio.sleep(0.02)
            return numbers

        reading = asyncio.create_task(read())
        for number in range(count):
            assert (await send(server, key, frame(number))).body == OK
        assert await reading == list(range(count))
        assert not backend.seen("/close", key)


async def test_others_are_not_slowed(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """While some sessions are blocked and sends to them wait, sends to another one take their usual time."""
    server = await servers.get(kind, PATIENT)
    stalled = [fresh("s") for _ in range(5)]
    key = fresh("o")
    async with client(server, key) as good, contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        blocked = [
            await stack.enter_async_context(RawWebSocket.connected(server, name, receive_buffer=BUFFER))
            for name in stalled
        ]
        waiting = [group.create_task(send(server, name, b"b" * 1_000_000)) for name in stalled for _ in range(12)]
        await asyncio.sleep(0.5)
        assert sum(not task.done() for task in waiting) >= len(stalled), "nothing waits"
        times = []
        for number in range(100):
            began = time.monotonic()
            assert (await send(server, key, b"%d" % number)).body == OK
            assert await receive(good) == str(number)
            times.append(time.monotonic() - began)
        assert sum(not task.done() for task in waiting) >= len(stalled), "the others were not blocked all the time"
        assert sorted(times)[94] < 0.25, sorted(times)[-10:]
        for raw in blocked:
            raw.writer.transport.abort()
    assert all(task.result().status == 200 for task in waiting)
    for name in stalled:
        await backend.wait("/close", name)


@pytest.mark.timeout(60 + 3 * PHASE * TURNS)
async def test_stalled_readers(
    servers: Servers, backend: Backend, fresh: Callable[[str], str], evidence: Evidence
) -> None:
    """Others get their pushes as quickly as while all were reading; each that stalls is closed, and told of once."""
    server = await servers.get("uvicorn", {} if FULL else TIMED)
    other = fresh("o")
    times: dict[bool, list[float]] = {True: [], False: []}
    """Of pushes to another one while the readers read, and while they don't."""
    stalled: list[str] = []

    async def push(reads: bool, http: Http, good: ClientConnection) -> None:
        while True:
            began = time.monotonic()
            await http.request("POST", "/send", [("X-Kuiperbelt-Session", other)], b"other")
            assert await receive(good) == "other"
            times[reads].append(time.monotonic() - began)
            await asyncio.sleep(0.01)

    async def feed(key: str, reads: bool) -> None:
        """Push frames until it is closed."""
        headers, reading = [("X-Kuiperbelt-Session", key)], None
        async with (
            RawWebSocket.connected(server, key, receive_buffer=0 if reads else 4096) as socket,
            Http.open(server.api) as http,
        ):
            if reads:
                reading = asyncio.create_task(read_on(socket))
            try:
                for number in range(100_000):
                    if (await http.request("POST", "/send", headers, frame(number))).body != OK:
                        break
                    await asyncio.sleep(READERS / 500)
                await asyncio.sleep(PHASE)
            finally:
                if reading:
                    reading.cancel()
                socket.writer.transport.abort()

    def all_told() -> bool:
        return all(backend.seen("/close", key) for key in stalled)

    async with client(server, other) as good, Http.open(server.api) as pushing:
        for reads in (True, False) * TURNS:
            keys = [fresh("s") for _ in range(READERS)]
            stalled += [] if reads else keys
            tasks = [asyncio.create_task(feed(key, reads)) for key in keys]
            tasks.append(asyncio.create_task(push(reads, pushing, good)))
            done, _ = await asyncio.wait(tasks, timeout=PHASE, return_when=asyncio.FIRST_EXCEPTION)
            if not reads:  # a busy machine fills their buffers slowly
                with contextlib.suppress(AssertionError):
                    await backend.until(all_told, "their ends", 10)
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert not [end for end in ends if not isinstance(end, asyncio.CancelledError)], (reads, done)
            if reads:
                assert not [key for key in keys if "slow" in reasons_of(backend, key)]
    told = [reasons_of(backend, key) for key in stalled]
    lost, repeated = sum(not events for events in told), sum(len(events) - 1 for events in told if events)
    before, meanwhile = (sorted(times[reads])[len(times[reads]) * 99 // 100] for reads in (True, False))
    evidence(Figures(TURNS, len(stalled), lost, repeated, meanwhile))
    print(f"\n{READERS} stalled readers: p99 of others {before * 1000:.1f} ms, then {meanwhile * 1000:.1f} ms")
    assert told == [["slow"]] * len(stalled)
    assert min(map(len, times.values())) > 30
    assert meanwhile < max(SLOWER * before, ANYWAY), {reads: sorted(found)[-10:] for reads, found in times.items()}


async def read_on(socket: RawWebSocket) -> None:
    """Read, and forget, all that comes."""
    while await socket.reader.read(SIZE):
        pass


def reasons_of(backend: Backend, key: str) -> list[str]:
    """Why its sessions ended, as the backend was told."""
    return [event.one("X-Kuiperbelt-Close-Reason") or "" for event in backend.seen("/close", key)]


async def test_broadcast_past_a_stalled_session(kind: str, servers: Servers, fresh: Callable[[str], str]) -> None:
    """A send to many keys tells which one was too slow; the others got their frame."""
    server = await servers.get(kind, QUEUE)
    slow, quick = fresh("s"), fresh("q")
    async with RawWebSocket.connected(server, slow, receive_buffer=BUFFER), client(server, quick) as good:
        await fill(server, slow)
        for number in range(10):  # on a busy machine some of the socket's buffer may still get free
            response = await send(server, f"{slow},{quick}", frame(number))
            assert await receive(good) == frame(number).decode()
            if response.body != OK:
                break
        assert response.body == failure(slow, "context deadline exceeded")


async def test_close_of_a_stalled_session(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """/close is answered although the client does not read; the session is gone, without a close event."""
    server = await servers.get(kind, QUEUE)
    async with RawWebSocket.connected(server, key, receive_buffer=BUFFER):
        await backend.wait("/establish", key)
        await fill(server, key)
        response = await close(server, key)
        assert response.status == 200
        assert (await send(server, key)).body == not_found(key)
    await backend.quiet("/close", key, 0, 0.5)
