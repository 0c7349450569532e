"""uvicorn's reading of HTTP, mended: upgrades that are not made, targets without a path, floods of requests.

Base of http_keepalive.py.

When a client would like another protocol (Java's HTTP clients ask for h2c), httptools holds the request for complete
after its head, for what follows is the other protocol's. uvicorn answers in HTTP all the same, but drops what came in
the same piece and reads the next one as a new request: a body would be lost, or carried out as a request of its own.
A server that doesn't switch has to read the body like any other (RFC 9110 section 7.8).

uvicorn also reads on after each of several pipelined requests, however many wait: 150,000 a second from one client who
needs no answers, 5 KB each in memory. Here what isn't parsed yet waits with them, and no more is read.
"""

import logging
import sys
from asyncio import Transport
from time import perf_counter

import httptools
from httptools import HttpParserCallbackError, HttpParserError, HttpParserInvalidURLError, HttpParserUpgrade
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.flow import PIECE

TURN = 0.002  # seconds for what came in from one client, until others have their turn

logger = logging.getLogger("proxy.api")


class BadTarget(Exception):
    """The target of a request is neither a path nor a URL with one."""


class HoldableFlow(FlowControl):
    """Reads nothing while it is held, whoever else wants to."""

    held = False

    def hold(self, held: bool) -> None:
        if held is not self.held:
            self.held = held
            if not self.read_paused:
                self._move(not held)

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            if not self.held:
                self._move(False)

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self.held:
                self._move(True)

    def _move(self, on: bool) -> None:
        (self._transport.resume_reading if on else self._transport.pause_reading)()


class HttpReader(HttpToolsProtocol):
    """Reads on after a head that asks for an upgrade which isn't made, as if it didn't ask; takes floods in pieces."""

    flow: HoldableFlow
    _reads_again = False
    """The head that has just come in is to be read without its Upgrade."""
    _rest = b""
    """What came in, and is parsed in another turn of the event loop, or when no request waits for its own."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = HoldableFlow(transport)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            self._rest += data
            return
        self._unset_keepalive_if_required()
        began = perf_counter()
        for end in range(PIECE, len(data) + PIECE, PIECE):
            self._parse(data[end - PIECE : end])
            if end >= len(data) or self.transport.is_closing():
                break
            if self.parser is None:  # it has become a WebSocket
                self.transport.get_protocol().data_received(data[end:])  # type: ignore[attr-defined]
                break
            if self.pipeline or perf_counter() - began > TURN:
                self._rest = data[end:]
                break
        if self.pipeline or self._rest:
            self.read_on()

    def read_on(self) -> None:
        """Nothing, while requests wait for their turn; else what is here already, in another turn; else what comes."""
        self.flow.hold(bool(self.pipeline or self._rest))
        if self._rest and not self.pipeline:
            self.loop.call_soon(self._take_rest)

    def _take_rest(self) -> None:
        if self._rest and not self.pipeline and not self.transport.is_closing():
            rest, self._rest = self._rest, b""
            self.flow.hold(False)
            HttpReader.data_received(self, rest)

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as stop:
                rest = data[stop.args[0] :]
                if not self._reads_again:
                    self.handle_websocket_upgrade()
                    if rest and self.parser is None:  # it didn't wait for the answer
                        self.transport.get_protocol().data_received(rest)  # type: ignore[attr-defined]
                    return
                data = self._head_without_upgrade() + rest
                self._reads_again = False
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            except HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return
            else:
                return

    def on_headers_complete(self) -> None:
        if self.ignores_upgrade():
            return
        if not _has_path(self.url):
            raise BadTarget
        super().on_headers_complete()

    def ignores_upgrade(self) -> bool:
        """Is nothing to be done about this head, because it will be read again?"""
        # CONNECT is an upgrade by its method; its target has no path.
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT" and not self._should_upgrade():
            self._reads_again = True
        return self._reads_again

    def on_message_complete(self) -> None:
        if not self._reads_again:
            super().on_message_complete()

    def _head_without_upgrade(self) -> bytes:
        start = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join([start, *lines, b"\r\n"])

    def send_400_response(self, msg: str) -> None:
        """A request can't be read; or is that because of a mistake of ours, in what the parser calls?"""
        error = sys.exception()
        if isinstance(error, HttpParserCallbackError) and not isinstance(error.__context__, BadTarget):
            logger.exception("a request: unexpected error while it came in", {"event": "unexpected_error"})
        super().send_400_response(msg)


def _has_path(target: bytes) -> bool:
    try:
        path = httptools.parse_url(target).path
    except HttpParserInvalidURLError:
        return False
    return path is not None and path.isascii()
