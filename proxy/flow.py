"""Flow control of one socket, both ways, and its end. Base of websocket.py; knows nothing of WebSockets."""

import asyncio

PIECE = 4096  # bytes that are taken at once
MANY = 64  # things in them after which the rest waits until others had a turn; a piece full of things takes 2 ms
CLOSE_GRACE = 10.0  # seconds for the other side to take what is still to be sent, or to answer a Close
STALLED = 30.0  # seconds that the other side may take nothing of an HTTP answer


class FlowControlled(asyncio.Protocol):
    """Reads only while what comes in is wanted and what goes out is taken; closes without waiting for ever."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.blocked: asyncio.Event | None = None
        """While the socket takes nothing: set when it does again."""
        self._reading = True
        self._rest = b""
        """What came in, and is taken in another turn of the event loop."""
        self._goes_on = False

    def take(self, data: bytes) -> int:
        """What came in; how many things were found in it, each of which takes its time."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """In pieces, or a flood of things that are only bytes long would hold up everybody else, for seconds."""
        if self._rest:
            self._rest += data
            return
        found = 0
        for end in range(PIECE, len(data) + PIECE, PIECE):
            found += self.take(data[end - PIECE : end])
            if found > MANY and end < len(data):
                self._rest = data[end:]
                self.read_or_pause()
                break

    def _go_on(self) -> None:
        self._goes_on = False
        if self.wants_to_read() and not self.transport.is_closing():
            rest, self._rest = self._rest, b""
            self.data_received(rest)
            self.read_or_pause()

    def wants_to_read(self) -> bool:
        """May more come in?"""
        raise NotImplementedError

    def read_or_pause(self) -> None:
        """Call when what `wants_to_read` says may have changed."""
        wanted = self.wants_to_read()
        if self._rest:
            if wanted and not self._goes_on:
                self._goes_on = True
                self.loop.call_soon(self._go_on)
            wanted = False
        if wanted is not self._reading and not self.transport.is_closing():
            self._reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def pause_writing(self) -> None:
        self.blocked = asyncio.Event()
        self.read_or_pause()

    def resume_writing(self) -> None:
        self.unblock()
        self.read_or_pause()

    def unblock(self) -> None:
        """Let what waits be written, though it may not go out."""
        blocked, self.blocked = self.blocked, None
        if blocked:
            blocked.set()

    def close_transport(self) -> None:
        """Close after what is still to be sent, if that goes out in time."""
        if not self.transport.is_closing():
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self.abort_later()

    def abort_later(self) -> None:
        self.loop.call_later(CLOSE_GRACE, self.transport.abort)
