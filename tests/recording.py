"""Clients and senders that write down what they do and see, for the history checker."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.backend import reset
from tests.clients import BINARY, CLOSE, PING, PONG, TEXT, Http, RawWebSocket, Response, masked
from tests.cluster import Node
from tests.history import OK, UNKNOWN, Connection, History, Payload, Sent

CONNECT_LIMIT = 4.0  # seconds after which a client gives a handshake up
SEND_LIMIT = 8.0  # seconds after which a sender gives a request up, longer than a node is ever stopped
FAR = 3600.0  # seconds: as long as a connection lasts


@dataclass
class Recorder:
    """One run's record."""

    history: History = field(default_factory=History)
    listeners: list[Listener] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    """Of payloads, whoever sends them."""
    _began: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    async def connect(self, node: Node, key: str) -> Listener | None:
        """A client that is in as `key` and listens from now on; None if it was not let in."""
        connection = Connection(key, node.name, self.now())
        self.history.connections.append(connection)
        raw = None
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                raw = RawWebSocket(node.server, *await node.server.open())
                response = await raw.handshake(f"/connect?key={key}")
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            # The server may hold it for a session all the same.
            connection.ended, connection.end = self.now(), "left"
            if raw:
                reset(raw.writer)
            return None
        connection.status = response.status
        if response.status != 101:
            connection.ended, connection.end = self.now(), "refused"
            raw.writer.close()
            return None
        connection.opened = self.now()
        listener = Listener(self, raw, connection)
        self.listeners.append(listener)
        return listener

    def sender(self, name: str) -> Sender:
        """A sender whose requests follow one another."""
        return Sender(self, name)

    async def end(self) -> None:
        """Everybody leaves."""
        for listener in self.listeners:
            await listener.leave()


class Listener:
    """A client that reads all that comes."""

    def __init__(self, recorder: Recorder, raw: RawWebSocket, connection: Connection) -> None:
        self.connection = connection
        self._recorder = recorder
        self._raw = raw
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    @property
    def open(self) -> bool:
        """Is it connected still?"""
        return self.connection.ended is None

    async def ended(self) -> None:
        """Wait until it is over."""
        await asyncio.wait([self._task])

    async def wait_for(self, payload: Payload) -> None:
        """Wait until this one has come."""
        while not any(frame == payload.frame for _, frame in self.connection.frames):
            self._news.clear()
            await self._news.wait()

    async def leave(self, politely: bool = True) -> None:
        """Close or reset the connection, and read no further."""
        self._end("left")
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if politely:
            await self._raw.write(masked(CLOSE, struct.pack("!H", 1000)))
            self._raw.writer.close()
        else:
            reset(self._raw.writer)

    def _end(self, how: str) -> None:
        if self.connection.ended is None:
            self.connection.ended, self.connection.end = self._recorder.now(), how

    async def _read(self) -> None:
        try:
            while True:
                opcode, data = await self._raw.frame(FAR)
                if opcode in (TEXT, BINARY):
                    frame = data.decode() if opcode == TEXT else data
                    self.connection.frames.append((self._recorder.now(), frame))
                    self._news.set()
                elif opcode == PING:
                    await self._raw.write(masked(PONG, data))
                elif opcode == CLOSE:
                    self._end(str(struct.unpack("!H", data[:2])[0] if data else 1005))
                    await self._raw.write(masked(CLOSE, data[:2]))
        except (asyncio.IncompleteReadError, OSError):
            self._end("lost")
        finally:
            self._raw.writer.close()


class Sender:
    """Sends one after the other, on a connection of its own to each node."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self.name = name
        self._recorder = recorder
        self._connections: dict[str, Http] = {}

    async def send(self, node: Node, *keys: str, limit: float = SEND_LIMIT) -> Sent:
        """POST /send with the next payload; hang up if it isn't answered within `limit` seconds."""
        payload = Payload(self.name, next(self._recorder.numbers), keys)
        start = self._recorder.now()
        try:
            async with asyncio.timeout(limit):
                response = await self._request(node, payload)
            outcomes = read_answer(response, keys)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            self._drop(node)
            outcomes = dict.fromkeys(keys, UNKNOWN)
        sent = Sent(payload, start, self._recorder.now(), outcomes)
        self._recorder.history.sends.append(sent)
        return sent

    def end(self) -> None:
        """Close its connections."""
        for http in self._connections.values():
            http.writer.close()
        self._connections.clear()

    async def _request(self, node: Node, payload: Payload) -> Response:
        http = self._connections.get(node.name)
        if http is None or http.reader.at_eof():  # a server closes connections on which nothing comes
            self._drop(node)
            self._connections[node.name] = Http(node.server, *await node.server.open())
        headers = [("X-Kuiperbelt-Session", ",".join(payload.keys))]
        frame = payload.frame
        if isinstance(frame, bytes):
            headers.append(("Content-Type", "application/octet-stream"))
        body = frame if isinstance(frame, bytes) else frame.encode()
        return await self._connections[node.name].request("POST", "/send", headers, body, SEND_LIMIT)

    def _drop(self, node: Node) -> None:
        http = self._connections.pop(node.name, None)
        if http:
            http.writer.transport.abort()


def read_answer(response: Response, keys: tuple[str, ...]) -> dict[str, str]:
    """What was answered for each key."""
    strange = dict.fromkeys(keys, f"{response.status} {response.body!r:.200}")
    try:
        errors = {error["session"]: error["error"] for error in response.json().get("errors", [])}
    except (json.JSONDecodeError, KeyError):
        return strange
    if response.status == 200 or (response.status == 503 and set(errors) == set(keys)):
        return {key: errors.get(key, OK) for key in keys}
    return strange
