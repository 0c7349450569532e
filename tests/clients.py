"""Clients of the proxy: exact HTTP and WebSocket on plain streams, and the websockets library for well-behaved ones."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.servers import Server

Headers = Sequence[tuple[str, str]]
Frame = str | bytes
TIMEOUT = 10.0  # seconds for anything a test waits for

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@dataclass(frozen=True)
class Response:
    """An HTTP answer as it came over the wire."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Values of the header lines called `name`."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str | None:
        """The value of the only header line called `name`, or None."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} more than once: {values}"
        return values[0] if values else None

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Http:
    """One connection that requests go over, one after the other or pipelined."""

    server: Server
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, server: Server) -> AsyncIterator[Self]:
        """A new connection to `server`, closed at the end."""
        reader, writer = await server.open()
        try:
            yield cls(server, reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def encode(self, method: str, target: str, headers: Headers = (), body: bytes | None = None) -> bytes:
        """The bytes of a request; Host and Content-Length are added unless given."""
        names = {name.lower() for name, _ in headers}
        lines = [f"{method} {target} HTTP/1.1"]
        if "host" not in names:
            lines.append(f"Host: {self.server.host}")
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None and not names & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")

    async def write(self, data: bytes) -> None:
        """Write as it stands; a peer that has already hung up is no error, its answer may still be read."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def request(
        self, method: str, target: str, headers: Headers = (), body: bytes | None = None, timeout: float = TIMEOUT
    ) -> Response:
        """Send a request and read its answer."""
        sending = asyncio.create_task(self.write(self.encode(method, target, headers, body)))
        try:
            return await self.response(method, target, timeout)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def response(self, method: str = "POST", target: str = "", timeout: float = TIMEOUT) -> Response:
        """Read one answer. A 500 to anything but a handshake is remembered against the server."""
        async with asyncio.timeout(timeout):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head[:-4].decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:]))
            response = Response(status, headers, await self._body(method, status, headers))
        if status == 500 and "connect" not in target:
            self.server.server_errors.append(f"500 to {method} {target}: {response.body!r}")
        return response

    async def _body(self, method: str, status: int, headers: Headers) -> bytes:
        fields = {name.lower(): value for name, value in headers}
        if method == "HEAD" or status < 200 or status in (204, 304):
            return b""
        if "chunked" in fields.get("transfer-encoding", ""):
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readuntil(b"\r\n")
            return body
        if "content-length" in fields:
            return await self.reader.readexactly(int(fields["content-length"]))
        return await self.reader.read()

    def shrink(self, size: int) -> None:
        """Make the kernel and the stream hold as little as they can for a reader who does not read."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        self.reader._limit = size  # type: ignore[attr-defined]  # StreamReader pauses its transport at twice this

    async def ended(self, timeout: float = TIMEOUT) -> bytes:
        """Read until the server hangs up; what it still said."""
        async with asyncio.timeout(timeout):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


async def hung_up(reader: asyncio.StreamReader) -> float:
    """Seconds until the other side hangs up, without a word."""
    began = time.monotonic()
    async with asyncio.timeout(TIMEOUT):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    return time.monotonic() - began


async def dripped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> float:
    """Write byte by byte, and return the seconds until the other side hangs up, which is before it has all."""
    end = asyncio.create_task(hung_up(reader))
    with contextlib.suppress(ConnectionError):
        for byte in data:
            if end.done():
                break
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("all was taken")
    return await end


async def request(
    server: Server,
    method: str,
    target: str,
    headers: Headers = (),
    body: bytes | None = None,
    timeout: float = TIMEOUT,
) -> Response:
    """One request on a connection of its own."""
    async with Http.open(server) as http:
        return await http.request(method, target, headers, body, timeout)


async def send(
    server: Server, key: str, body: bytes = b"hello", *headers: tuple[str, str], timeout: float = TIMEOUT
) -> Response:
    """POST /send to one session, where this server's pushes arrive."""
    return await request(server.api, "POST", "/send", [("X-Kuiperbelt-Session", key), *headers], body, timeout)


async def close(server: Server, key: str, body: bytes = b"", *headers: tuple[str, str]) -> Response:
    """POST /close for one session, where this server's pushes arrive."""
    return await request(server.api, "POST", "/close", [("X-Kuiperbelt-Session", key), *headers], body)


def handshake_headers(without: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The headers of a client's opening handshake, less those named in `without`."""
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
        ("Sec-WebSocket-Version", "13"),
    ]
    return [(name, value) for name, value in headers if name not in without]


def masked(opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
    """The bytes of a client's frame."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + struct.pack("!H", size)
    else:
        length = b"\xff" + struct.pack("!Q", size)
    mask = os.urandom(4)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    hidden = (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
    return bytes([(0x80 if fin else 0) | opcode]) + length + mask + hidden


@dataclass
class RawWebSocket(Http):
    """A WebSocket client that can do everything wrong."""

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(
        cls, server: Server, key: str, headers: Headers = (), receive_buffer: int = 0
    ) -> AsyncIterator[Self]:
        """A client that is in as session `key`; with `receive_buffer` bytes it soon blocks the server."""
        async with cls.open(server) as client:
            if receive_buffer:
                client.shrink(receive_buffer)
            response = await client.handshake(f"/connect?key={key}", headers)
            assert response.status == 101, response
            yield client

    async def handshake(
        self, target: str, headers: Headers = (), without: Sequence[str] = (), method: str = "GET"
    ) -> Response:
        """Send the opening handshake; the answer is a 101 or a refusal."""
        return await self.request(method, target, [*handshake_headers(without), *headers])

    async def frame(self, timeout: float = TIMEOUT) -> tuple[int, bytes]:
        """Read one frame: opcode and payload."""
        async with asyncio.timeout(timeout):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(size)

    async def closed(self, timeout: float = TIMEOUT) -> int | None:
        """Read up to the server's Close frame and return its code, None if the connection ended without one."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    opcode, payload = await self.frame(timeout)
                    if opcode == CLOSE:
                        code: int = struct.unpack("!H", payload[:2])[0] if payload else 1005
                        return code
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


@contextlib.asynccontextmanager
async def client(
    server: Server, key: str, *headers: tuple[str, str], target: str = "/connect", **options: Any
) -> AsyncIterator[ClientConnection]:
    """A well-behaved client that is in as session `key`."""
    settings: dict[str, Any] = {"max_size": 16 * 1024 * 1024, "ping_interval": None, "proxy": None} | options
    if isinstance(server.address, str):
        settings |= {"unix": True, "path": server.address}
    separator = "&" if "?" in target else "?"
    tls = server.tls
    settings |= {"ssl": tls} if tls else {}
    uri = f"{'wss' if tls else 'ws'}://{server.host}{target}{separator}key={key}"
    async with connect(uri, additional_headers=list(headers), open_timeout=TIMEOUT, **settings) as connection:
        yield connection


async def receive(connection: ClientConnection, timeout: float = TIMEOUT) -> Frame:
    """The next message of a client."""
    async with asyncio.timeout(timeout):
        return await connection.recv()


@dataclass
class Ending:
    """How a connection ended for the client, and what came before the end."""

    code: int | None
    reason: str
    frames: list[Frame] = field(default_factory=list)


async def ending(connection: ClientConnection, timeout: float = TIMEOUT) -> Ending:
    """Read a client's messages up to the end of its connection; code None: no Close frame came."""
    frames: list[Frame] = []
    async with asyncio.timeout(timeout):
        try:
            while True:
                frames.append(await connection.recv())
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                return Ending(None, "", frames)
            return Ending(closed.rcvd.code, closed.rcvd.reason, frames)
