"""A connection to Redis that is kept: subscriptions come back, a dead one is found out, and what it says meanwhile."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from proxy import redis_connection
from proxy.exceptions import ClusterLost, ClusterUnreachable
from proxy.stats import stats
from tests.certificates import Certificate
from tests.layers import Kept, shards
from tests.network import Wire
from tests.redis_servers import RedisServer, eventually
from tests.servers import free_port


@pytest.fixture
async def kept(private: RedisServer) -> AsyncIterator[Kept]:
    async with shards(private, b"inbox") as (made,):
        yield made


async def test_subscriptions_come_and_go(kept: Kept) -> None:
    assert await kept.shard.subscribers([b"inbox", b"one", b"two", b"three"]) == [1, 1, 1, 0]
    kept.shard.subscribe(b"three")
    kept.shard.unsubscribe(b"two")
    assert await kept.shard.subscribers([b"two", b"three"]) == [0, 1]
    await kept.shard.ask(b"PUBLISH", b"three", b"hello")
    assert kept.messages == [(b"three", b"hello")]


async def test_an_answer_that_nobody_waits_for_keeps_its_place(kept: Kept) -> None:
    waiting = asyncio.create_task(kept.shard.ask(b"ECHO", b"first"))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await kept.shard.ask(b"ECHO", b"second") == b"second"
    assert waiting.cancelled()


async def test_many_channels_are_counted_in_batches(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_connection, "COUNT_BATCH", 3)
    names = [b"%d" % number for number in range(10)]
    kept.shard.subscribe(names[7])
    assert await kept.shard.subscribers(names) == [0] * 7 + [1] + [0] * 2


async def test_subscriptions_come_back(kept: Kept, private: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    losses, gap = stats.link_losses, stats.link_gap_ms
    kept.channels = [b"%d" % number for number in range(2500)]
    with caplog.at_level(logging.WARNING, "proxy.cluster"):
        await private.kill()
        problem = await kept.down()
        assert problem.startswith(f"Redis 127.0.0.1:{private.port}: ")
        with pytest.raises(ClusterUnreachable):
            kept.shard.call(lambda reply: None, b"PING")
        await private.start()
        await kept.up(timeout=5)
    assert await kept.shard.subscribers([b"0", b"2499", b"one"]) == [1, 1, 0]
    assert stats.link_losses == losses + 1
    assert stats.link_gap_ms > gap
    assert "lost: " in caplog.text
    assert "connected again after" in caplog.text


async def test_what_is_asked_as_redis_goes_is_lost(kept: Kept, private: RedisServer) -> None:
    private.pause()
    asking = asyncio.create_task(kept.shard.ask(b"PING"))
    await asyncio.sleep(0.1)
    await private.kill()
    with pytest.raises(ClusterLost):
        await asking


async def test_a_silent_connection_is_found_out(private: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes through, nothing is closed, and nobody asks for anything."""
    monkeypatch.setattr(redis_connection, "PROBE_PERIOD", 0.3)
    async with Wire.running(private.port) as wire:
        kept = Kept(f"redis://127.0.0.1:{wire.port}", timeout=0.5)
        await kept.up()
        await asyncio.sleep(1)
        assert kept.shard.problem() is None  # the probes come back
        wire.stall()
        assert "no answer within 0.5 s" in await kept.down(timeout=3)
        wire.resume()
        await kept.up()
        await kept.end()


async def test_a_subscription_that_redis_forgot_is_found_out(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = stats.link_losses
    kept.shard.unsubscribe(b"all")  # as if Redis had

    async def lost() -> bool:
        return stats.link_losses > losses

    await eventually(lost, "the loss", 10)
    await kept.up()
    assert await kept.shard.subscribers([b"all"]) == [1]


async def test_a_master_that_is_none_any_more_is_left(private: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody closes its connections when an operator makes it a replica."""
    monkeypatch.setattr(redis_connection, "PROBE_PERIOD", 0.2)
    kept = Kept(private.url)
    await kept.up()
    await private.execute("REPLICAOF", "127.0.0.1", "9")
    assert "expected a master, found a replica" in await kept.down()
    await private.execute("REPLICAOF", "NO", "ONE")
    await kept.up()
    await kept.end()


async def test_never_reached(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "proxy.cluster"):
        kept = Kept("redis://:hunter2@127.0.0.1:9")
        await asyncio.wait_for(kept.shard.tried, 5)
        assert "127.0.0.1:9" in (kept.shard.problem() or "")
        await asyncio.sleep(0.5)
        await kept.end()
    assert len(caplog.records) == 1  # not one for each attempt
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("password", ["hunter2", "hunter2" * 30])
async def test_a_redis_that_repeats_the_password(password: str) -> None:
    """As one does that doesn't know HELLO, with what it was asked; that would stand in the log, and in /ready."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.read(1000)).decode().split("\r\n")[2::2]
        repeated = " ".join(f"'{argument}'" for argument in asked[1:])[:128]
        writer.write(f"-ERR unknown command '{asked[0]}', with args beginning with: {repeated}\r\n".encode())
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    kept = Kept(f"redis://:{password}@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await asyncio.wait_for(kept.shard.tried, 5)
    problem = kept.shard.problem() or ""
    assert "HELLO" in problem
    assert "hunter2" not in problem
    await kept.end()
    server.close()


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    async with RedisServer.running("", "--unixsocket", str(tmp_path / "redis.sock")):
        kept = Kept(f"unix://{tmp_path}/redis.sock")
        await kept.up()
        assert await kept.shard.subscribers([b"one"]) == [1]
        await kept.end()


async def test_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = Certificate(tmp_path)
    certificate.write(authority.issue_cert("127.0.0.1"))
    port = str(free_port())
    files = ("--tls-cert-file", str(certificate.cert), "--tls-key-file", str(certificate.key))
    async with RedisServer.running("hunter2", "--tls-port", port, *files, "--tls-auth-clients", "no"):
        url = f"rediss://:hunter2@127.0.0.1:{port}/0"
        kept = Kept(f"{url}?ssl_ca_certs={tmp_path}/ca.pem")
        await kept.up()
        large = b"x" * (1 << 20)
        assert await kept.shard.ask(b"PUBLISH", b"one", large) == 1
        assert kept.messages == [(b"one", large)]
        await kept.end()
        stranger = Kept(url)  # knows nothing of this certificate's authority
        await asyncio.wait_for(stranger.shard.tried, 5)
        assert "certificate" in (stranger.shard.problem() or "")
        await stranger.end()


async def test_far_away(private: RedisServer) -> None:
    """Each answer of Redis comes in time; all those that a connection begins with don't come within one time-out."""
    async with Wire.running(private.port, latency=0.1) as wire:
        kept = Kept(f"redis://127.0.0.1:{wire.port}")
        await kept.up(timeout=4)
        wire.cut()
        await kept.down()
        await kept.up(timeout=4)
        await kept.end()


async def test_the_connection_before_is_ended_for_redis_too(private: RedisServer) -> None:
    """It died without a word, so Redis would keep its subscriptions, and count them, for minutes."""
    async with Wire.running(private.port) as wire:
        kept = Kept(f"redis://127.0.0.1:{wire.port}", timeout=0.5)
        await kept.up()
        wire.freeze()
        assert kept.shard._link
        kept.shard._link.call(lambda reply: None, b"PING")
        await kept.down()
        await kept.up()
        assert await kept.shard.subscribers([b"one", b"inbox"]) == [1, 1]
        await kept.end()


async def test_an_acl_that_forbids_is_a_problem_in_words() -> None:
    async with RedisServer.running() as server:
        await server.execute("ACL", "SETUSER", "app", "on", ">pw", "+@all", "~*", "resetchannels", "&allowed*")
        kept = Kept(f"redis://app:pw@127.0.0.1:{server.port}")
        await asyncio.wait_for(kept.shard.tried, 5)
        assert "no permissions to access one of the channels" in (kept.shard.problem() or "")
        await kept.end()


@pytest.mark.parametrize("command", ["publish", "pubsub", "subscribe"])
async def test_what_an_acl_forbids_is_known_before_it_counts_as_connected(
    command: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Else it would come and go all the time, and be ready now and then."""
    async with RedisServer.running() as server:
        allowed = ["+hello", "+auth", "+client", "+ping", "+publish", "+subscribe", "+unsubscribe", "+pubsub", "&*"]
        await server.execute("ACL", "SETUSER", "app", "on", ">pw", *allowed, f"-{command}")
        with caplog.at_level(logging.WARNING, "proxy.cluster"):
            kept = Kept(f"redis://app:pw@127.0.0.1:{server.port}")
            await asyncio.wait_for(kept.shard.tried, 5)
            await asyncio.sleep(1)
            assert f"no permissions to run the '{command}" in (kept.shard.problem() or "")
            assert len(caplog.records) == 1
        await server.execute("ACL", "SETUSER", "app", f"+{command}")
        await kept.up(timeout=2)
        await kept.end()


async def test_it_ends_whenever_it_is_cancelled(private: RedisServer) -> None:
    """Also in the turn in which redis-py's wait_for is done."""
    for turns in range(60):
        kept = Kept(private.url)
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await kept.end()
