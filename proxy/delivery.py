"""The single door to sessions: send to them, close them, be one of them, by key.

Views (and later the admin and commands) call it, and so do connections. Only this module knows how a key becomes
a group of the channel layer.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from channels.layers import get_channel_layer

from proxy import conf
from proxy.events import Event, close_event, send_event
from proxy.exceptions import ClusterLost, ClusterUnreachable, DeliveryError, SessionNotFound
from proxy.layers import LocalChannelLayer, Receiver
from proxy.ownership import Membership
from proxy.protocol import Failure, Frame

MAX_PLAIN_KEY = 80  # characters, so that the group's name is one that Channels takes
_SAFE_KEY = re.compile(rf"[0-9A-Za-z\-_.]{{1,{MAX_PLAIN_KEY}}}")


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a request to one or many sessions ended."""

    failures: Sequence[Failure] = ()
    refused: bool = False
    """Strict broadcast found a session missing: nobody received anything."""
    unreachable: bool = False
    """Nothing is known to be delivered, and what became of some sessions can't be known without Redis: the failures say
    whether it may be delivered all the same."""


_ALL = Delivery()


def layer() -> LocalChannelLayer:
    return cast(LocalChannelLayer, cast(Any, get_channel_layer()).for_loop())


async def start() -> LocalChannelLayer:
    """The layer, after the first attempt to reach what it needs."""
    channel_layer = layer()
    if not channel_layer.started:
        await channel_layer.start()
    return channel_layer


async def shut_down() -> None:
    """Leave the cluster."""
    await layer().flush()


def group_name(key: str) -> str:
    """The channel layer's group for a session key. Group names know fewer characters, and less length, than keys."""
    if (key.isalnum() and len(key) <= MAX_PLAIN_KEY) or _SAFE_KEY.fullmatch(key):
        return f"session.{key}"
    return f"session-{hashlib.sha256(key.encode()).hexdigest()}"


def membership(key: str, connection: str, receive: Receiver, on_replaced: Callable[[], None]) -> Membership:
    """A connection's place among those that /send may mean with this key, at any node; it is to be joined."""
    policy = conf.options().duplicate_session
    return Membership(layer(), group_name(key), connection, policy, receive, on_replaced)


async def send(keys: Sequence[str], frame: Frame) -> Delivery:
    """Send a frame to each session; a key that is named twice gets it twice (contract: POST send)."""
    return await _request(keys, send_event(frame, conf.options().send_timeout))


async def close(keys: Sequence[str], frame: Frame | None, code: int = 1000, reason: str = "") -> Delivery:
    """Send a last frame, if any, then Close, to each session. No close callback follows (contract: POST close)."""
    return await _request(list(dict.fromkeys(keys)), close_event(frame, code, reason))


async def missing(keys: Sequence[str]) -> set[str]:
    """Those keys that have no session anywhere, whatever the registry says. Raises ClusterUnreachable, ClusterLost."""
    groups = {key: group_name(key) for key in keys}
    gone = await (await start()).missing(groups.values())
    return {key for key, group in groups.items() if group in gone}


async def _request(keys: Sequence[str], event: Event) -> Delivery:
    channel_layer = layer()
    if not channel_layer.started:
        await channel_layer.start()
    if conf.options().strict_broadcast:
        groups = [group_name(key) for key in keys]
        try:
            missing = await channel_layer.missing(groups)
        except (ClusterUnreachable, ClusterLost):
            return Delivery([Failure(key, ClusterUnreachable.text) for key in keys], unreachable=True)
        if missing:
            gone = [key for key, group in zip(keys, groups, strict=True) if group in missing]
            return Delivery([Failure(key, SessionNotFound.text) for key in gone], refused=True)
    # First everything that can be done at once, so that no session waits for another one's blocked socket.
    errors: dict[int, DeliveryError] = {}
    waiting: list[tuple[int, asyncio.Future[None]]] = []
    for position, key in enumerate(keys):
        group = group_name(key)
        if channel_layer.must_wait(group):
            await channel_layer.room()
        try:
            outcome = channel_layer.request(group, event)
        except DeliveryError as error:
            errors[position] = error
        else:
            if outcome is not None:
                waiting.append((position, outcome))
    for position, outcome in waiting:
        try:
            await outcome
        except DeliveryError as error:
            errors[position] = error
    if not errors:
        return _ALL
    unknown = any(isinstance(error, ClusterUnreachable | ClusterLost) for error in errors.values())
    failures = [Failure(keys[position], errors[position].text) for position in sorted(errors)]
    return Delivery(failures, unreachable=unknown and len(errors) == len(keys))
