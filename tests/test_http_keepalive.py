"""The time-outs of HTTP connections, in this process, so that they can be short ones."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import uvicorn
from django.test import override_settings
from uvicorn.server import ServerState

from proxy.conf import Options
from proxy.handlers import Receive, Scope, Send
from proxy.push_lane import PushLane
from proxy.server import uvicorn_config
from proxy.stats import stats
from tests.clients import dripped, hung_up

LIMIT = 1  # seconds; uvicorn takes whole ones
HEAD, BODY = 0.3, 0.4  # seconds
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """/slow takes its time, /late reads its body after that, /stream answers while it comes in, others before."""
    if scope["path"] in ("/slow", "/late"):
        await asyncio.sleep(LIMIT * 1.3)
    if scope["path"] == "/late":
        await read_body(receive)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    if scope["path"] == "/stream":
        await read_body(receive)
    await send({"type": "http.response.body", "body": b"ok"})


async def read_body(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


@contextlib.asynccontextmanager
async def connected(**options: float) -> AsyncIterator[Connection]:
    config: Any = uvicorn.Config(application, timeout_keep_alive=LIMIT, log_config=None, lifespan="off")
    config.load()
    loop = asyncio.get_running_loop()
    with override_settings(KUIPERBELT=Options(**({"header_timeout": HEAD, "body_timeout": BODY} | options))):  # type: ignore[arg-type]
        server = await loop.create_server(partial(PushLane, config, ServerState(), {}), "127.0.0.1", 0)
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


# At rest


def test_callers_close_first() -> None:
    """nginx keeps a connection to the proxy for 60 s (its keepalive_timeout for upstreams)."""
    assert uvicorn_config(application, Options(connect_callback="http://127.0.0.1:9/")).timeout_keep_alive > 60


async def test_a_connection_at_rest_is_ended() -> None:
    """The limit counts from the last answer, not from the first."""
    async with connected() as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST)
            await answered(reader)
            await asyncio.sleep(LIMIT * 0.6)
        writer.write(REQUEST * 2)
        await answered(reader)
        await answered(reader)
        assert LIMIT * 0.9 < await hung_up(reader) < LIMIT * 2


async def test_one_with_a_request_is_not() -> None:
    """Neither while the application takes its time, longer than for a head, nor in the middle of a request."""
    async with connected(header_timeout=LIMIT * 2) as (reader, writer):
        writer.write(REQUEST + REQUEST.replace(b"/ ", b"/slow "))
        await answered(reader)
        await answered(reader)
        writer.write(REQUEST[:9])
        await asyncio.sleep(LIMIT * 1.3)
        writer.write(REQUEST[9:])
        await answered(reader)


# Heads


async def test_who_says_nothing() -> None:
    before = stats.request_timeouts
    async with connected() as (reader, _):
        assert HEAD * 0.9 < await hung_up(reader) < HEAD * 2
    assert stats.request_timeouts == before + 1


async def test_a_dripped_head() -> None:
    async with connected() as (reader, writer):
        assert HEAD * 0.9 < await dripped(reader, writer, REQUEST) < HEAD * 2


@pytest.mark.parametrize("drip", [REQUEST, b"\r\n" * 20])
async def test_a_dripped_head_after_an_answer(drip: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(REQUEST)
        await answered(reader)
        await asyncio.sleep(LIMIT * 0.6)  # at rest it may be longer than for a head
        assert HEAD * 0.9 < await dripped(reader, writer, drip) < HEAD * 2


async def test_a_slow_application_is_left_alone() -> None:
    """Also when a piece of the next head is here already, whose time begins with the answer."""
    async with connected() as (reader, writer):
        writer.write(REQUEST.replace(b"/ ", b"/slow ") + REQUEST[:5])
        await answered(reader)
        assert HEAD * 0.9 < await dripped(reader, writer, REQUEST[5:]) < HEAD * 2


async def test_each_head_has_its_own_time() -> None:
    async with connected() as (reader, writer):
        for _ in range(3):
            for part in (REQUEST[:5], REQUEST[5:]):
                writer.write(part)
                await asyncio.sleep(HEAD * 0.6)
            await answered(reader)


async def test_off() -> None:
    async with connected(header_timeout=0, body_timeout=0) as (reader, writer):
        for part in (b"", REQUEST[:5], REQUEST[5:] + post("/", 2) + b"x"):
            writer.write(part)
            await asyncio.sleep(HEAD * 2)
        writer.write(b"x" + REQUEST)
        for _ in range(3):
            await answered(reader)


# Bodies


def post(path: str, size: int = 100) -> bytes:
    return b"POST %s HTTP/1.1\r\nx-kuiperbelt-session: nobody\r\ncontent-length: %d\r\n\r\n" % (path.encode(), size)


@pytest.mark.parametrize("path", ["/late", "/send"])
async def test_a_dripped_body(path: str) -> None:
    """One that the application reads, and one that the push lane does."""
    async with connected() as (reader, writer):
        writer.write(REQUEST)
        await answered(reader)
        writer.write(post(path))
        assert BODY * 0.9 < await dripped(reader, writer, b"x" * 99) < BODY * 2


async def test_a_dripped_body_that_nobody_wants_any_more() -> None:
    async with connected() as (reader, writer):
        writer.write(post("/"))
        await answered(reader)
        assert BODY * 0.5 < await dripped(reader, writer, b"x" * 99) < BODY * 2


async def test_a_body_whose_answer_has_begun_has_its_own_pace() -> None:
    """A batch's: only silence ends it."""
    async with connected() as (reader, writer):
        writer.write(post("/stream"))
        for _ in range(4):
            await asyncio.sleep(BODY / 2)
            writer.write(b"x")
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert BODY * 0.5 < await hung_up(reader) < BODY * 2


async def test_a_body_that_is_not_read_is_left_alone() -> None:
    size = 4 << 20
    async with connected() as (reader, writer):
        writer.write(post("/late", size) + b"x" * size)
        await answered(reader)
