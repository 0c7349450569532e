"""The load process: holds the WebSocket clients and the senders, and obeys bench.run over stdin and stdout.

Commands and answers are lines of JSON. Clients and senders share one process, so that a latency is the difference
of two readings of one clock, and both stay out of the server's process tree.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from itertools import chain
from typing import Any

import uvloop

from .crowd import Crowd
from .one_shot import OneShotSender
from .pacing import PacedRequests
from .sockets import Client, ClosedLoop, Requests, Sender, Tally
from .system import System
from .systems import SYSTEMS
from .talk import Talk

HANDSHAKE_SECONDS = 30.0
ARRIVAL_POLLS = 2500
ARRIVAL_POLL_SECONDS = 0.002
IDLE_SECONDS = 4.0  # uvicorn closes a connection that was idle for 5 s
CLIENTS_PER_ADDRESS = 2000  # Linux gives one address 28,000 local ports, for all systems together


class Load:
    """Clients and senders of one server. Each public coroutine is a command; its result is the answer."""

    def __init__(self, system: System, port: int) -> None:
        self.system = system
        self.port = port
        self.tally = Tally()
        self.clients: list[Client] = []
        self.keys: list[str] = []
        self.senders: list[Sender] = []  # those of the coming phase
        self.pools: dict[int, list[Sender]] = {}  # port -> its senders
        self.bare = Crowd()

    async def open(self, count: int, concurrency: int) -> dict[str, Any]:
        """Open `count` further clients, `concurrency` at a time."""
        first = len(self.clients)
        waiting = iter(range(first, first + count))
        start = time.perf_counter()

        async def worker() -> None:
            for index in waiting:
                await self.open_one(index)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, count)):
                group.create_task(worker())
        seconds = time.perf_counter() - start
        return {"opened": len(self.clients) - first, "seconds": seconds}

    async def open_one(self, index: int) -> None:
        """Open the client number `index`, from an address that has ports left."""
        key = f"session-{index:06d}"
        address = index // CLIENTS_PER_ADDRESS
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: Client(self.system, key, self.tally),
            "127.0.0.1",
            self.port,
            local_addr=(f"127.0.0.{1 + address}", 0) if address else None,
        )
        await asyncio.wait_for(client.opened, HANDSHAKE_SECONDS)
        self.clients.append(client)
        self.keys.append(key)

    async def connect_senders(self, count: int, port: int | None) -> dict[str, Any]:
        """Have `count` senders connected to a port, None: that of the clients.

        Those that were idle for long are replaced, as a server closes them at any moment.
        """
        loop = asyncio.get_running_loop()
        port = port or self.port
        pool: list[Sender] = []
        for sender in self.pools.get(port, []):
            if sender.lost or time.perf_counter() - sender.last_used > IDLE_SECONDS:
                sender.close()
            else:
                pool.append(sender)
        self.pools[port] = pool
        while len(pool) < count:
            if self.system.keep_alive:
                _, sender = await loop.create_connection(Sender, "127.0.0.1", port)
            else:
                sender = OneShotSender(port)
            pool.append(sender)
        self.senders = pool[:count]
        return {"senders": len(self.senders)}

    async def send(
        self, kind: str, keys_per_send: int, size: int, seconds: float, cap: int, rate: float | None = None
    ) -> dict[str, Any]:
        """Push (the kind `batch`: in batches) from all senders for `seconds` and wait for the last frame to arrive.

        With a rate, so many requests per second are due whatever the answers take; without, each sender sends as
        soon as it is answered, at most `cap` requests altogether.
        """
        step = min(keys_per_send, len(self.keys))
        batches = [self.keys[at : at + step] for at in range(0, len(self.keys) - step + 1, step)]
        self.tally.reset()
        requests: Requests = (
            PacedRequests(self.system, kind, batches, size, seconds, rate)
            if rate
            else ClosedLoop(self.system, kind, batches, size, seconds, cap)
        )
        start = time.perf_counter()
        async with asyncio.timeout(seconds + HANDSHAKE_SECONDS):
            await asyncio.gather(*[sender.start(requests) for sender in self.senders])
        for _ in range(ARRIVAL_POLLS):
            if self.tally.received >= requests.sent:
                break
            await asyncio.sleep(ARRIVAL_POLL_SECONDS)
        elapsed = time.perf_counter() - start
        if requests.refused:
            raise RuntimeError(f"{requests.refused} requests refused, the first with {requests.first_refusal!r}")
        latencies = sorted(self.tally.latencies)
        return {
            "requests": requests.requests,
            "sent": requests.sent,
            "delivered": self.tally.received,
            "lost_connections": self.tally.lost_connections,
            "seconds": elapsed,
            "p50_ms": percentile(latencies, 50) / 1e6,
            "p99_ms": percentile(latencies, 99) / 1e6,
            "request_bytes": requests.size(),
            "response_bytes": self.senders[0].usual_size,
        }

    async def talk(self, port: int, size: int, seconds: float, talkers: int) -> dict[str, Any]:
        """Let the first clients send messages, and count those that have reached the backend on a port."""
        make = partial(Talk, self.system, self.clients[:talkers], size, seconds)
        start = time.perf_counter()
        transport, talk = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
        try:
            async with asyncio.timeout(seconds + HANDSHAKE_SECONDS):
                await talk.over
        finally:
            transport.close()
        latencies = sorted(talk.latencies)
        return {
            "sent": talk.said,
            "delivered": len(latencies),
            "lost_connections": self.tally.lost_connections,
            "seconds": time.perf_counter() - start,
            "p50_ms": percentile(latencies, 50) / 1e6,
            "p99_ms": percentile(latencies, 99) / 1e6,
        }

    async def crowd(self, port: int, clients: int, seconds: float) -> dict[str, Any]:
        """Let bare clients of the Redis on a port ask each other."""
        await self.bare.gather(port, clients)
        return {"exchanges": await self.bare.run(seconds)}

    async def close(self) -> dict[str, Any]:
        """Close all clients and senders."""
        for client in self.clients:
            client.close()
        for sender in chain.from_iterable(self.pools.values()):
            sender.close()
        self.bare.close()
        await asyncio.sleep(0.2)
        return {"closed": len(self.clients)}


def percentile(ordered: list[int], percent: int) -> float:
    """Return the nearest-rank percentile of sorted values; nan if there are none."""
    return float(ordered[max(0, -(-len(ordered) * percent // 100) - 1)]) if ordered else float("nan")


async def lines() -> AsyncIterator[bytes]:
    """Yield the lines of stdin until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line


async def obey(system: System, port: int) -> None:
    """Carry out commands until stdin ends. An error is an answer too."""
    load = Load(system, port)
    async for line in lines():
        command = json.loads(line)
        try:
            answer = await getattr(load, command.pop("do"))(**command)
        except Exception as error:
            causes = error.exceptions if isinstance(error, ExceptionGroup) else [error]
            answer = {"error": f"{type(causes[0]).__name__}: {causes[0]}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    gc.disable()  # a collection over thousands of clients would show up as latency
    uvloop.run(obey(SYSTEMS[sys.argv[1]], int(sys.argv[2])))
