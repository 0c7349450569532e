"""A short form of `make debug`: what clients and callers do most, of servers in asyncio's and Python's debug modes.

What a server complained of, `Server.complaints` says: a coroutine that nobody awaited, something that was left open, a
callback that took longer than SLOW_LIMIT.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

from tests.backend import Answer, Backend, reset
from tests.clients import TIMEOUT, Http, RawWebSocket, client, close, ending, receive, request, send
from tests.servers import Server, Servers
from tests.test_upstream import handshake
from tests.vectors import each_of

DEBUG = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "PYTHONMALLOC": "pymalloc"}
CLIENTS = 20
kind = each_of(("cluster", "daphne"))  # a node of the one is uvicorn, which has the push lane


async def speak(server: Server, backend: Backend, key: str) -> None:
    """One client: pushes, a batch, a frame of its own, and an end that depends on its key."""
    async with client(server, key) as connection, Http.open(server) as here, Http.open(server.api) as http:
        for number in range(10):
            for each in (here, http):
                answer = await each.request("POST", "/send", [("X-Kuiperbelt-Session", key)], b"%d" % number)
                assert answer.status == 200
                assert await receive(connection) == str(number)
        line = json.dumps({"session": key, "body": "of a batch"}).encode()
        assert (await http.request("POST", "/batch", [], line + b"\n")).status == 200
        assert await receive(connection) == "of a batch"
        await connection.send("of the client")
        await backend.wait("/receive", key)
        assert (await send(server.api, f"not-{key}", b"x")).status == 200
        if key[-1] in "02468":
            assert (await close(server.api, key, b"bye")).status == 200
            assert (await ending(connection)).code == 1000
        elif key[-1] in "ace":
            connection.transport.abort()


async def hang_up(server: Server, path: str) -> None:
    """In the middle of a request, and of a handshake that the backend takes its time for."""
    async with RawWebSocket.open(server) as socket:
        await socket.write(socket.encode("POST", path, [("Content-Length", "9")], b"x"))
        await asyncio.sleep(0.05)
        reset(socket.writer)


async def test_what_is_done_most(kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]) -> None:
    server = await servers.start(kind, DEBUG | {"EKBO_DRAIN_WINDOW": "500ms"})
    refused, slow = fresh("refused"), fresh("slow")
    backend.on("/connect", refused, Answer(status=401))
    backend.on("/connect", slow, Answer(delay=0.5))
    async with asyncio.timeout(TIMEOUT * 3):
        await asyncio.gather(*(speak(server, backend, fresh("k")) for _ in range(CLIENTS)))
        await asyncio.gather(*(hang_up(server, path) for path in ("/send", "/batch", "/sessions", "/admin/", "/x") * 2))
        assert (await handshake(server, refused))[0].status in (401, 403)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await handshake(server, slow)
        for path in ("/ping", "/stats", "/metrics", "/sessions", "/ready", "/admin/login/"):
            assert (await request(server.api, "GET", path)).status == 200
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(CLIENTS):
                await stack.enter_async_context(client(server, fresh("drained")))
            assert await server.stop() == 0
    assert not (server.complaints() + (server.peer.complaints() if server.peer else []))
