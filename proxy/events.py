"""What the channel layer brings to a session: a frame, the end, another connection's claim to its key, a watcher.

`delivery`, `ownership` and `watching` make events, consumers and `ownership` take them. They may come from another
process over Redis, so `is_valid` says whether one can be used. Pure rules.
"""

import re
from typing import Any

from proxy.protocol import MAX_CLOSE_REASON, Frame

Event = dict[str, Any]

SEND = "session.send"
CLOSE = "session.close"
CLAIM = "session.claim"
WATCH = "session.watch"
SHARED = "session.shared"
"""Made by the layer itself: after a gap in its connection, other processes have members in this group too."""

MAX_LEASE = 60.0  # seconds
_CHANNEL = re.compile(r"[0-9A-Za-z\-_.]{1,80}![0-9A-Za-z\-_.]{1,16}")
"""A channel of one process, as a layer's new_channel names it."""


def send_event(frame: Frame, timeout: float) -> Event:
    """A frame; `timeout` is for its wait for room in the session's queue, in seconds, 0: none."""
    return {"type": SEND, "message": frame.message(), "size": frame.size, "timeout": timeout}


def close_event(last: Frame | None, code: int, reason: str, tell: bool = False) -> Event:
    """A last frame, if any, and Close; `tell`: the close callback follows. Older releases don't know that field."""
    return {"type": CLOSE, "last": last and last.message(), "code": code, "reason": reason, "tell": tell}


def claim_event(connection: str, since: float, fresh: bool) -> Event:
    """A connection says that the key is its own.

    `since`: when it connected, time.time(); `fresh`: it connects just now, and so is the newest.
    """
    return {"type": CLAIM, "connection": connection, "since": since, "fresh": fresh}


def watch_event(channel: str, contents: bool, lease: float) -> Event:
    """Somebody wants to be told what goes on: on this channel of his, for `lease` seconds; 0: not any more."""
    return {"type": WATCH, "channel": channel, "contents": contents, "lease": lease}


def late(claim: Event) -> Event:
    """A claim that comes when its connection has waited long enough for answers, and may own the key already.

    So nobody can say any more which of two is the newest, but by their times.
    """
    return claim | {"fresh": False}


def is_valid(event: object) -> bool:
    """Can a session make use of this event, which another process may have sent?"""
    if not isinstance(event, dict):
        return False
    get = event.get
    kind = get("type")
    if kind == SEND:
        timeout = get("timeout")
        known = _is_frame(get("message")) and _is_size(get("size"))
        return known and isinstance(timeout, float | int) and 0 <= timeout < 1e6
    if kind == CLOSE:
        code, reason, last = get("code"), get("reason"), get("last")
        known = isinstance(code, int) and (code == 1000 or 3000 <= code <= 4999)
        known = known and isinstance(reason, str) and len(reason.encode()) <= MAX_CLOSE_REASON
        known = known and isinstance(get("tell", False), bool)
        return known and (last is None or _is_frame(last))
    if kind == CLAIM:
        known = isinstance(get("connection"), str) and isinstance(get("since"), float)
        return known and isinstance(get("fresh"), bool)
    if kind == WATCH:
        channel, lease = get("channel"), get("lease")
        known = isinstance(channel, str) and _CHANNEL.fullmatch(channel) is not None
        known = known and isinstance(lease, float | int) and 0 <= lease <= MAX_LEASE
        return known and isinstance(get("contents"), bool)
    return False


def _is_frame(message: object) -> bool:
    if not isinstance(message, dict) or len(message) != 2 or message.get("type") != "websocket.send":
        return False
    return isinstance(message.get("text"), str) or isinstance(message.get("bytes"), bytes)


def _is_size(size: object) -> bool:
    return isinstance(size, int) and size >= 0
