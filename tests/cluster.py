"""A cluster of nodes for tests, each with a bad network of its own between it and Redis."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.clients import Response, request
from tests.network import Wire
from tests.redis_servers import RedisServer, eventually
from tests.servers import WORKERS, Server, Servers

LOOKS = 6
"""Requests to a node of several processes after which each of them was most probably asked."""


@dataclass
class Node:
    """A server, and the wires that its connections to Redis go through, one for each shard."""

    name: str
    server: Server
    wires: list[Wire]

    @property
    def wire(self) -> Wire:
        """The only one."""
        (wire,) = self.wires
        return wire

    async def ready(self) -> Response:
        """GET /ready."""
        return await request(self.server, "GET", "/ready", timeout=5)


@dataclass
class Cluster:
    """The nodes, and the Redis servers that are their shards."""

    shards: Sequence[RedisServer]
    nodes: list[Node] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, servers: Servers, kinds: Sequence[str], *shards: RedisServer, env: Mapping[str, str] | None = None
    ) -> AsyncIterator[Cluster]:
        """A node of each kind, ready. They get `env` too; the logs are looked at with all others in the end."""
        cluster = cls(shards)
        shared = servers.cluster_env() | dict(env or {})
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.TaskGroup() as group:
                for number, kind in enumerate(kinds):
                    wires = [await stack.enter_async_context(Wire.running(shard.port)) for shard in shards]
                    urls = ",".join(f"redis://127.0.0.1:{wire.port}/0" for wire in wires)
                    group.create_task(
                        cluster._start(servers, f"{kind}-{number}", kind, shared | {"EKBO_REDIS_URL": urls}, wires)
                    )
            try:
                yield cluster
            finally:
                await asyncio.gather(*(node.server.stop() for node in cluster.nodes))

    async def _start(self, servers: Servers, name: str, kind: str, env: Mapping[str, str], wires: list[Wire]) -> None:
        self.nodes.append(Node(name, await servers.start(kind, env), wires))
        self.nodes.sort(key=lambda node: node.name[::-1])

    async def all_ready(self, timeout: float = 20.0) -> float:
        """Wait until every process of every node says that it can do all its work; how long that took."""
        began = time.monotonic()
        await asyncio.gather(
            *(eventually(lambda node=node: is_ready(node), f"{node.name} to be ready", timeout) for node in self.nodes)  # type: ignore[misc]
        )
        return time.monotonic() - began


async def is_ready(node: Node) -> bool:
    """Do all processes of a node say so?"""
    looks = LOOKS * WORKERS if node.server.kind == "workers" else 1
    for _ in range(looks):
        with contextlib.suppress(asyncio.IncompleteReadError):
            if (await node.ready()).status == 200:
                continue
        return False
    return True
