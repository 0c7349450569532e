"""The WebSocket side of our uvicorn: an ASGI protocol class that takes the parsed request over from the HTTP side.

uvicorn's own class writes the request out again for a library to parse a second time, can't end a client that doesn't
read, and doesn't show pings. Frames are read by the websockets library's sans-I/O protocol; the rest is here.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from proxy import rfc6455
from proxy.ends import LOST, SHUTDOWN, End
from proxy.exceptions import ConnectRefused
from proxy.flow import FlowControlled
from proxy.handshake import count_refusal
from proxy.keepalive import KeepAlive, Pinged
from proxy.protocol import Headers, Message
from proxy.stats import stats
from proxy.transports import ConnectionGone

MAX_EARLY_BYTES = 1 << 16  # sent by a client before the 101, which it shouldn't do

logger = logging.getLogger("proxy.websocket")
_quiet = logging.getLogger("proxy.websocket.frames")  # for the library, which logs nothing but details


@dataclass(frozen=True, slots=True)
class Serving:
    """What all WebSockets of a server share."""

    app: Any
    state: ServerState
    max_size: int
    keep_alive: KeepAlive


class WebSocketProtocol(FlowControlled):
    """One connection, from the parsed handshake to its end."""

    def __init__(self, serving: Serving, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._serving = serving
        self._frames: Protocol | None = None  # from the 101 on
        self._refusal: tuple[int, Headers] | None = None  # a denial response's start
        self._accept_token = b""
        self._early = b""
        self._events: deque[Message] = deque()
        self._event_added: asyncio.Future[None] | None = None
        self._fragments = rfc6455.Fragments()
        self.ended = False  # nothing can be written any more
        self._heard = True  # something came in since the last ping
        self._slot: set[Pinged] = set()

    # Handshake

    def upgrade(self, scope: Message) -> None:
        """Start the application for a request that asks for an upgrade, or refuse it (RFC 6455 section 4.2.2)."""
        self._serving.state.connections.add(cast(Any, self))
        try:
            self._accept_token = rfc6455.accept_token(scope["method"], scope["http_version"], scope["headers"])
        except ConnectRefused as refusal:
            stats.total_connections += 1
            count_refusal(scope, refusal)
            self._respond(refusal.status, refusal.headers, refusal.body)
            return
        scope.update(
            type="websocket",
            scheme="wss" if scope["scheme"] == "https" else "ws",
            subprotocols=rfc6455.subprotocols(scope["headers"]),
            extensions={"websocket.http.response": {}},
        )
        self._events.append({"type": "websocket.connect"})
        task = self.loop.create_task(self._run(scope))
        self._serving.state.tasks.add(task)
        task.add_done_callback(self._serving.state.tasks.discard)

    async def _run(self, scope: Message) -> None:
        try:
            await self._serving.app(scope, self.receive, self.send)
        except Exception:
            logger.exception("error in the application")
        if not self._frames:
            self._respond(500, (), b"")
        elif not self.ended:
            self._send_close(1011, "")
            self.close_transport()

    def _accept(self, message: Message) -> None:
        subprotocol = message.get("subprotocol")
        headers = [
            *self._serving.state.default_headers,
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-accept", self._accept_token),
            *([(b"sec-websocket-protocol", subprotocol.encode())] if subprotocol else ()),
            *message.get("headers", ()),
        ]
        self.transport.write(rfc6455.http_head(101, headers))
        self._frames = Protocol(Side.SERVER, state=State.OPEN, max_size=self._serving.max_size, logger=_quiet)
        self._slot = self._serving.keep_alive.add(self)
        self.data_received(self._early)
        self._early = b""

    def _respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the handshake with something else than 101."""
        if self.ended:
            return
        own = ((b"content-length", b"%d" % len(body)), (b"connection", b"close"))
        self.transport.write(rfc6455.http_head(status, [*self._serving.state.default_headers, *headers, *own]) + body)
        self._end(LOST)
        self.close_transport()

    async def receive(self) -> Message:
        while not self._events:
            self._event_added = self.loop.create_future()
            await self._event_added
        event = self._events.popleft()
        self.read_or_pause()
        return event

    def write_now(self, message: Message) -> bool:
        """Write a websocket.send message in this turn; False if it is another one or has to wait."""
        if self.blocked or self.ended or not self._frames or message["type"] != "websocket.send":
            return False
        self.transport.write(rfc6455.frame(message))
        return True

    async def send(self, message: Message) -> None:
        """ASGI's send; waits while the socket is blocked, raises ConnectionGone when it is gone."""
        if self.blocked:
            await self.blocked.wait()
        if self.ended:
            raise ConnectionGone
        if self.write_now(message):
            return
        kind = message["type"]
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close" and self._frames:
            self._send_close(message.get("code", 1000), message.get("reason") or "")
            self.abort_later()
        elif kind == "websocket.close":
            self._respond(403, (), b"")
        elif kind == "websocket.http.response.start" and not self._frames:
            self._refusal = message["status"], message.get("headers", ())
        elif kind == "websocket.http.response.body" and self._refusal:
            self._respond(*self._refusal, message.get("body", b""))
        else:
            raise RuntimeError(f"expected an ASGI WebSocket message that fits the state, found {kind}")

    def _send_close(self, code: int, reason: str, end: End | None = None) -> None:
        assert self._frames
        self._frames.send_close(code, reason)
        self.transport.write(b"".join(self._frames.data_to_send()))
        self._end(end or End(code, reason))

    def _end(self, end: End) -> None:
        """Tell the application, once, that it is over."""
        if not self.ended:
            self.ended = True
            self._slot.discard(self)
            self._add_event({"type": "websocket.disconnect", "code": end.code, "end": end})

    def _add_event(self, event: Message) -> None:
        self._events.append(event)
        if self._event_added and not self._event_added.done():
            self._event_added.set_result(None)
        self.read_or_pause()

    # The client's bytes

    def take(self, data: bytes) -> int:
        self._heard = True
        if self._frames:
            return self._feed(self._frames, data)
        if len(self._early) + len(data) <= MAX_EARLY_BYTES:
            self._early += data
        else:
            self.transport.abort()
        return 0

    def _feed(self, frames: Protocol, data: bytes) -> int:
        frames.receive_data(data)
        found = cast(list[Frame], frames.events_received())
        for frame in found:
            if self.ended or not self._on_frame(frames, frame):
                break
        if output := b"".join(frames.data_to_send()):
            self.transport.write(output)
        if frames.state is not State.OPEN:
            self._on_closing(frames)
        return len(found)

    def _on_frame(self, frames: Protocol, frame: Frame) -> bool:
        """Take a frame; False when none after it counts."""
        if frame.opcode is Opcode.PING:
            self._add_event({"type": "websocket.ping"})  # not ASGI's: it extends the idle time-out
        if frame.opcode in (Opcode.PONG, Opcode.PING, Opcode.CLOSE):
            return True
        try:
            if content := self._fragments.add(frame):
                self._add_event({"type": "websocket.receive", **content})
        except UnicodeDecodeError:
            frames.fail(1007, "invalid UTF-8")
            return False
        return True

    def _on_closing(self, frames: Protocol) -> None:
        """A Close was received, or sent because of what was received."""
        if frames.close_rcvd:
            self._end(End(frames.close_rcvd.code, "client"))
        elif self.ended:
            return  # our own Close isn't answered yet
        self._end(End(frames.close_sent.code if frames.close_sent else 1006, "error"))
        self.close_transport()

    def connection_lost(self, error: Exception | None) -> None:
        self._serving.state.connections.discard(cast(Any, self))
        self._end(LOST)
        self.unblock()
        if self._frames:  # the library's object and its parser, or that one's error, hold each other
            self._frames.parser.close()
            self._frames.parser_exc = None

    def wants_to_read(self) -> bool:
        # Not while our answers aren't taken: a flood of pings would pile up pongs. What comes after the end is read to
        # find the client's Close, and thrown away.
        return self.ended or not (self._events or self.blocked)

    def on_ping_due(self) -> None:
        """The keep-alive's turn: ping, or give a client up that sent nothing since the last one."""
        if self._heard or self._events:  # while the application takes its time, nothing is read
            self._heard = False
            self.transport.write(rfc6455.PING)
        else:
            self.transport.abort()

    def shutdown(self) -> None:
        """uvicorn ends: say so to both sides."""
        if self._frames and not self.ended:
            self._send_close(SHUTDOWN.code, SHUTDOWN.reason, SHUTDOWN)
        elif not self._frames:
            self._respond(503, ((b"retry-after", b"1"),), b"")
        self.close_transport()
