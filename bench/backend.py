"""The backend of the bench: a process that says yes to every callback of every system, and is not counted.

Started by bench.ground before the server under test; prints its port as its first line and ends when stdin does. What
clients have sent is told to whoever asked for `GET /receipts`: a line for each message, with the number that its client
gave itself and the nanoseconds that it took to get here.
"""

import asyncio
import sys
from time import perf_counter_ns
from typing import cast

import httptools
import uvloop

from .sockets import MARK, STAMP_DIGITS

TALKER_DIGITS = 6  # a client's number, after the mark and the time
SUBSCRIBE = b'c:{"type":"subscribe","channel":"%b"}'

listeners: list[asyncio.Transport] = []


class Backend(asyncio.Protocol):
    """One kept-alive connection of a system. The session key is the `key` of the query or of Centrifugo's `data`."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not of its class
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.transport in listeners:
            listeners.remove(self.transport)

    def on_message_begin(self) -> None:
        self.target = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        """Answer as the system that calls this path expects."""
        path, _, query = self.target.partition(b"?")
        key = query.partition(b"key=")[2].partition(b"&")[0]
        if path == b"/receipts":
            listeners.append(self.transport)
            self.transport.write(b"listening\n")  # what comes before is told to nobody
        elif path == b"/connect":
            self.answer(b"", b"X-Kuiperbelt-Session: %b\r\n" % key)
        elif path == b"/pushpin":
            self.answer_events(key)
        elif path == b"/centrifugo/connect":
            self.answer(b'{"result":{"user":"%b"}}' % self.body.partition(b'"key":"')[2].partition(b'"')[0])
        else:
            note_receipt(self.body)
            if path == b"/centrifugo/rpc":
                self.answer(b'{"result":{"data":{}}}')
            elif path == b"/nchan/receive":
                self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")  # which says: publish it to nobody
            else:
                self.answer(b"")

    def answer(self, body: bytes, headers: bytes = b"") -> None:
        """Answer with success."""
        self.transport.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (headers, len(body), body))

    def answer_events(self, key: bytes) -> None:
        """Answer a request of WebSocket-over-HTTP: a new client is accepted and subscribed to its key."""
        opens = self.body.startswith(b"OPEN\r\n")
        subscribe = SUBSCRIBE % key
        events = b"OPEN\r\nTEXT %X\r\n%b\r\n" % (len(subscribe), subscribe) if opens else b""
        extension = b"Sec-WebSocket-Extensions: grip\r\n" if opens else b""
        note_receipt(self.body)
        self.answer(events, b"Content-Type: application/websocket-events\r\n" + extension)


def note_receipt(body: bytes) -> None:
    """Tell the listeners of each message in a body."""
    now = perf_counter_ns()
    at = body.find(MARK)
    while at >= 0:
        talker_at = at + 1 + STAMP_DIGITS
        took = now - int(body[at + 1 : talker_at])
        for listener in listeners:
            listener.write(b"%b %d\n" % (body[talker_at : talker_at + TALKER_DIGITS], took))
        at = body.find(MARK, talker_at)


async def serve() -> None:
    """Listen on a free loopback port until the parent closes our stdin."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Backend, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(serve())
