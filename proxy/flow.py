"""Flow control of one socket, both ways, and its end. Base of websocket.py; knows nothing of WebSockets."""

import asyncio

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

    def wants_to_read(self) -> bool:
        """May more come in?"""
        raise NotImplementedError

    def read_or_pause(self) -> None:
        """Call when what `wants_to_read` says may have changed."""
        wanted = self.wants_to_read()
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
