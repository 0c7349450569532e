"""The keep-alive time-out of HTTP connections, in this process, so that it can be a short one."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from proxy.handlers import Receive, Scope, Send
from proxy.http_keepalive import KeptAlive

LIMIT = 1  # seconds; uvicorn takes whole ones
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def slow_application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/slow":
        await asyncio.sleep(LIMIT * 1.3)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def connection() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config: Any = uvicorn.Config(slow_application, timeout_keep_alive=LIMIT, log_config=None, lifespan="off")
    config.load()
    protocol = partial(KeptAlive, config, ServerState(), {})
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield reader, writer
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def answered(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(LIMIT * 3):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        assert await reader.readexactly(2) == b"ok"


async def rest(reader: asyncio.StreamReader) -> float:
    """How long the server lets the connection rest."""
    began = time.monotonic()
    async with asyncio.timeout(LIMIT * 3):
        assert await reader.read() == b""
    return time.monotonic() - began


async def test_a_connection_at_rest_is_ended(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """The limit counts from the last answer, not from the first."""
    reader, writer = connection
    for _ in range(3):
        writer.write(REQUEST)
        await answered(reader)
        await asyncio.sleep(LIMIT * 0.6)
    writer.write(REQUEST * 2)
    await answered(reader)
    await answered(reader)
    assert LIMIT * 0.9 < await rest(reader) < LIMIT * 2


async def test_one_with_a_request_is_not(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Neither while the application takes its time, nor in the middle of a request."""
    reader, writer = connection
    writer.write(REQUEST + REQUEST.replace(b"/ ", b"/slow "))
    await answered(reader)
    await answered(reader)
    writer.write(REQUEST[:9])
    await asyncio.sleep(LIMIT * 1.3)
    writer.write(REQUEST[9:])
    await answered(reader)
