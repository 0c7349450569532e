"""Our WebSocket protocol class over real sockets, with a small ASGI application: what the proxy's own never does, too.

Conformance is in test_autobahn, what the proxy makes of it in the contract tests.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from proxy import flow, keepalive
from proxy.conf import Options
from proxy.ends import LOST, SHUTDOWN, End
from proxy.server import uvicorn_config

App = Callable[[Any, Any, Any], Awaitable[None]]


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """uvicorn in this event loop, as runproxy sets it up."""
    config = uvicorn_config(app, Options(max_message_size=1000))
    config.port, config.lifespan = 0, "off"
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


class Application:
    """Accepts, then does what it is told with each message; keeps the events."""

    def __init__(self, *on_open: dict[str, Any]) -> None:
        self.on_open = on_open
        self.events: list[dict[str, Any]] = []
        self.over = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        for message in self.on_open:
            await send(message)
        while not self.over.is_set():
            event = await receive()
            self.events.append(event)
            if event["type"] == "websocket.disconnect":
                self.over.set()

    @property
    def end(self) -> End:
        end: End = self.events[-1]["end"]
        return end


def url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/"


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    await asyncio.wait_for(client.wait_closed(), 5)
    return client.close_code, client.close_reason


async def test_messages_and_pings_reach_the_application() -> None:
    app = Application()
    async with serving(app) as (_, port), connect(url(port)) as client:
        await client.send("text")
        await client.send(["frag", "ments"])
        await client.send(b"\x00")
        await (await client.ping())
        await client.close(4000, "done")
        await asyncio.wait_for(app.over.wait(), 5)
    contents = [event.get("text", event.get("bytes", event["type"])) for event in app.events]
    assert contents == ["text", "fragments", b"\x00", "websocket.ping", "websocket.disconnect"]
    assert app.end == End(4000, "client")


async def test_lost() -> None:
    app = Application()
    async with serving(app) as (_, port):
        client = await connect(url(port))
        client.transport.abort()
        await asyncio.wait_for(app.over.wait(), 5)
    assert app.end == LOST


@pytest.mark.parametrize(("message", "code"), [("x" * 1001, 1009), (["x" * 600, "x" * 600], 1009), (b"\xc0\xc0", 1007)])
async def test_what_a_client_must_not_send(message: Any, code: int) -> None:
    app = Application()
    async with serving(app) as (_, port), connect(url(port)) as client:
        await client.send(message, text=True)
        assert (await closed(client))[0] == code
        await asyncio.wait_for(app.over.wait(), 5)
    assert app.end == End(code, "error")


async def test_close_from_the_application() -> None:
    app = Application({"type": "websocket.close", "code": 4321, "reason": "why"})
    async with serving(app) as (_, port), connect(url(port)) as client:
        assert await closed(client) == (4321, "why")


async def test_an_application_that_returns_or_fails_leaves_nothing_open(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise RuntimeError("oh no")

    async def forgets(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async with serving(fails) as (_, port), connect(url(port)) as client:
        assert (await closed(client))[0] == 1011
    assert "oh no" in caplog.text
    async with serving(forgets) as (_, port):
        with pytest.raises(InvalidStatus, match="500"):
            await connect(url(port))


async def test_denial_responses() -> None:
    async def denies(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"x-why", b"because")]
        await send({"type": "websocket.http.response.start", "status": 429, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"later"})
        await receive()
        assert (await receive())["type"] == "websocket.disconnect"

    async def closes(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    async with serving(denies) as (_, port):
        with pytest.raises(InvalidStatus) as refusal:
            await connect(url(port))
    response = refusal.value.response
    assert (response.status_code, response.headers["x-why"], response.body) == (429, "because", b"later")
    async with serving(closes) as (_, port):
        with pytest.raises(InvalidStatus, match="403"):
            await connect(url(port))


async def test_shutdown() -> None:
    app = Application()
    async with serving(app) as (_, port):
        client = await connect(url(port))
    assert (await closed(client))[0] == 1012
    assert app.end == SHUTDOWN


async def test_a_client_that_ignores_our_close_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "CLOSE_GRACE", 0.2)
    app = Application({"type": "websocket.close", "code": 1000})
    async with serving(app) as (_, port):
        reader, writer = await handshake(port)
        assert await asyncio.wait_for(reader.read(), 2) == b"\x88\x02\x03\xe8"  # our Close, then the end
        writer.close()


async def test_a_client_that_is_silent_is_pinged_then_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "INTERVAL", 0.2)
    app = Application()
    async with serving(app) as (_, port):
        reader, writer = await handshake(port)
        assert await asyncio.wait_for(reader.readexactly(2), 2) == b"\x89\x00"
        assert await asyncio.wait_for(reader.read(), 2) == b""
        await asyncio.wait_for(app.over.wait(), 5)
        writer.close()
    assert app.end == LOST


async def test_frames_before_the_101_are_not_lost() -> None:
    app = Application()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await app(scope, receive, send)

    async with serving(slow) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        await asyncio.sleep(0.05)
        writer.write(b"\x81\x80\x00\x00\x00\x00" + b"\x88\x80\x00\x00\x00\x00")
        await asyncio.wait_for(app.over.wait(), 5)
        writer.close()
    assert app.events[0] == {"type": "websocket.receive", "text": ""}


async def test_a_flood_of_pings_from_a_client_that_does_not_read_is_not_answered_without_end() -> None:
    app = Application()
    async with serving(app) as (server, port):
        _, writer = await handshake(port)
        ping = b"\x89\xfd\x00\x00\x00\x00" + b"p" * 125
        sent = 0
        for _ in range(2000):
            writer.write(ping * 100)
            sent += 100 * len(ping)
            try:
                await asyncio.wait_for(writer.drain(), 0.5)
            except TimeoutError:
                break
        else:
            raise AssertionError(f"{sent} bytes of pings were all taken")
        (protocol,) = server.server_state.connections
        assert protocol.transport.get_write_buffer_size() < 1 << 20
        writer.transport.abort()
        await asyncio.sleep(0.01)


async def test_connection_may_stand_on_several_lines() -> None:
    async with serving(Application()) as (_, port):
        for lines in (b"Upgrade\r\nConnection: keep-alive", b"keep-alive\r\nConnection: upgrade"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST.replace(b"Connection: Upgrade", b"Connection: " + lines))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            writer.close()
            await writer.wait_closed()


REQUEST = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def handshake(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client on a plain stream, after the 101."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer
