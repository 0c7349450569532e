"""Where Redis is: one URL, shards, Sentinel; and names that give no password away."""

from typing import Any

import pytest
from channels_redis.utils import create_pool, decode_hosts
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel

from proxy.options import Options
from proxy.redis_hosts import channel_prefix, in_words, redis_hosts
from tests.servers import free_port


def test_shards() -> None:
    hosts = redis_hosts(Options(redis_url=("redis://:hunter2@a:7000/1", "rediss://b", "unix:///run/redis.sock")))
    assert [name for name, _ in hosts] == ["a:7000", "b:6379", "/run/redis.sock"]
    pools = [create_pool(host) for host in decode_hosts([host for _, host in hosts])]
    assert pools[0].connection_kwargs["password"] == "hunter2"
    assert pools[0].connection_kwargs["db"] == 1
    assert pools[1].connection_class.__name__ == "SSLConnection"
    assert all(pool.connection_kwargs["protocol"] == 3 for pool in pools)


def test_sentinel() -> None:
    options = Options(
        redis_sentinels=(("s1", 26379), ("s2", 26380)), redis_master="main", redis_url=("rediss://u:hunter2@ignored/3",)
    )
    ((name, host),) = redis_hosts(options)
    assert name == "main"
    assert "host" not in host
    pool = create_pool(host)
    assert pool.service_name == "main"
    assert [
        (sentinel.connection_pool.connection_kwargs["host"], sentinel.connection_pool.connection_kwargs["port"])
        for sentinel in pool.sentinel_manager.sentinels
    ] == [("s1", 26379), ("s2", 26380)]
    chosen = pool.connection_kwargs
    assert (chosen["username"], chosen["password"], chosen["db"]) == ("u", "hunter2", 3)
    assert pool.connection_class.__name__ == "SentinelManagedSSLConnection"


async def test_what_is_wrong_with_sentinels_in_words() -> None:
    """Without redis-py's objects, which are half a page each."""
    sentinel: Any = Sentinel([("127.0.0.1", free_port()), ("127.0.0.1", free_port())])  # type: ignore[no-untyped-call]
    with pytest.raises(MasterNotFoundError) as caught:
        await sentinel.discover_master("main")
    assert "<redis." in str(caught.value)
    said = in_words(str(caught.value))
    assert said.startswith("No master found for 'main' : ")
    assert said.count("ConnectionError") == 2
    assert "<" not in said


def test_databases_of_one_redis_are_kept_apart() -> None:
    """Though Redis has one set of channels for all of them."""
    prefixes = [channel_prefix(Options(redis_url=(f"redis://a{path}",))) for path in ("", "/0", "/1", "/2")]
    assert prefixes == ["kuiperbelt", "kuiperbelt", "kuiperbelt.1", "kuiperbelt.2"]
