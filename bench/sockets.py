"""The two ends of the load, as lean as Python can: a WebSocket client and a keep-alive sender. Used by bench.load."""

import asyncio
from array import array
from collections import deque
from time import perf_counter, perf_counter_ns
from typing import cast

from .system import System

MARK = b"@"  # a message is MARK, the time of its POST in 19 digits of nanoseconds, and padding
STAMP_DIGITS = 19
NO_STAMP = MARK + b"0" * STAMP_DIGITS
MIN_SIZE = 1 + STAMP_DIGITS

HANDSHAKE = (
    "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Tally:
    """What has arrived at the clients in the current phase."""

    def __init__(self) -> None:
        self.received = 0
        self.lost_connections = 0
        self.latencies = array("q")  # ns

    def reset(self) -> None:
        """Begin a phase."""
        self.received = 0
        self.latencies = array("q")


class Client(asyncio.Protocol):
    """A WebSocket client that counts messages and takes their latency. It answers pings, and says what it is told."""

    __slots__ = ("buffer", "closing", "is_open", "key", "opened", "system", "tally", "transport", "upgraded")
    transport: asyncio.Transport

    def __init__(self, system: System, key: str, tally: Tally) -> None:
        self.system = system
        self.key = key
        self.tally = tally
        self.upgraded = False
        self.buffer = b""
        self.closing = False
        self.is_open = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not of its class
        self.transport.write(HANDSHAKE.format(target=self.system.connect_target(self.key)).encode())

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("connection lost in the handshake"))
        elif self.is_open and not self.closing:
            self.tally.lost_connections += 1

    def data_received(self, data: bytes) -> None:
        """Read the handshake's response, then frames."""
        now = perf_counter_ns()
        if self.buffer:
            data = self.buffer + data
            self.buffer = b""
        if not self.upgraded:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self.buffer = head
                return
            if self.opened.done():  # timed out
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.opened.set_exception(ConnectionError(f"expected 101 but got {head[:40]!r}"))
                return
            self.upgraded = True
            if greeting := self.system.greeting(self.key):
                self.write(greeting)
            else:
                self.be_open()
        position, size = 0, len(data)
        while size - position >= 2:
            length, start = data[position + 1], position + 2
            if length == 126:
                start += 2
                length = int.from_bytes(data[position + 2 : start])
            elif length == 127:
                start += 8
                length = int.from_bytes(data[position + 2 : start])
            end_of_frame = start + length
            if end_of_frame > size:
                break
            opcode = data[position] & 15
            if opcode <= 2:
                tally = self.tally
                stamp = data.find(MARK, start, end_of_frame) + 1
                while stamp:  # Centrifugo may put several messages into one frame
                    tally.received += 1
                    tally.latencies.append(now - int(data[stamp : stamp + STAMP_DIGITS]))
                    stamp = data.find(MARK, stamp, end_of_frame) + 1
                if not self.is_open:
                    self.be_open()
                elif length == len(self.system.client_ping) and data[start:end_of_frame] == self.system.client_ping:
                    self.write(self.system.client_ping)
            elif opcode == 9:
                # A pong with the masking key 0, which leaves the payload as it is; control frames have up to 125 bytes.
                self.transport.write(bytes((0x8A, 0x80 | length, 0, 0, 0, 0)) + data[start:end_of_frame])
            position = end_of_frame
        if position < size:
            self.buffer = data[position:]

    def be_open(self) -> None:
        """Be ready, unless whoever opens us has given up."""
        if not self.opened.done():
            self.opened.set_result(None)
            self.is_open = True

    def write(self, payload: bytes) -> None:
        """Send a text message; as above, its masking key is 0. Raises ConnectionError if the server has hung up."""
        if self.transport.is_closing():
            raise ConnectionError("the server closed a client's connection")
        size = len(payload)
        length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
        self.transport.write(b"\x81%b\0\0\0\0%b" % (length, payload))

    def close(self) -> None:
        """Leave with a Close frame (1000) and don't wait for the answer."""
        self.closing = True
        if not self.transport.is_closing():
            self.transport.write(b"\x88\x82\0\0\0\0\x03\xe8")
        self.transport.close()


class Requests:
    """The requests of one phase, shared by its senders: what they say, and what became of them."""

    def __init__(self, system: System, kind: str, batches: list[list[str]], size: int) -> None:
        self.system = system
        build = system.batch if kind == "batch" else system.push
        message = NO_STAMP + b"x" * (size - MIN_SIZE)
        self.parts = [(build(batch, message).split(NO_STAMP), len(batch)) for batch in batches]
        self.waiting: deque[Sender] = deque()  # senders that were told to wait
        self.requests = 0
        self.sent = 0  # messages: sessions named in requests
        self.refused = 0
        self.first_refusal = b""

    def next(self) -> bytes | None:
        """Return the next request, None if the phase is over, or nothing if the sender shall wait to be told."""
        raise NotImplementedError

    def make(self, time_ns: int) -> bytes:
        """Return the next request with this time as its beginning."""
        pieces, keys = self.parts[self.requests % len(self.parts)]
        self.requests += 1
        self.sent += keys
        return (b"%b%019d" % (MARK, time_ns)).join(pieces)

    def size(self) -> int:
        """Return the bytes of a request."""
        pieces, _ = self.parts[0]
        return len(NO_STAMP.join(pieces))

    def check(self, response: bytes) -> None:
        """Count the response if it is not a full success."""
        if not self.system.accepted(response):
            self.refused += 1
            self.first_refusal = self.first_refusal or response[-200:]


class ClosedLoop(Requests):
    """For some seconds and up to `cap` of them, the next request follows as soon as a sender has its answer."""

    def __init__(
        self, system: System, kind: str, batches: list[list[str]], size: int, seconds: float, cap: int
    ) -> None:
        super().__init__(system, kind, batches, size)
        self.deadline_ns = perf_counter_ns() + int(seconds * 1e9)
        self.cap = cap

    def next(self) -> bytes | None:
        now = perf_counter_ns()
        if now > self.deadline_ns or self.requests >= self.cap:
            return None
        return self.make(now)


class Sender(asyncio.Protocol):
    """A keep-alive HTTP connection that asks for the next request as soon as the last one is answered."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.requests: Requests | None = None
        self.done: asyncio.Future[None] | None = None
        self.buffer = b""
        self.usual_size = -1  # size of the last response, to save parsing the next one's header
        self.lost = False
        self.last_used = perf_counter()  # seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not of its class

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self.done is not None and not self.done.done():
            self.done.set_exception(ConnectionError("server closed a sender's connection in mid-phase"))

    def start(self, requests: Requests) -> asyncio.Future[None]:
        """Begin a phase; the future is done when the phase is over and the last request is answered."""
        self.requests = requests
        self.done = asyncio.get_running_loop().create_future()
        self.advance()
        return self.done

    def advance(self) -> None:
        """Send the next request, if there is one."""
        assert self.requests is not None
        assert self.done is not None
        request = self.requests.next()
        if request:
            self.post(request)
        elif request is not None:
            self.requests.waiting.append(self)
        elif not self.done.done():
            self.last_used = perf_counter()
            self.done.set_result(None)

    def post(self, request: bytes) -> None:
        """Send a request."""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Read a response; it is complete when its size is the usual one or its header says so."""
        if self.buffer:
            data = self.buffer + data
            self.buffer = b""
        if len(data) != self.usual_size and not complete(data):
            self.buffer = data
            return
        self.answered(data)

    def answered(self, response: bytes) -> None:
        """Count a response and go on."""
        self.usual_size = len(response)
        assert self.requests is not None
        self.requests.check(response)
        self.advance()

    def close(self) -> None:
        """Leave."""
        self.transport.close()


def complete(response: bytes) -> bool:
    """Tell whether these bytes are a whole HTTP response with Content-Length or chunks."""
    head, end, body = response.partition(b"\r\n\r\n")
    if not end:
        return False
    _, found, rest = head.lower().partition(b"content-length:")
    if found:
        return len(body) >= int(rest.split(b"\r\n", 1)[0])
    return body.endswith(b"0\r\n\r\n")
