"""Where the cluster's Redis is: the options in the form that channels_redis takes, with a name for messages."""

import asyncio
import contextlib
import re
from typing import Any

from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from proxy.options import Options

_OBJECT = re.compile(r"<redis\..*?\)>\)>\)> - ")  # a Sentinel, before what is wrong with it

Host = tuple[str, dict[str, Any]]
"""A name without password, and the arguments for a connection."""


def redis_hosts(options: Options) -> list[Host]:
    """One for each shard; with Sentinel a single one."""
    common: dict[str, Any] = {
        "protocol": 3,
        "retry": Retry(NoBackoff(), 0),  # `shard` decides when to try again
        "socket_connect_timeout": options.reply_timeout,
        "socket_timeout": options.reply_timeout,
        "socket_keepalive": True,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if not options.redis_sentinels:
        return [(_name(url), {"address": url, **_for(url, common)}) for url in options.redis_url]
    # Sentinel says where the master is; user, password, database and TLS come from the URL, if there is one.
    login = dict(parse_url(options.redis_url[0])) if options.redis_url else {}
    chosen = {name: value for name, value in login.items() if name not in ("host", "port", "connection_class", "path")}
    if options.redis_url and options.redis_url[0].startswith("rediss:"):
        chosen["ssl"] = True
    sentinel = {
        "sentinels": list(options.redis_sentinels),
        "master_name": options.redis_master,
        "sentinel_kwargs": {
            "socket_connect_timeout": options.reply_timeout,
            "socket_timeout": options.reply_timeout,
            "retry": Retry(NoBackoff(), 0),
        },
    }
    return [(options.redis_master, {**sentinel, **chosen, **common})]


def _for(url: str, arguments: dict[str, Any]) -> dict[str, Any]:
    unix = url.startswith("unix:")  # has no TCP to keep alive
    return {name: value for name, value in arguments.items() if not (unix and name == "socket_keepalive")}


def in_words(said: str) -> str:
    """What redis-py says, less the password, which a Redis without AUTH or HELLO repeats, and its own objects."""
    return _OBJECT.sub("", said.partition(", with args")[0]).rstrip(".")


async def close_pool(pool: Any) -> None:
    """Close the connections of a pool that channels_redis has made, and those to the Sentinels, which are their own."""
    clients = [pool, *getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())]
    with contextlib.suppress(RedisError, OSError):
        await asyncio.gather(*(client.aclose() for client in clients))


def channel_prefix(options: Options) -> str:
    """How the names of all channels begin. Redis has one set of channels for all its databases; we keep them apart."""
    database = parse_url(options.redis_url[0]).get("db") if options.redis_url else 0
    return f"{options.redis_prefix}.{database}" if database else options.redis_prefix


def _name(url: str) -> str:
    found = parse_url(url)
    if "path" in found:
        return str(found["path"])
    return f"{found.get('host', 'localhost')}:{found.get('port', 6379)}"
