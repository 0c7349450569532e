"""The Redis servers that other tests rely on: they die, hang and come back as told, and Sentinels fail over."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.exceptions import AuthenticationError, RedisError

from tests.redis_servers import RedisServer, Sentinels, eventually


async def test_a_shared_one_answers(redis: RedisServer) -> None:
    assert await redis.execute("PING") is True
    assert await redis.execute("CONFIG", "GET", "bind") == {"bind": "127.0.0.1"}


async def test_killed_and_restarted_on_the_same_port() -> None:
    async with RedisServer.running() as redis:
        port = redis.port
        await redis.execute("SET", "a", "b")
        await redis.kill()
        with pytest.raises((OSError, RedisError)):
            await redis.execute("PING")
        await redis.start()
        assert redis.port == port
        assert await redis.execute("GET", "a") is None
        await redis.restart()
        assert await redis.execute("PING")
        directory = redis.directory
        assert directory.exists()
    assert redis.process is None
    assert not directory.exists()


async def test_a_paused_one_hangs_until_it_goes_on() -> None:
    async with RedisServer.running() as redis:
        redis.pause()
        asked = asyncio.create_task(redis.execute("PING"))
        done, _ = await asyncio.wait([asked], timeout=0.5)
        assert not done
        redis.resume()
        assert await asked
        redis.pause()  # ending a paused one works as well, and at once
        began = time.monotonic()
    assert time.monotonic() - began < 8


async def test_password_and_arguments() -> None:
    async with RedisServer.running("s3cret", "--maxclients", "50") as redis:
        assert redis.url == f"redis://:s3cret@127.0.0.1:{redis.port}/0"
        assert await redis.execute("CONFIG", "GET", "maxclients") == {"maxclients": "50"}
        redis.password = "wrong"
        with pytest.raises(AuthenticationError):
            await redis.execute("PING")


async def test_one_that_can_not_start_says_why() -> None:
    redis = RedisServer(arguments=("--no-such-option", "1"))
    try:
        with pytest.raises(AssertionError, match="no-such-option"):
            await redis.start()
    finally:
        await redis.end()


async def test_eventually_gives_up() -> None:
    async def never() -> bool:
        return False

    with pytest.raises(AssertionError, match="in vain for nothing"):
        await eventually(never, "nothing", 0.2)


async def test_sentinels_promote_a_replica() -> None:
    async with Sentinels.running() as group:
        first = await group.master()
        assert first is group.servers[0]
        await first.kill()
        second = await group.agreed(other_than=first, timeout=40)
        assert second is group.servers[1]
        await second.execute("SET", "a", "b")
