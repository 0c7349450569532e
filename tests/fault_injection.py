"""Faults of a running cluster, at random: of Redis, of nodes, and of the network between them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from redis.exceptions import RedisError

from tests.cluster import Cluster, Node
from tests.history import History
from tests.recording import Recorder
from tests.redis_servers import RedisServer

HEALING = 12.0  # seconds after the end of a fault in which processes may still be apart (promised are 10 s)
SHORT, LONG = 0.3, 4.0  # seconds that something stands still


def worker_pids(node: Node) -> list[int]:
    """The processes that serve, of a node of several."""
    pid = node.server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class Faults:
    """Makes faults, each of which heals itself."""

    cluster: Cluster
    recorder: Recorder
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)
    """When what happened to whom."""
    _busy: set[int] = field(default_factory=set)

    @property
    def redis(self) -> RedisServer:
        (redis,) = self.cluster.shards
        return redis

    @property
    def history(self) -> History:
        return self.recorder.history

    async def run(self, seconds: float) -> None:
        """One after the other, sometimes two at a time."""
        end = self.recorder.now() + seconds
        while self.recorder.now() < end:
            began = self.recorder.now()
            await asyncio.gather(*(self._one() for _ in range(self.rng.choice((1, 1, 2)))))
            self.history.gaps.append((began, self.recorder.now() + HEALING))
            await asyncio.sleep(self.rng.uniform(0.2, 1.5))

    async def _one(self) -> None:
        node = self.rng.choice(self.cluster.nodes)
        faults: list[tuple[RedisServer | Node, Callable[[], Awaitable[None]]]] = [
            (self.redis, self.kill_redis),
            (self.redis, self.stop_redis),
            (self.redis, partial(self.drop_connections, "pubsub")),
            (self.redis, partial(self.drop_connections, "normal")),
            (node, partial(self.kill_node, node)),
            (node, partial(self.stop_node, node)),
            (node, partial(self.kill_worker, node)),
            (node, partial(self.blackhole, node)),
            (node, partial(self.reset, node)),
        ]
        target, fault = self.rng.choice(faults)
        # What another fault has stopped or killed already is left to it.
        if id(target) in self._busy:
            return
        self._busy.add(id(target))
        try:
            await fault()
        finally:
            self._busy.discard(id(target))

    def _note(self, what: str, node: Node | None = None) -> None:
        self.counts[what] += 1
        self.log.append(f"{self.recorder.now():.3f} {what} {node.name if node else ''}")

    def _while(self) -> float:
        return self.rng.uniform(SHORT, LONG)

    async def kill_redis(self) -> None:
        """SIGKILL, and a new and empty one at once or later."""
        self._note("Redis killed")
        await self.redis.kill()
        await asyncio.sleep(self.rng.choice((0.0, self._while() / 2)))
        await self.redis.start()

    async def stop_redis(self) -> None:
        """SIGSTOP, then SIGCONT."""
        self._note("Redis stopped")
        self.redis.pause()
        await asyncio.sleep(self._while())
        self.redis.resume()

    async def drop_connections(self, kind: str) -> None:
        """Redis closes the connections of one kind."""
        self._note("connections dropped by Redis")
        with contextlib.suppress(OSError, RedisError):
            await self.redis.execute("CLIENT", "KILL", "TYPE", kind)

    async def kill_node(self, node: Node) -> None:
        """SIGKILL to all processes of a node, which then starts anew."""
        self._note("node killed", node)
        await node.server.kill()
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        await node.server.restart()

    async def stop_node(self, node: Node) -> None:
        """SIGSTOP to all processes of a node, then SIGCONT."""
        self._note("node stopped", node)
        began = self.recorder.now()
        node.server.pause()
        await asyncio.sleep(self._while())
        node.server.resume()
        self.history.pauses.append((node.name, began, self.recorder.now()))

    async def kill_worker(self, node: Node) -> None:
        """SIGKILL to one process of several; of a node of one, to that."""
        self._note("worker killed", node)
        if node.server.kind != "workers":
            await self.kill_node(node)
            return
        if pids := worker_pids(node):
            os.kill(self.rng.choice(pids), signal.SIGKILL)

    async def blackhole(self, node: Node) -> None:
        """The network between a node and Redis swallows everything, or only the present connections."""
        self._note("blackhole", node)
        if self.rng.random() < 0.5:
            node.wire.stall(there=self.rng.random() < 0.7, back=True)
        else:
            node.wire.freeze()
        await asyncio.sleep(self._while())
        node.wire.resume()

    async def reset(self, node: Node) -> None:
        """The network resets the connections between a node and Redis."""
        self._note("reset", node)
        node.wire.cut()
