"""Channel layers of several processes, made in one: each has its own connections to a real Redis."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from proxy.cluster import ClusterLayer
from proxy.options import Options
from proxy.redis_hosts import redis_hosts
from tests.redis_servers import RedisServer


def make_layer(
    *urls: str, prefix: str = "test", join: bool = False, timeout: float = 1.0, **config: Any
) -> ClusterLayer:
    """A layer that connects when it is first used."""
    hosts = redis_hosts(Options(redis_url=urls, reply_timeout=timeout))
    return ClusterLayer(hosts=hosts, prefix="test", timeout=timeout, wait_limit=2 * timeout, join=join, **config)


@contextlib.asynccontextmanager
async def layers(count: int, *redis: RedisServer, **config: Any) -> AsyncIterator[list[ClusterLayer]]:
    """Connected layers of one cluster, left at the end."""
    made = [make_layer(*(server.url for server in redis), **config) for _ in range(count)]
    try:
        for layer in made:
            await layer.start()
            assert not layer.problems()
        yield made
    finally:
        for layer in made:
            await layer.flush()
