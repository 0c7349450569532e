"""The single door to sessions: send to them, close them, be one of them, by key.

Views, the admin and commands call it, and so do connections. Only this module knows how a key becomes
a group of the channel layer.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from channels.layers import get_channel_layer

from proxy import conf
from proxy.events import Event, close_event, send_event
from proxy.exceptions import ClusterLost, ClusterUnreachable, DeliveryError, SessionClosed, SessionNotFound
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
    configured: Any = get_channel_layer()
    return configured.for_loop()  # type: ignore[no-any-return]


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


class Pending:
    """A request whose events are all on their way, in their order, while some sessions haven't taken theirs yet."""

    __slots__ = ("_errors", "_keys", "_waiting")

    def __init__(
        self, keys: Sequence[str], errors: dict[int, DeliveryError], waiting: list[tuple[int, asyncio.Future[None]]]
    ) -> None:
        self._keys = keys
        self._errors = errors
        self._waiting = waiting

    async def wait(self) -> Delivery:
        for position, outcome in self._waiting:
            try:
                await outcome
            except DeliveryError as error:
                self._errors[position] = error
        return _delivery(self._keys, self._errors)

    def when_done(self, callback: Callable[[Delivery], None]) -> None:
        """Have it called with how the request ended: `wait` without a task."""
        left = len(self._waiting)

        def on_done(position: int, outcome: asyncio.Future[None]) -> None:
            nonlocal left
            left -= 1
            if outcome.cancelled():
                self._errors[position] = SessionClosed()
            elif isinstance(error := outcome.exception(), DeliveryError):
                self._errors[position] = error
            if not left:
                callback(_delivery(self._keys, self._errors))

        for position, outcome in self._waiting:
            outcome.add_done_callback(partial(on_done, position))


Begun = Delivery | Pending
"""A request that has ended already, or what is left of it. Whoever begins the next one now keeps the order."""


def begin_send(keys: Sequence[str], frame: Frame) -> Coroutine[Any, Any, Begun]:
    """`send`, up to where only the sessions are waited for."""
    return _request(keys, send_event(frame, conf.options().send_timeout))


def begin_close(
    keys: Sequence[str], frame: Frame | None, code: int, reason: str, tell: bool
) -> Coroutine[Any, Any, Begun]:
    """`close`, up to where only the sessions are waited for."""
    return _request(list(dict.fromkeys(keys)), close_event(frame, code, reason, tell))


async def send(keys: Sequence[str], frame: Frame) -> Delivery:
    """Send a frame to each session; a key that is named twice gets it twice (contract: POST send)."""
    return await end_of(await begin_send(keys, frame))


async def close(
    keys: Sequence[str], frame: Frame | None, code: int = 1000, reason: str = "", *, tell: bool = False
) -> Delivery:
    """Send a last frame, if any, then Close, to each session.

    The close callback follows with `tell`; without, it is the backend's own wish (contract: POST close, Callbacks).
    """
    return await end_of(await begin_close(keys, frame, code, reason, tell))


async def end_of(begun: Begun) -> Delivery:
    return begun if isinstance(begun, Delivery) else await begun.wait()


async def missing(keys: Sequence[str]) -> set[str]:
    """Those keys that have no session anywhere, whatever the registry says. Raises ClusterUnreachable, ClusterLost."""
    groups = {key: group_name(key) for key in keys}
    gone = await (await start()).missing(groups.values())
    return {key for key, group in groups.items() if group in gone}


async def _request(keys: Sequence[str], event: Event) -> Begun:
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
    size = event.get("size", 0)
    stuck = False
    for position, key in enumerate(keys):
        group = group_name(key)
        try:
            if channel_layer.must_wait(group, size):
                if stuck:  # one wait that was in vain is enough for a request
                    raise ClusterUnreachable
                stuck = True
                await channel_layer.room(size)
                stuck = False
            outcome = channel_layer.request(group, event)
        except DeliveryError as error:
            errors[position] = error
        else:
            if outcome is not None:
                waiting.append((position, outcome))
    return Pending(keys, errors, waiting) if waiting else _delivery(keys, errors)


def _delivery(keys: Sequence[str], errors: dict[int, DeliveryError]) -> Delivery:
    if not errors:
        return _ALL
    unknown = any(isinstance(error, ClusterUnreachable | ClusterLost) for error in errors.values())
    failures = [Failure(keys[position], errors[position].text) for position in sorted(errors)]
    return Delivery(failures, unreachable=unknown and len(errors) == len(keys))
