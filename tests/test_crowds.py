"""Crowds: a reconnect storm over the connect rate limit, and a deploy under many connections, some of them stalled.

`make faults FAULTS_ROUNDS=full` makes them as large as the fault table promises: STORM_CLIENTS, which come back
STORM_TRIES times, and DEPLOY_CONNECTIONS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.backend import Backend
from tests.clients import Http, RawWebSocket, request
from tests.evidence import Evidence, Figures
from tests.servers import ROOT, Server, Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

STORM_CLIENTS = int(os.environ.get("STORM_CLIENTS", "300"))
STORM_TRIES = int(os.environ.get("STORM_TRIES", "1"))
RATE = 100  # handshakes a second
PUSHES = 100  # a second
CALM = 1.0  # seconds of pushes before the storm
P99 = 1.0  # seconds; in a short storm, which is over after a few dozen pushes, it is the slowest

CONNECTIONS = int(os.environ.get("DEPLOY_CONNECTIONS", "150"))
STALLED = CONNECTIONS // 15  # of them
WINDOW = CONNECTIONS / 100  # seconds of the drain: 10 for 1,000
LARGE = b"x" * 400_000  # bytes that a stalled client's socket can't take


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


async def push_on(server: Server, key: str, socket: RawWebSocket, took: list[float]) -> None:
    """Push again and again, and note the seconds from each request to its frame, until cancelled."""
    async with Http.open(server) as http:
        while True:
            began = time.monotonic()
            await http.write(http.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"x"))
            await socket.frame()
            took.append(time.monotonic() - began)
            assert (await http.response()).status == 200
            await asyncio.sleep(max(0.0, began + 1 / PUSHES - time.monotonic()))


@contextlib.asynccontextmanager
async def crowd(server: Server) -> AsyncIterator[Any]:
    """A storm that is over; what became of it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.crowd", str(server.port), str(STORM_CLIENTS), str(STORM_TRIES)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        await process.communicate(b"")
    assert process.returncode == 0


async def test_a_reconnect_storm(servers: Servers, backend: Backend, key: str, evidence: Evidence) -> None:
    """Over the rate 503 and Retry-After, so that they don't come back together; pushes keep their p99."""
    server = await servers.start("uvicorn", {"EKBO_CONNECT_RATE": str(RATE)})
    async with RawWebSocket.connected(server, key) as socket:
        took: list[float] = []
        pushing = asyncio.create_task(push_on(server, key, socket, took))
        await asyncio.sleep(CALM)
        calm, took[:] = list(took), []
        asked = len(backend.requests)
        async with crowd(server) as found:
            storm = list(took)
            pushing.cancel()
            answers, waits = found["answers"], {int(seconds): count for seconds, count in found["waits"].items()}
            line = f"{STORM_CLIENTS} clients: {answers}, {found['seconds']:.1f} s"
            print(f"\n{line}; pushes: p99 {p99(calm) * 1e3:.1f} ms before, {p99(storm) * 1e3:.1f} ms in the storm")
            evidence(Figures(events=len(storm), worst=p99(storm)))
            assert set(answers) == {"101", "503"}
            assert sum(waits.values()) == answers["503"]
            assert set(waits) <= set(range(1, 11))
            assert len(set(waits)) > 5
            assert answers["101"] <= RATE * (1 + found["seconds"])
            if STORM_TRIES > 1:
                assert answers["101"] == STORM_CLIENTS
            connects = [each for each in backend.requests[asked:] if each.path == "/connect"]
            assert len(connects) == answers["101"]  # the others weren't asked about
            assert p99(storm) < (P99 if STORM_TRIES == 1 else max(2 * p99(calm), 0.1))
    await server.stop()


async def test_a_deploy(servers: Servers, backend: Backend, fresh: Callable[[str], str], evidence: Evidence) -> None:
    """Closed one by one, all told once, by this process or the next; gone in time though some don't read."""
    env = {"EKBO_DRAIN_WINDOW": f"{WINDOW:g}s", "EKBO_BLOCKED_TIMEOUT": "60s", "EKBO_MAX_BACKLOG_SIZE": "100000000"}
    server = await servers.start("uvicorn", env)
    keys = [fresh("deploy") for _ in range(CONNECTIONS)]
    async with contextlib.AsyncExitStack() as stack:

        async def connected(key: str, receive_buffer: int = 0) -> RawWebSocket:
            return await stack.enter_async_context(RawWebSocket.connected(server, key, (), receive_buffer))

        for key in keys[:STALLED]:
            await connected(key, 4096)
        await stalled(server, keys[:STALLED])
        reading = [await connected(key) for key in keys[STALLED:]]
        began = time.monotonic()

        async def end(socket: RawWebSocket) -> tuple[int | None, float]:
            return await socket.closed(timeout=WINDOW + 10), time.monotonic() - began

        server.signal(signal.SIGTERM)
        ends, _ = await asyncio.gather(
            asyncio.gather(*map(end, reading)), asyncio.wait_for(server.process.wait(), WINDOW + 20)
        )
        seconds = time.monotonic() - began
    assert server.process.returncode == 0
    moments = sorted(moment for _, moment in ends)
    told = len(ended(backend, keys))
    print(
        f"\n{CONNECTIONS} connections, {STALLED} stalled: window {WINDOW:g} s, gone after {seconds:.1f} s, told {told}"
    )
    await server.restart()
    await backend.until(lambda: {one.key for one in ended(backend, keys)} == {*keys}, "all ends", timeout=20)
    events = {(one.key, one.one("X-Kuiperbelt-Event-Id")) for one in ended(backend, keys)}
    evidence(Figures(events=CONNECTIONS, duplicated=len(ended(backend, keys)) - len(keys), worst=seconds - WINDOW))
    assert len(events) == CONNECTIONS  # one for each, however often it was told
    assert {code for code, _ in ends} == {1012}
    assert moments[len(moments) // 2] > WINDOW / 4  # spread
    assert moments[-1] < WINDOW + 2
    assert seconds < WINDOW + 5
    await server.stop()


def ended(backend: Backend, keys: list[str]) -> list[Any]:
    wanted = {*keys}
    return [one for one in backend.requests if one.path == "/close" and one.key in wanted]


async def stalled(server: Server, keys: list[str]) -> None:
    """Send until all these sockets are blocked: then a `/send` isn't answered any more."""

    async def block(key: str) -> None:
        with contextlib.suppress(TimeoutError):
            for _ in range(50):
                await request(server, "POST", "/send", [("X-Kuiperbelt-Session", key)], LARGE, timeout=1)
            pytest.fail("it takes everything")

    await asyncio.gather(*map(block, keys))
