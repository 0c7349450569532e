"""A client's socket as its ASGI server shows it: what ASGI says the same everywhere, and what it doesn't say at all.

The consumer and its Outbound use a Transport instead of asking which server they run under:

- `send` waits while the socket is blocked, and reading can be paused (daphne's own buffers without limit both ways);
- `unblock` and `abort` reach past ASGI, to end clients that don't read;
- `disconnect` tells a client's Close from a lost connection and from a shutdown.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from proxy import flow, lifespan
from proxy.ends import LOST, End
from proxy.protocol import Frame, Message
from proxy.stats import stats

# Close codes that a client's own fault makes a server send (RFC 6455 section 7.4.1).
_PROTOCOL_ERRORS = frozenset({1002, 1003, 1007, 1009})


def read_frame(message: Message) -> Frame:
    """The frame of a websocket.receive message."""
    text = message.get("text")
    if text is None:
        return Frame(message["bytes"], len(message["bytes"]))
    return Frame(text, len(text) if text.isascii() else len(text.encode()))


class ConnectionGone(OSError):
    """The socket closed before the message could be written."""


class Transport:
    """Any ASGI server."""

    __slots__ = ("send", "write_now")

    def __init__(self, send: Any, write_now: Callable[[Message], bool] = lambda _: False) -> None:
        self.send: Any = send
        self.write_now = write_now
        """Writes a websocket.send message in this turn; False: the server can't do that, or the socket is blocked."""

    def on_session(self) -> None:
        """Called in the session's task when the backend has accepted it."""

    def is_gone(self) -> bool:
        """Has the client gone, as far as the server knows, before the handshake was done?"""
        return False

    def is_shutting_down(self) -> bool:
        """Is it the server's shutdown that cancels the session?"""
        return True

    def close_message(self, code: int, reason: str) -> Message:
        """Close, as this server can send it. The server drops a client that doesn't answer."""
        return {"type": "websocket.close", "code": code, "reason": reason}

    def disconnect(self, message: Message) -> End:
        """What a websocket.disconnect message means."""
        code = message.get("code") or 1005
        if code == 1006:
            return LOST
        return End(code, "error" if code in _PROTOCOL_ERRORS else "client")

    def pause_reading(self) -> None:
        """No more messages are wanted for now; for servers that read on though nobody calls `receive`."""

    def resume_reading(self) -> None:
        """Messages are wanted again."""

    def unblock(self) -> None:
        """Let the next message pass a blocked socket's queue, if the server can do that."""

    def abort(self) -> None:
        """Drop the connection with all that is unsent, if the server can do that."""


class OwnTransport(Transport):
    """The proxy's own server (websocket.py); `send` is a method of its protocol."""

    __slots__ = ("_protocol",)

    def __init__(self, send: Any) -> None:
        self._protocol = send.__self__
        super().__init__(send, self._protocol.write_now)

    def is_gone(self) -> bool:
        return bool(self._protocol.ended)

    def disconnect(self, message: Message) -> End:
        end: End = message["end"]
        return end

    def unblock(self) -> None:
        self._protocol.unblock()

    def abort(self) -> None:
        self._protocol.transport.abort()


class Writable(asyncio.Event):
    """Set while a Twisted transport takes more: the IPushProducer that it tells."""

    def __init__(self) -> None:
        super().__init__()
        self.set()

    def pauseProducing(self) -> None:  # noqa: N802
        self.clear()

    def resumeProducing(self) -> None:  # noqa: N802
        self.set()

    def stopProducing(self) -> None:  # noqa: N802
        self.set()


class DaphneTransport(Transport):
    """daphne: the first argument of its `send` is the autobahn protocol, on a Twisted transport."""

    __slots__ = ("_protocol", "_send", "_writable")

    def __init__(self, send: "partial[Awaitable[None]]") -> None:
        super().__init__(self._send_flow_controlled)
        self._send = send
        self._protocol: Any = send.args[0]
        self._writable = Writable()

    async def _send_flow_controlled(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            await self._writable.wait()
            if self._protocol.state != self._protocol.STATE_OPEN:
                raise ConnectionGone
            payload = message.get("bytes", message.get("text"))
            if not payload:  # daphne leaves empty messages out
                self._protocol.sendMessage(b"", isBinary=payload == b"")
                return
        elif message["type"] == "websocket.accept" and self._protocol.state != self._protocol.STATE_CONNECTING:
            raise ConnectionGone
        await self._send(message)
        if message["type"] == "websocket.accept":
            # The HTTP channel that took the handshake is still registered, and doesn't need to know any more.
            self._protocol.transport.unregisterProducer()
            self._protocol.transport.registerProducer(self._writable, True)

    def on_session(self) -> None:
        lifespan.end_with_daphne()

    def is_gone(self) -> bool:
        return bool(self._protocol.state != self._protocol.STATE_CONNECTING)

    def is_shutting_down(self) -> bool:
        return lifespan.daphne_ends()

    def close_message(self, code: int, reason: str) -> Message:
        # autobahn sends 1000 and 3000-4999 only; daphne doesn't pass a reason on.
        return {"type": "websocket.close", "code": code if code == 1000 or code >= 3000 else 3000 + code}

    def pause_reading(self) -> None:
        self._protocol.transport.pauseProducing()

    def resume_reading(self) -> None:
        if self._protocol.state != self._protocol.STATE_CLOSED:
            self._protocol.transport.resumeProducing()

    def unblock(self) -> None:
        self._writable.set()

    def abort(self) -> None:
        self._protocol.transport.abortConnection()


class DaphneAnswer:
    """An HTTP answer through daphne, which would keep in memory all of a stream that its client doesn't read."""

    def __init__(self, send: "partial[Awaitable[None]]") -> None:
        self._send = send
        self._request: Any = send.args[0]
        self._writable = Writable()

    async def send(self, message: Mapping[str, Any]) -> None:
        """ASGI's send; waits while the client doesn't read, and drops it when that takes too long."""
        try:
            async with asyncio.timeout(flow.STALLED):
                await self._writable.wait()
        except TimeoutError:
            stats.request_timeouts += 1
            if self._request.channel:
                self._request.channel.transport.abortConnection()
            return
        if self._request.channel:  # it is still there
            more = bool(message.get("more_body"))
            if more and not self._request.producer:
                self._request.registerProducer(self._writable, True)
            elif not more and self._request.producer:
                self._request.unregisterProducer()
        await self._send(message)


def transport_for(send: Any) -> Transport:
    """The transport behind an ASGI `send`."""
    if _is_daphnes(send):
        return DaphneTransport(send)
    if type(getattr(send, "__self__", None)).__module__ == "proxy.websocket":
        return OwnTransport(send)
    return Transport(send)


def bounded(send: Any) -> Any:
    """An ASGI `send` of HTTP that waits while the client doesn't read; our own server's does already."""
    return DaphneAnswer(send).send if _is_daphnes(send) else send


def _is_daphnes(send: Any) -> bool:
    return isinstance(send, partial) and type(send.args[0]).__module__.startswith("daphne.")
