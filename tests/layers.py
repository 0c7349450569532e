"""Channel layers, and shards, of several processes, made in one: each has its own connections to a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from proxy import envelope
from proxy.cluster import ClusterLayer
from proxy.options import Options
from proxy.redis_hosts import redis_hosts
from proxy.shard import Shard
from tests.redis_servers import RedisServer, eventually


def make_layer(
    *urls: str, prefix: str = "test", join: bool = False, timeout: float = 1.0, **config: Any
) -> ClusterLayer:
    """A layer that connects when it is first used."""
    hosts = redis_hosts(Options(redis_url=urls, reply_timeout=timeout))
    return ClusterLayer(hosts=hosts, prefix="test", timeout=timeout, wait_limit=2 * timeout, join=join, **config)


@contextlib.asynccontextmanager
async def layers(
    count: int, *redis: RedisServer, urls: Sequence[str] = (), **config: Any
) -> AsyncIterator[list[ClusterLayer]]:
    """Connected layers of one cluster, left at the end. `urls` go before those of the servers."""
    made = [make_layer(*(urls or [server.url for server in redis]), **config) for _ in range(count)]
    try:
        for layer in made:
            await layer.start()
            assert not layer.problems()
        yield made
    finally:
        for layer in made:
            await layer.flush()


class Kept:
    """A running shard and what it told."""

    def __init__(self, url: str, timeout: float = 1.0, inbox: bytes = b"inbox") -> None:
        self.channels = [b"one", b"two"]
        self.messages: list[tuple[bytes, bytes]] = []
        self.back: list[bytes] = []
        self.shared: list[bytes] = []
        ((name, host),) = redis_hosts(Options(redis_url=(url,), reply_timeout=timeout))
        self.shard = Shard(
            name,
            host,
            timeout,
            clock=lambda: 0,
            inbox=inbox,
            common=b"all",
            unused=b"nobody",
            subscriptions=self.subscriptions,
            on_message=self.on_message,
            on_back=self.back.extend,
            on_checked=self.on_checked,
        )
        self.task = asyncio.create_task(self.shard.run())

    def on_checked(self, channel: bytes, shared: bool) -> None:
        assert channel in self.back
        if shared:
            self.shared.append(channel)

    def subscriptions(self) -> Iterator[bytes]:
        return iter(self.channels)

    def on_message(self, shard: Shard, channel: bytes, payload: bytes) -> None:
        if channel in (b"all", b"inbox", b"other"):
            found = envelope.unpack(payload)
            shard.on_present(found["inbox"], found["number"], found["left"])
        else:
            self.messages.append((channel, payload))

    async def up(self, timeout: float = 10.0) -> None:
        async def is_up() -> bool:
            return self.shard.problem() is None

        await eventually(is_up, "the connection", timeout)

    async def down(self, timeout: float = 10.0) -> str:
        async def is_down() -> bool:
            return self.shard.problem() is not None

        await eventually(is_down, "the loss", timeout)
        return self.shard.problem() or ""

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@contextlib.asynccontextmanager
async def shards(redis: RedisServer, *inboxes: bytes) -> AsyncIterator[list[Kept]]:
    """Connected shards of several processes, left at the end."""
    made = [Kept(redis.url, inbox=inbox) for inbox in inboxes]
    try:
        for one in made:
            await one.up()
        yield made
    finally:
        for one in made:
            await one.end()
