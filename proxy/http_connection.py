"""One connection to an HTTP/1.1 server, as its client: writes a request, reads the answer. `http_client` keeps them.

httptools reads what comes in (strict about framing, RFC 9112 section 6.3); the caps, time-outs and when a connection
may be used again are here.
"""

import asyncio
import math
import re
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from proxy.exceptions import AnswerCut, BadAnswer, HungUp

MAX_HEADER = 8190  # bytes of one header's name and value
MAX_HEADERS = 128
MAX_HEAD_SIZE = 64 * 1024  # bytes of all headers together, of 1xx answers before it too; also of trailers
TIMEOUT_MARGIN = 0.5  # seconds before the server's own `Keep-Alive: timeout` that a connection isn't used any more

SWITCHING_PROTOCOLS = 101
_TIMEOUT = re.compile(rb"\btimeout\s*=\s*(\d{1,9})", re.IGNORECASE)


class Answer:
    """What a server answered."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        """As they came, names in lower case."""
        self.body = body
        """Longer than the limit that was asked for: it goes on, and the rest wasn't read."""

    def get(self, name: bytes) -> str | None:
        """A header's value, the first if there are several; bytes that aren't UTF-8 as surrogates."""
        for found, value in self.headers:
            if found == name:
                return value.decode(errors="surrogateescape")
        return None

    def all(self, name: bytes) -> list[str]:
        """A header's values, one for each time that it came."""
        return [value.decode(errors="surrogateescape") for found, value in self.headers if found == name]


class Keeper(Protocol):
    """Who is told what becomes of a connection."""

    keep_alive: float
    """Seconds that an unused connection may stay open."""

    def on_free(self, connection: "Connection") -> None:
        """The answer is here in whole, and the server takes another request."""

    def on_end(self, connection: "Connection") -> None:
        """It isn't to be used any more. May come twice."""


class Connection(asyncio.Protocol):
    """Asks one thing at a time."""

    __slots__ = (
        "_begun", "_body", "_complete", "_headers", "_in_head", "_keeper", "_limit", "_loop", "_parser", "_patience",
        "_reusable", "_status", "_timer", "_transport", "_unread", "_until", "_waiter", "_wakes_at", "used",
    )  # fmt: skip

    def __init__(self, keeper: Keeper, loop: asyncio.AbstractEventLoop) -> None:
        self._keeper = keeper
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = math.inf
        self._until = math.inf
        self._patience = keeper.keep_alive  # seconds that it may stay open unused
        self.used = False
        """An answer came on it: the server may close it whenever it likes."""

    async def ask(self, request: bytes, limit: int, until: float) -> Answer:
        """The answer to a whole request, until the loop's time `until`.

        Its body is read a little over `limit` bytes at most. Raises TimeoutError and HttpError, of which HungUp says
        that no byte of an answer came. Then, and when it is cancelled, the connection is closed.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise HungUp("connection closed")
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._status = self._unread = 0
        self._limit = limit
        self._begun = self._complete = self._reusable = False
        self._in_head = True
        waiter: asyncio.Future[Answer] = self._loop.create_future()
        self._waiter = waiter
        self._until = until
        if until < self._wakes_at:
            self._wake(until)
        transport.write(request)
        try:
            return await waiter
        except asyncio.CancelledError:
            if self._waiter is waiter:
                self.end()
            elif not waiter.cancelled():
                waiter.exception()  # it failed just then, and asyncio would log that nobody wanted to know
            raise
        finally:
            del waiter  # it holds the error, which holds this frame

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def end(self, error: Exception | None = None) -> None:
        """Close at once; whoever waits for an answer gets the error."""
        waiter, self._waiter = self._waiter, None
        self._keeper.on_end(self)
        if self._transport:
            self._transport.abort()
        if error and waiter and not waiter.done():
            waiter.set_exception(error)

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = HttpResponseParser(self)
        # Old servers end lines without CR, and pad the size of a chunk. Go's client takes that, too.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._parser is None:
            self.end()  # nothing was asked for
            return
        self._begun = True
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._reusable = False
        except HttpParserError as error:
            self._reusable = False
            if not self._complete:
                self.end(BadAnswer(str(error)))
        if self._complete:
            self._finish()
        elif self._unread > MAX_HEAD_SIZE:
            self.end(BadAnswer(f"over {MAX_HEAD_SIZE} bytes of headers"))

    def eof_received(self) -> None:
        if self._waiter and not self._in_head and not self._is_framed():
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiter:
            how = getattr(error, "strerror", None) or "connection closed"
            self.end(AnswerCut(f"{how}, in the middle of the answer") if self._begun else HungUp(how))
        self._keeper.on_end(self)
        self._transport = self._parser = None  # the parser holds this object, too
        if self._timer:
            self._timer.cancel()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        if self._complete:  # it sends what nobody has asked for: the next answer would be the wrong one
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head and not self._complete:  # a trailer isn't merged into the head (RFC 9110 section 6.5.1)
            self._headers.append((name.lower(), value.rstrip(b" \t")))
            if len(name) + len(value) > MAX_HEADER or len(self._headers) > MAX_HEADERS:
                self.end(BadAnswer(f"over {MAX_HEADERS} headers, or one over {MAX_HEADER} bytes"))

    def on_headers_complete(self) -> None:
        if not self._complete and self._parser:
            self._in_head = False
            self._status = self._parser.get_status_code()
            self._reusable = self._parser.should_keep_alive() and self._status != SWITCHING_PROTOCOLS

    def on_body(self, body: bytes) -> None:
        if self._complete:
            return
        self._unread = 0
        self._body += body
        if len(self._body) > self._limit:
            self._reusable = False
            self._complete = True

    def on_message_complete(self) -> None:
        if 100 <= self._status < 200 and self._status != SWITCHING_PROTOCOLS and not self._complete:
            self._headers.clear()  # the answer proper follows (RFC 9110 section 15.2)
            self._body.clear()
            self._in_head = True
        else:
            self._complete = True

    # What becomes of it

    def _is_framed(self) -> bool:
        """Does the answer say itself where its body ends? Else the connection's end does."""
        coding = next((value for name, value in reversed(self._headers) if name == b"transfer-encoding"), b"")
        return coding.lower().endswith(b"chunked") or any(name == b"content-length" for name, _ in self._headers)

    def _finish(self) -> None:
        waiter, self._waiter = self._waiter, None
        transport = self._transport
        if waiter is None or transport is None:
            return
        if not self.used:
            self.used = True
            self._read_patience()
        if self._reusable and self._patience > 0 and not waiter.done() and not transport.get_write_buffer_size():
            self._until = self._loop.time() + self._patience
            if self._until < self._wakes_at:
                self._wake(self._until)
            self._keeper.on_free(self)
        else:
            self.end()
        if not waiter.done():
            waiter.set_result(Answer(self._status, self._headers, bytes(self._body)))

    def _read_patience(self) -> None:
        """`Keep-Alive: timeout=5` says when the server will close the connection (RFC 2068 section 19.7.1.1)."""
        for name, value in self._headers:
            if name == b"keep-alive" and (found := _TIMEOUT.search(value)):
                self._patience = min(self._patience, int(found[1]) - TIMEOUT_MARGIN)

    # One timer for all: it stays, and looks again when what it was set for has been put off.

    def _wake(self, when: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._wakes_at = when
        self._timer = self._loop.call_at(when, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._wakes_at = math.inf
        if self._loop.time() < self._until:
            if self._until < math.inf:
                self._wake(self._until)
        else:
            self.end(TimeoutError())
