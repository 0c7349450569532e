"""The yardstick of a cluster: bench.bare in several processes, whose pushes cross Redis the shortest fair way.

Run by bench.cluster: `python -m bench.bare_cluster --port 9180 --redis 6379`. A push to a session that isn't here is
published on the session's channel, and answered once the process that has it has written the frame and replied. There
are no time-outs, no reconnecting and no errors but one: an unknown session, which Redis tells by its 0 subscribers.
"""

import argparse
import asyncio
import os
from typing import Any, cast

import hiredis
import uvicorn

from proxy.garbage import tune_garbage_collector

from . import bare

SESSION = b"bare.session."


class OtherProcesses(asyncio.Protocol):
    """This process's connection to Redis, by which it asks the others and answers them."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.inbox = b"bare.inbox.%d" % os.getpid()
        self.number = 0
        self.asked: dict[bytes, asyncio.Future[bool]] = {}
        self.published: list[bytes] = []  # numbers whose PUBLISH isn't answered yet; b"": a reply's
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not of its class
        self.command(b"HELLO", b"3")
        self.command(b"SUBSCRIBE", self.inbox)

    def command(self, *words: bytes) -> None:
        """Write one command."""
        self.transport.write(hiredis.pack_command(cast(Any, words)))

    def come(self, key: str) -> None:
        """A session is here now."""
        self.command(b"SUBSCRIBE", SESSION + key.encode())

    def gone(self, key: str) -> None:
        """It is here no more."""
        self.command(b"UNSUBSCRIBE", SESSION + key.encode())

    def publish(self, channel: bytes, number: bytes, payload: bytes) -> None:
        """Publish, and remember whose answer comes next."""
        self.published.append(number)
        self.command(b"PUBLISH", channel, payload)

    async def push(self, key: str, text: str) -> bool:
        """Push to a session of another process; False if no process has it."""
        self.number += 1
        number = b"%d" % self.number
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.asked[number] = answer
        self.publish(SESSION + key.encode(), number, b"%b %b %b" % (self.inbox, number, text.encode()))
        return await answer

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            if type(reply) is int:
                number = self.published.pop(0)
                if number and not reply:
                    self.asked.pop(number).set_result(False)
            elif type(reply) is hiredis.PushNotification and reply[0] == b"message":
                self.message(reply[1], reply[2])

    def message(self, channel: bytes, payload: bytes) -> None:
        """Take a reply, or deliver a push and reply."""
        if channel == self.inbox:
            self.asked.pop(payload).set_result(True)
            return
        inbox, number, text = payload.split(b" ", 2)
        task = asyncio.ensure_future(self.deliver(channel.removeprefix(SESSION).decode(), text.decode()))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda _: self.publish(inbox, b"", number))

    async def deliver(self, key: str, text: str) -> None:
        """Write the frame."""
        await bare.connections[key]({"type": "websocket.send", "text": text})


def main() -> None:
    """Serve bench.bare on uvicorn, with a Redis."""
    parser = argparse.ArgumentParser(prog="python -m bench.bare_cluster")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis", type=int, required=True)
    found = parser.parse_args()

    async def serve() -> None:
        _, bare.others = await asyncio.get_running_loop().create_connection(OtherProcesses, "127.0.0.1", found.redis)
        await uvicorn.Server(bare.config(found.port)).serve()

    tune_garbage_collector()
    with asyncio.Runner(loop_factory=bare.config(found.port).get_loop_factory()) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
