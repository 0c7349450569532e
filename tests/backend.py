"""A recording backend: a bare HTTP/1.1 server in the test's own process that keeps what it was asked, byte for byte.

Every test talks to one backend, so answers are scripted per (path, session key) and requests are found the same way.
It is written on plain streams because a backend must also be able to misbehave: answer garbage, reset, never end.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import struct
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

SESSION_HEADERS = ("x-kuiperbelt-session", "x-app-session")
"""The default session header and the one that tests configure instead."""

ENDLESS_LIMIT = 64 * 1024 * 1024  # bytes: "endless" ends here, so that a proxy that reads on fails instead of hanging


@dataclass(frozen=True)
class Request:
    """One request as it came over the wire."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    arrived: float
    connection: int
    nth: int
    """1 for the first request on its connection, 2 and more for kept-alive ones."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> str:
        """The raw query string."""
        return urlsplit(self.target).query

    @property
    def names(self) -> set[str]:
        """Names of all headers, in lower case."""
        return {name.lower() for name, _ in self.headers}

    def all(self, name: str) -> list[str]:
        """Values of the header lines called `name`, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str | None:
        """The value of the only header line called `name`, or None; two lines are an error."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} more than once: {values}"
        return values[0] if values else None

    @property
    def key(self) -> str:
        """What the request is about: `key` in the query of a connect, else the session header."""
        asked = parse_qs(self.query).get("key")
        if self.path.endswith("/connect"):
            return asked[0] if asked else ""
        return next((value for name in SESSION_HEADERS for value in self.all(name)), "")


@dataclass(frozen=True)
class Answer:
    """What the backend does with a request."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    delay: float = 0.0
    """Seconds before the first byte."""
    raw: bytes | None = None
    """Written as it stands instead of a well-formed answer; the connection is closed after it."""
    reset: bool = False
    """Reset the connection after `raw` or, without it, after the headers."""
    endless: bool = False
    """After the headers a body that does not end."""
    drip: float = 0.0
    """Seconds between the single bytes of the body."""
    hang_up: bool = False
    """Close the connection without a byte of answer."""
    close: bool = False
    """Close the connection after the answer, without having announced it."""


Script = Answer | Callable[[Request], Answer | Awaitable[Answer]]


@dataclass
class Backend:
    """The server, its scripts and its record."""

    requests: list[Request] = field(default_factory=list)
    scripts: dict[tuple[str, str], Script] = field(default_factory=dict)
    port: int = 0
    _server: asyncio.Server | None = None
    _connections: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        """Listen on a free port of the loopback address."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1024 * 1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening."""
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0)

    def on(self, path: str, key: str, script: Script) -> None:
        """Answer requests to `path` about `key` by `script`; key "*" stands for every key without its own."""
        self.scripts[path, key] = script

    def seen(self, path: str, key: str) -> list[Request]:
        """The requests to `path` about `key` so far."""
        return [request for request in self.requests if request.path == path and request.key == key]

    async def wait(self, path: str, key: str, count: int = 1, timeout: float = 5.0) -> list[Request]:
        """Wait until `path` was asked `count` times about `key`; more are an error as well as fewer."""
        await self.until(lambda: len(self.seen(path, key)) >= count, f"{path} of {key} {count} times", timeout)
        found = self.seen(path, key)
        assert len(found) == count, f"{path} of {key}: expected {count} requests, got {len(found)}"
        return found

    async def until(self, condition: Callable[[], bool], what: str, timeout: float = 5.0) -> None:
        """Wait until `condition` holds, looking after every request."""
        deadline = time.monotonic() + timeout
        while not condition():
            self._changed.clear()
            left = deadline - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left, 0.001)):
                    await self._changed.wait()
            if not condition() and time.monotonic() >= deadline:
                raise AssertionError(f"backend waited {timeout} s in vain for {what}")

    def touch(self) -> None:
        """Have `until` look again, for what scripts change."""
        self._changed.set()

    async def quiet(self, path: str, key: str, count: int, seconds: float = 0.2) -> None:
        """Assert that within `seconds` the number of requests to `path` about `key` is and stays `count`."""
        await asyncio.sleep(seconds)
        assert len(self.seen(path, key)) == count, f"{path} of {key}: {self.seen(path, key)}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        connection = self._connections
        nth = 0
        try:
            while request := await self._read(reader, connection, nth + 1):
                nth += 1
                self.requests.append(request)
                self._changed.set()
                if not await self._reply(await self._decide(request), writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, connection: int, nth: int) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:]))
        fields = {name.lower(): value for name, value in headers}
        body = b""
        if "chunked" in fields.get("transfer-encoding", ""):
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readuntil(b"\r\n")
        elif "content-length" in fields:
            body = await reader.readexactly(int(fields["content-length"]))
        return Request(method, target, headers, body, time.monotonic(), connection, nth)

    async def _decide(self, request: Request) -> Answer:
        path = request.path
        script = self.scripts.get((path, request.key)) or self.scripts.get((path, "*")) or default_answer(request)
        if isinstance(script, Answer):
            return script
        decided = script(request)
        return await decided if inspect.isawaitable(decided) else decided

    async def _reply(self, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        """Carry the answer out; True if the connection stays usable."""
        await asyncio.sleep(answer.delay)
        if answer.hang_up:
            return False
        if answer.raw is not None:
            writer.write(answer.raw)
            await writer.drain()
            if answer.reset:
                reset(writer)
            return False
        headers = list(answer.headers)
        if answer.status >= 200 and answer.status not in (204, 304):
            headers.append(("Content-Length", str(ENDLESS_LIMIT if answer.endless else len(answer.body))))
        lines = [f"HTTP/1.1 {answer.status} Whatever", *(f"{name}: {value}" for name, value in headers)]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        await writer.drain()
        if answer.reset:
            # The answer's head must be on its way before the reset overtakes it.
            await asyncio.sleep(0.05)
            reset(writer)
            return False
        if answer.endless:
            for _ in range(ENDLESS_LIMIT // 65536):
                writer.write(b"e" * 65536)
                await writer.drain()
            return False
        if answer.drip:
            for offset in range(len(answer.body)):
                writer.write(answer.body[offset : offset + 1])
                await writer.drain()
                await asyncio.sleep(answer.drip)
        else:
            writer.write(answer.body)
            await writer.drain()
        return not answer.close


def default_answer(request: Request) -> Answer:
    """Connects are welcome under the key they ask for (or a new one), everything else is fine too."""
    if not request.path.endswith("/connect"):
        return Answer()
    return welcome(request.key or uuid.uuid4().hex)


def welcome(key: str, body: bytes = b"", *headers: tuple[str, str], delay: float = 0.0) -> Answer:
    """The answer that lets a client in as `key`, with `body` as its first frame."""
    return Answer(headers=[("X-Kuiperbelt-Session", key), *headers], body=body, delay=delay)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST instead of FIN; one that has ended already is left alone."""
    raw: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
