"""The cluster's Redis: does it answer, how quickly, which version, and the settings that matter (docs/deployment.md).

For `doctor`; `runproxy` asks for the settings when it starts.
"""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from channels_redis.utils import create_pool
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from proxy.conf import Options
from proxy.findings import Finding, failed, ok, skipped, warning
from proxy.redis_hosts import Host, close_pool, in_words, redis_hosts

AREA = "redis"
OLDEST = 6
KIND = "kind of server"
BUFFER = 32 << 20  # bytes, Redis's own default
BUFFER_PER_PROCESS = 4 << 20  # bytes that each process may have on the way to the same one (docs/cluster.md)
KEEPALIVE = 60  # seconds
ROUND_TRIPS = 5
SLOW = 0.01  # seconds
LONG = 0.5  # seconds after which it isn't asked again

_NEW_ENOUGH = f"Redis {OLDEST} or newer"
_UPDATE = "Older ones don't know the protocol that is spoken. Update it."


async def check(options: Options, processes: int = 1) -> list[Finding]:
    """All shards, for a cluster of so many processes."""
    if not options.clustered:
        return [skipped(AREA, "Redis", "none is configured (EKBO_REDIS_URL): one process, one node")]
    parts = await asyncio.gather(*[_check(host, options, processes) for host in redis_hosts(options)])
    return [finding for part in parts for finding in part]


async def check_settings(options: Options, processes: int) -> list[Finding]:
    """What should be other than it is in the settings, where they can be asked; nothing without Redis."""
    found = await check(options, processes) if options.clustered else []
    return [
        finding for finding in found if finding.advice and ("output buffer" in finding.name or KIND in finding.name)
    ]


async def _check(host: Host, options: Options, processes: int) -> list[Finding]:
    name, arguments = host
    pool = create_pool(dict(arguments))
    client: Any = Redis(connection_pool=pool)
    label = f"Redis {name}"
    try:
        # Connect and each answer have reply_timeout; the Sentinels are asked one after the other.
        async with asyncio.timeout(options.reply_timeout * (8 + len(options.redis_sentinels))):
            about = [*await _round_trip(client, label), *await _version(client, label)]
            return [*about, *await _settings(client, label, processes)]
    except (RedisError, OSError, TimeoutError) as error:
        said = in_words(str(error)) or "no answer in time (EKBO_REPLY_TIMEOUT)"
        expected, advice = _explained(said)
        return [failed(AREA, label, expected, said, advice)]
    finally:
        await close_pool(pool)


def _explained(said: str) -> tuple[str, str]:
    """What was expected of a Redis that says this, and what to do."""
    if "unknown command" in said and "HELLO" in said:
        return _NEW_ENOUGH, _UPDATE
    if "HELLO must be called with the client already authenticated" in said or "NOAUTH" in said:
        return "to be let in", "It wants a password: redis://:PASSWORD@host in EKBO_REDIS_URL (its `requirepass`)."
    if "WRONGPASS" in said or "invalid username-password" in said or "invalid password" in said:
        return "to be let in", "User or password in EKBO_REDIS_URL aren't what it has."
    return "an answer", "Does it run, and may this machine reach it? `redis-cli -u URL ping` asks the same."


async def _round_trip(client: Any, label: str) -> list[Finding]:
    taken: list[float] = []
    await client.ping()
    while len(taken) < ROUND_TRIPS and sum(taken) < LONG:
        began = perf_counter()
        await client.ping()
        taken.append(perf_counter() - began)
    middle = sorted(taken)[len(taken) // 2]
    found = f"{middle * 1000:.1f} ms"
    if middle <= SLOW:
        return [ok(AREA, f"{label}, round trip", found)]
    advice = (
        "Pushes to other processes wait for it. Put Redis near the nodes, or see what loads it (`redis-cli --latency`)."
    )
    return [warning(AREA, f"{label}, round trip", f"{SLOW * 1000:g} ms or less", found, advice)]


async def _version(client: Any, label: str) -> list[Finding]:
    name = f"{label}, version"
    try:
        about = await client.info("server")
        version = str(about["redis_version"])
    except (NoPermissionError, ResponseError, KeyError):
        return [skipped(AREA, name, "the user may not ask (INFO)")]
    if about.get("redis_mode") == "cluster":
        advice = "Its nodes count only their own listeners. Use several servers, each with its URL in EKBO_REDIS_URL."
        return [failed(AREA, f"{label}, {KIND}", "a single server, or Sentinel", "Redis Cluster", advice)]
    if int(version.partition(".")[0]) >= OLDEST:
        return [ok(AREA, name, version)]
    return [failed(AREA, name, _NEW_ENOUGH, version, _UPDATE)]


async def _settings(client: Any, label: str, processes: int) -> list[Finding]:
    try:
        settings = await client.config_get("client-output-buffer-limit", "tcp-keepalive", "maxclients")
    except (NoPermissionError, ResponseError):
        advice = "See to them by hand: docs/deployment.md has the table."
        return [skipped(AREA, f"{label}, settings", "the user may not ask (CONFIG GET)", advice)]
    return [_buffer(settings, label, processes), *_keepalive(settings, label), *_clients(settings, label, processes)]


def _buffer(settings: dict[str, str], label: str, processes: int) -> Finding:
    name = f"{label}, output buffer (client-output-buffer-limit pubsub)"
    words = settings.get("client-output-buffer-limit", "").split()
    hard, soft, seconds = _limits_of("pubsub", words)
    need = max(BUFFER, processes * BUFFER_PER_PROCESS)
    limit = f"pubsub {need} {need // 4} 60"
    found = f"{_mb(hard)} hard, {_mb(soft)} soft for {seconds} s"
    if (not hard or hard >= need) and (not soft or soft >= need // 4):
        return ok(AREA, name, found)
    advice = (
        "Redis cuts off a process for which more waits, and what was in it is lost. "
        f"`redis-cli CONFIG SET client-output-buffer-limit '{limit}'`, and in redis.conf."
    )
    return warning(AREA, name, f"{_mb(need)} hard and {_mb(need // 4)} soft or more", found, advice)


def _limits_of(kind: str, words: Sequence[str]) -> tuple[int, int, int]:
    at = words.index(kind) if kind in words else -4
    hard, soft, seconds = [*map(int, words[at + 1 : at + 4]), 0, 0, 0][:3] if at >= 0 else (0, 0, 0)
    return hard, soft, seconds


def _keepalive(settings: dict[str, str], label: str) -> list[Finding]:
    name, seconds = f"{label}, tcp-keepalive", int(settings.get("tcp-keepalive", 0))
    if 0 < seconds <= KEEPALIVE:
        return [ok(AREA, name, f"{seconds} s")]
    found = f"{seconds} s" if seconds else "off"
    advice = "Until Redis drops a node whose host died without a word, pushes to its sessions get `no answer`. "
    advice += f"`redis-cli CONFIG SET tcp-keepalive {KEEPALIVE}`, and in redis.conf."
    return [warning(AREA, name, f"1 to {KEEPALIVE} s", found, advice)]


def _clients(settings: dict[str, str], label: str, processes: int) -> list[Finding]:
    most, need = int(settings.get("maxclients", 10_000)), 2 * processes + 10
    if most >= need:
        return []
    advice = (
        f"Each process has one connection, and needs a second for a moment. `redis-cli CONFIG SET maxclients {need}`."
    )
    return [failed(AREA, f"{label}, maxclients", f"{need} or more", str(most), advice)]


def _mb(size: int) -> str:
    return f"{size / (1 << 20):g} MB" if size else "no limit"
