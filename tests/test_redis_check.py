"""A real Redis with other settings, one that may not be asked for them, and one that hangs."""

from __future__ import annotations

import asyncio
from time import monotonic

from proxy import redis_check
from proxy.conf import Options
from proxy.findings import Finding, State
from tests.redis_servers import RedisServer

LISTENER = ("+hello", "+auth", "+select", "+client", "+ping", "+publish", "+subscribe", "+unsubscribe", "+pubsub")
"""What docs/cluster.md gives to an ACL user."""


async def check(url: str, processes: int = 1) -> dict[str, Finding]:
    options = Options(redis_url=(url,), reply_timeout=0.5)
    label = f"Redis {url.rpartition('@')[2].removeprefix('redis://').partition('/')[0]}"
    return {
        finding.name.removeprefix(label).strip(", "): finding for finding in await redis_check.check(options, processes)
    }


async def test_no_redis() -> None:
    (finding,) = await redis_check.check(Options())
    assert finding.state is State.SKIPPED
    assert await redis_check.check_settings(Options(), 1) == []


async def test_settings(private: RedisServer) -> None:
    """As Redis has them by default, then too small, then as they should be; more processes need more."""
    found = await check(private.url)
    assert found["round trip"].state is State.OK
    assert found["version"].state is State.OK
    buffer = "output buffer (client-output-buffer-limit pubsub)"
    assert (found[buffer].state, found["tcp-keepalive"].state) == (State.OK, State.WARNING)
    assert (await check(private.url, 9))[buffer].expected == "36 MB hard and 9 MB soft or more"
    options = Options(redis_url=(private.url,))
    assert await redis_check.check_settings(options, 8) == []
    (warning,) = await redis_check.check_settings(options, 9)
    assert "'pubsub 37748736 9437184 60'" in warning.advice
    await private.execute("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0", "tcp-keepalive", "60")
    await private.execute("CONFIG", "SET", "maxclients", "11")
    found = await check(private.url, 100)
    assert (found[buffer].state, found["tcp-keepalive"].state) == (State.OK, State.OK)
    assert (found["maxclients"].state, found["maxclients"].expected) == (State.FAILED, "210 or more")
    # A user that may do nothing else is well for the proxy.
    await private.execute("ACL", "SETUSER", "few", "on", ">hidden", "&kuiperbelt*", *LISTENER)
    found = await check(f"redis://few:hidden@127.0.0.1:{private.port}/0")
    assert found["round trip"].state is State.OK
    assert (found["version"].state, found["settings"].state) == (State.SKIPPED, State.SKIPPED)
    found = await check(f"redis://few:wrong@127.0.0.1:{private.port}/0")
    assert [finding.state for finding in found.values()] == [State.FAILED]
    assert "wrong" not in str(found)
    assert all(finding.advice.startswith("User or password") for finding in found.values())
    private.pause()
    began = monotonic()
    (finding,) = (await check(private.url)).values()
    assert finding.state is State.FAILED
    assert monotonic() - began < 2.5


class Old(RedisServer):
    """One that says what Redis 5 does."""

    async def _answers(self) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"PING\r\n")
        said = await reader.readline()
        writer.close()
        return said == b"+PONG\r\n"


async def test_an_old_one() -> None:
    async with Old.running("", "--rename-command", "HELLO", "") as server:
        (finding,) = (await check(server.url)).values()
    assert (finding.state, finding.expected) == (State.FAILED, "Redis 6 or newer")
    assert "unknown command" in finding.found
    assert "Update it" in finding.advice


async def test_a_password_that_is_missing() -> None:
    async with RedisServer.running("hidden") as server:
        (finding,) = (await check(f"redis://127.0.0.1:{server.port}/0")).values()
    assert (finding.state, finding.expected) == (State.FAILED, "to be let in")
    assert finding.advice.startswith("It wants a password")


async def test_a_slow_one_is_called_slow(redis: RedisServer) -> None:
    """It isn't asked so often that the answers come too late together."""

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(0.2)
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", redis.port)
        await asyncio.gather(late(reader, there[1]), late(there[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as between:
        found = await check(f"redis://127.0.0.1:{between.sockets[0].getsockname()[1]}/0")
    assert found["round trip"].state is State.WARNING
    assert found["version"].state is State.OK


async def test_redis_cluster() -> None:
    """One of its nodes doesn't know how many listen at the others."""
    async with RedisServer.running("", "--cluster-enabled", "yes") as node:
        found = (await check(node.url))["kind of server"]
        assert (found.state, found.found) == (State.FAILED, "Redis Cluster")
        assert found in await redis_check.check_settings(Options(redis_url=(node.url,)), 1)
