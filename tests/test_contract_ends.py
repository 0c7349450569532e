"""Ends that race with something else: each auth 200 has one close event, nobody else is harmed; on every server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import struct
import time
from collections.abc import Callable

import pytest

from tests.at_once import at_once
from tests.backend import Answer, Backend, reset, welcome
from tests.clients import CLOSE, RawWebSocket, client, close, ending, masked, receive, send
from tests.servers import KINDS, Server, Servers
from tests.vectors_api import OK, not_found

pytestmark = pytest.mark.usefixtures("clean_logs")

SESSIONS = 10
QUIET, WAITING = (3.0, 0), (0.2, 5)  # seconds before the end, frames of each client that wait for the backend
CODED = [("X-Kuiperbelt-Close-Code", "4000"), ("X-Kuiperbelt-Close-Reason", "go home")]


async def vanish(server: Server, backend: Backend, key: str, delay: float = 1.0) -> None:
    """A client that connects as `key` and is reset while the establish callback takes its time."""
    backend.on("/establish", key, Answer(delay=delay))
    async with RawWebSocket.connected(server, key) as raw:
        await backend.wait("/establish", key)
        reset(raw.writer)


@at_once(kind=KINDS, was=[QUIET, WAITING])
async def test_shutdown_tells_the_backend_of_everyone(
    kind: str, was: tuple[float, int], servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """However long nothing happened before SIGTERM, and though frames wait for a slow receive callback."""
    quiet, frames = was
    server = await servers.start(kind)
    keys = [fresh("end") for _ in range(SESSIONS)]
    async with contextlib.AsyncExitStack() as stack:
        for key in keys:
            backend.on("/receive", key, Answer(delay=2.0))
            backend.on("/close", key, Answer(delay=0.3))
            connection = await stack.enter_async_context(client(server, key))
            for _ in range(frames):
                await connection.send("waits")
        await asyncio.sleep(quiet)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for key in keys:
            (event,) = await backend.wait("/close", key, timeout=10)
            assert event.one("X-Kuiperbelt-Close-Reason") == "shutdown"
        await server.process.wait()
        assert time.monotonic() - began < 8
        assert server.process.returncode == 0


@at_once(kind=KINDS)
async def test_a_handshake_whose_client_has_gone_replaces_nobody(
    kind: str, servers: Servers, backend: Backend, key: str
) -> None:
    """The newest connection owns the key, and that isn't one which nobody waits for any more."""
    server = await servers.get(kind)
    backend.on("/connect", key, welcome(key, delay=0.6))
    async with RawWebSocket.open(server) as raw:
        raw.writer.write(raw.encode("GET", f"/connect?key={key}", HANDSHAKE))
        await backend.wait("/connect", key)
        reset(raw.writer)
    backend.on("/connect", key, welcome(key))
    async with client(server, key) as connection:
        (event,) = await backend.wait("/close", key)
        assert event.one("X-Kuiperbelt-Close-Reason") == "handshake"
        assert (await send(server, key, b"still here")).body == OK
        assert await receive(connection) == "still here"


@at_once(kind=KINDS)
async def test_a_session_whose_socket_has_gone_does_not_stop_its_successor(
    kind: str, servers: Servers, backend: Backend, key: str
) -> None:
    """A client that vanished during establish comes back: 101, and each of its connections has one close event."""
    server = await servers.get(kind)
    await vanish(server, backend, key)
    await asyncio.sleep(0.1)
    backend.on("/establish", key, Answer())
    async with client(server, key) as connection:
        await backend.wait("/close", key)
        assert (await send(server, key, b"back")).body == OK
        assert await receive(connection) == "back"
    await backend.wait("/close", key, 2)


@at_once(kind=KINDS)
async def test_idle_sessions_end_though_one_has_vanished(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """A session that is idle and has no socket any more doesn't keep the others from being ended."""
    server = await servers.get(kind, {"EKBO_IDLE_TIMEOUT": "600ms"})
    gone, stays = fresh("gone"), fresh("stays")
    async with client(server, stays) as connection:
        await vanish(server, backend, gone, 1.5)
        assert (await ending(connection)).code == 4002
    await backend.wait("/close", gone)


async def test_close_of_a_session_whose_socket_has_gone(
    kind: str, servers: Servers, backend: Backend, key: str
) -> None:
    """The last frame can't be written, which the answer says; then the close event comes, unless Close was taken."""
    server = await servers.get(kind)
    await vanish(server, backend, key)
    await asyncio.sleep(0.2)
    answer = await close(server, key, b"bye")
    assert b'"kuiperbelt: session is closed"' in answer.body
    (event,) = await backend.wait("/close", key)
    assert event.one("X-Kuiperbelt-Close-Reason") == "lost"
    assert (await send(server, key)).body == not_found(key)


TOLD = ("X-Kuiperbelt-Close-Callback", "true")


def reasons(backend: Backend, key: str) -> list[str | None]:
    """Of the close events that came for a key."""
    return [event.one("X-Kuiperbelt-Close-Reason") for event in backend.seen("/close", key)]


async def test_close_by_somebody_else(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """The client gets what it gets of the backend's own /close, and the backend, which didn't ask for it, its event."""
    server = await servers.get(kind)
    async with client(server, key) as connection:
        answer = await close(server, key, b"bye", TOLD, *CODED)
        assert answer.body == OK
        # What the backend does about it too late finds nobody, and changes nothing.
        assert (await close(server, key)).body == not_found(key)
        end = await ending(connection)
        assert (end.frames, end.code, end.reason) == (["bye"], 4000, "" if kind == "daphne" else "go home")
    (event,) = await backend.wait("/close", key)
    assert (event.one("X-Kuiperbelt-Close-Code"), reasons(backend, key)) == ("4000", ["operator"])
    await backend.quiet("/close", key, 1)


async def test_close_without_a_registry_is_told_as_well(
    kind: str, servers: Servers, backend: Backend, key: str
) -> None:
    server = await servers.get(kind, {"EKBO_REGISTRY": "false"})
    async with client(server, key) as connection:
        assert (await close(server, key, b"", TOLD)).body == OK
        assert (await ending(connection)).code == 1000
    await backend.wait("/close", key)
    assert reasons(backend, key) == ["operator"]


async def test_close_by_somebody_else_while_the_client_leaves(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """Whoever was first, and whichever way the client leaves: one event each, and of nobody else's close."""
    server = await servers.get(kind)
    keys = [fresh("race") for _ in range(SESSIONS)]
    async with contextlib.AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(RawWebSocket.connected(server, key)) for key in keys]
        await asyncio.gather(*(backend.wait("/establish", key) for key in keys))

        async def leave(number: int, raw: RawWebSocket) -> None:
            await asyncio.sleep(number * 0.001)
            if number % 2:
                reset(raw.writer)
            else:
                await raw.write(masked(CLOSE, struct.pack("!H", 1001)))

        leaving = [leave(number, raw) for number, raw in enumerate(raws)]
        await asyncio.gather(close(server, ",".join(keys), b"", TOLD), *leaving)
        await asyncio.gather(*(backend.wait("/close", key) for key in keys))
    await asyncio.sleep(0.2)
    told = [reasons(backend, key) for key in keys]
    assert [len(each) for each in told] == [1] * SESSIONS, told
    assert {reason for (reason,) in told} <= {"operator", "client", "lost"}


HANDSHAKE = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]
