"""The single door to sessions: send to them, close them, replace them, by key.

Views (and later the admin and commands) call it; consumers get its events through the channel layer. Only this module
knows how a key becomes a group, and what the events are called.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from channels.layers import get_channel_layer

from proxy import conf
from proxy.exceptions import DeliveryError, SessionNotFound
from proxy.layers import Event, LocalChannelLayer, Outcome
from proxy.protocol import Failure, Frame
from proxy.stats import stats

# The layer's events; the consumer has a handler for each.
SEND = "session.send"
CLOSE = "session.close"
REPLACE = "session.replace"

_SAFE_KEY = re.compile(r"[0-9A-Za-z\-_.]{1,80}")


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a request to one or many sessions ended."""

    failures: Sequence[Failure] = ()
    refused: bool = False
    """Strict broadcast found a session missing: nobody received anything."""


def layer() -> LocalChannelLayer:
    return cast(LocalChannelLayer, get_channel_layer())


def group_name(key: str) -> str:
    """The channel layer's group for a session key. Group names know fewer characters, and less length, than keys."""
    if _SAFE_KEY.fullmatch(key):
        return f"session.{key}"
    return f"session-{hashlib.sha256(key.encode()).hexdigest()}"


async def send(keys: Sequence[str], frame: Frame) -> Delivery:
    """Send a frame to each session; a key that is named twice gets it twice (contract: POST send)."""
    timeout = conf.options().send_timeout
    return await _request(keys, {"type": SEND, "message": frame.message(), "size": frame.size, "timeout": timeout})


async def close(keys: Sequence[str], frame: Frame | None, code: int = 1000, reason: str = "") -> Delivery:
    """Send a last frame, if any, then Close, to each session. No close callback follows (contract: POST close)."""
    event: Event = {"type": CLOSE, "last": frame and frame.message(), "code": code, "reason": reason}
    return await _request(list(dict.fromkeys(keys)), event)


def replace(key: str, connection: str) -> None:
    """Close every session of this key but the one of `connection` (contract: GET connect 5)."""
    layer().request(group_name(key), {"type": REPLACE, "connection": connection})


async def _request(keys: Sequence[str], event: Event) -> Delivery:
    channel_layer = layer()
    groups = [group_name(key) for key in keys]
    if conf.options().strict_broadcast:
        missing = [key for key, group in zip(keys, groups, strict=True) if not channel_layer.has_receivers(group)]
        if missing:
            return Delivery([Failure(key, SessionNotFound.text) for key in missing], refused=True)
    # First everything that can be done at once, so that no session waits for another one's blocked socket.
    pending = [_start(channel_layer, group, event) for group in groups]
    if event.get("message") or event.get("last"):
        stats.total_messages += sum(1 for outcomes in pending if not isinstance(outcomes, SessionNotFound))
    failures: list[Failure] = []
    for key, outcomes in zip(keys, pending, strict=True):
        try:
            if isinstance(outcomes, DeliveryError):
                raise outcomes
            for outcome in outcomes:
                if outcome is not None:
                    await outcome
        except DeliveryError as error:
            failures.append(Failure(key, error.text))
    return Delivery(failures)


def _start(channel_layer: LocalChannelLayer, group: str, event: Event) -> Sequence[Outcome] | DeliveryError:
    try:
        outcomes = channel_layer.request(group, event)
    except DeliveryError as error:
        return error
    return outcomes or SessionNotFound()
