"""The bad network that other tests rely on: it delays, swallows and resets, and otherwise loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator

import pytest

from tests.network import Wire
from tests.redis_servers import eventually

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that says what it hears; its port, and what it heard."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                heard.append(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            heard.append(b"reset")
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()


@contextlib.asynccontextmanager
async def through(wire: Wire) -> AsyncIterator[Stream]:
    """A connection through the wire."""
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def says(stream: Stream, data: bytes, timeout: float = 5.0) -> bytes:
    """Say something and hear as many bytes."""
    reader, writer = stream
    writer.write(data)
    async with asyncio.timeout(timeout):
        return await reader.readexactly(len(data))


async def hears_nothing(stream: Stream) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await stream[0].readexactly(1)


async def test_everything_passes_in_order() -> None:
    data = os.urandom(5_000_000)
    async with echo() as (port, _), Wire.running(port) as wire, through(wire) as stream:
        assert await says(stream, data) == data
        stream[1].write_eof()
        async with asyncio.timeout(5):
            assert await stream[0].read() == b""


async def test_latency() -> None:
    async with echo() as (port, _), Wire.running(port, 0.1) as wire, through(wire) as stream:
        began = time.monotonic()
        assert await says(stream, b"hello") == b"hello"
        assert 0.2 <= time.monotonic() - began < 2
        wire.latency = 0
        began = time.monotonic()
        assert await says(stream, b"hello") == b"hello"
        assert time.monotonic() - began < 0.2


async def test_stalled_there() -> None:
    async with echo() as (port, heard), Wire.running(port) as wire, through(wire) as stream:
        wire.stall(back=False)
        stream[1].write(b"late")
        await hears_nothing(stream)
        assert not heard
        wire.resume()
        async with asyncio.timeout(5):
            assert await stream[0].readexactly(4) == b"late"


async def test_stalled_back_and_new_connections_too() -> None:
    async with echo() as (port, heard), Wire.running(port) as wire, through(wire) as stream:
        wire.stall(there=False)
        async with through(wire) as new:
            for one in (stream, new):
                one[1].write(b"1234")
                await hears_nothing(one)
            assert b"".join(heard) == b"12341234"
            wire.resume()
            for one in (stream, new):
                async with asyncio.timeout(5):
                    assert await one[0].readexactly(4) == b"1234"


async def test_frozen_connections_say_nothing_new_ones_work() -> None:
    async with echo() as (port, _), Wire.running(port) as wire, through(wire) as old:
        assert await says(old, b"first") == b"first"
        wire.freeze()
        old[1].write(b"more")
        async with through(wire) as new:
            assert await says(new, b"hello") == b"hello"
            await hears_nothing(old)
            # A connection whose end is swallowed stays open at the other side.
            old[1].close()
            await asyncio.sleep(0.1)
            assert len(wire.passing) == 2


async def test_cut() -> None:
    async with echo() as (port, heard), Wire.running(port) as wire, through(wire) as stream:
        assert await says(stream, b"first") == b"first"
        wire.cut()
        with pytest.raises(ConnectionResetError):
            await says(stream, b"second")

        async def reset() -> bool:
            return b"reset" in heard

        await eventually(reset, "the reset at the other end", 5)
        async with through(wire) as new:
            assert await says(new, b"third") == b"third"
        assert wire.accepted == 2


async def test_nobody_listens_there() -> None:
    async with echo() as (port, _):
        pass
    async with Wire.running(port) as wire, through(wire) as stream:
        with pytest.raises(ConnectionResetError):
            await says(stream, b"hello")
