"""What Redis spends when many processes use it: bare clients that ask each other over PUBLISH. Used by bench.load.

Two proxies alone either leave Redis asleep between their messages, which makes each one dear, or put many into one
write. Redis in a large installation has neither: it is busy, with small writes of many processes.
"""

import asyncio
import itertools
from functools import partial
from typing import Any, cast

import hiredis

REQUEST = b"?" + b"x" * 210  # with their commands about as long as the proxy's at a low rate
REPLY = b"!" + b"x" * 70


class Asker(asyncio.Protocol):
    """One client: asks the others in turn, each as soon as the last one has answered, and answers them."""

    def __init__(self, number: int, clients: int) -> None:
        self.number = number
        self.others = itertools.cycle([(number + step) % clients for step in range(1, clients)])
        self.reader = hiredis.Reader()
        self.exchanges = 0
        self.active = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not of its class
        self.command(b"HELLO", b"3")
        self.command(b"SUBSCRIBE", self.inbox(self.number))

    def command(self, name: bytes, channel: bytes, *payload: bytes) -> None:
        """Write one command."""
        words: tuple[Any, ...] = (name, channel, *payload)
        self.transport.write(hiredis.pack_command(words))

    def inbox(self, number: int) -> bytes:
        """Return the channel of a client; of the length of a session's."""
        return b"bench__group__session.%06d" % number

    def ask(self) -> None:
        """Send a request to the next one."""
        if self.active:
            self.command(b"PUBLISH", self.inbox(next(self.others)), b"%d " % self.number + REQUEST)

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            if type(reply) is not hiredis.PushNotification or reply[0] != b"message":
                continue
            sender, _, body = reply[2].partition(b" ")
            if body.startswith(b"?"):
                self.command(b"PUBLISH", self.inbox(int(sender)), b"%d " % self.number + REPLY)
            else:
                self.exchanges += 1
                self.ask()


class Crowd:
    """The clients of one Redis."""

    def __init__(self) -> None:
        self.askers: list[Asker] = []

    async def gather(self, port: int, clients: int) -> None:
        """Have them connected and subscribed."""
        loop = asyncio.get_running_loop()
        for number in range(len(self.askers), clients):
            _, asker = await loop.create_connection(partial(Asker, number, clients), "127.0.0.1", port)
            self.askers.append(asker)
        await asyncio.sleep(0.1)  # Redis has their SUBSCRIBE, and an answer of the last phase isn't counted

    async def run(self, seconds: float) -> int:
        """Let them ask for some seconds; return how many requests were answered."""
        before = self.exchanges()
        for asker in self.askers:
            asker.active = True
            asker.ask()
        await asyncio.sleep(seconds)
        for asker in self.askers:
            asker.active = False
        await asyncio.sleep(0.05)  # for the last answers
        return self.exchanges() - before

    def exchanges(self) -> int:
        """Return how many requests were answered so far."""
        return sum(asker.exchanges for asker in self.askers)

    def close(self) -> None:
        """Disconnect."""
        for asker in self.askers:
            asker.transport.close()
