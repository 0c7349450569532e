"""What processes of a cluster say to each other over Redis: msgpack maps that carry a version. Pure rules.

A kind's fields never change their meaning within a version, and unknown fields are ignored, so that a newer process may
add some. A message of another version, or of an unknown kind, is refused.
"""

from collections.abc import Iterable, Mapping
from reprlib import repr as short
from typing import Any

import msgpack

VERSION = 1

# Kinds. The first four go to a group, to all processes that have members in it; the next two to one process's inbox.
REQUEST = "request"
"""An event that is answered: to `inbox`, naming `id`. `at` is the sender's clock, in seconds, and `clock` which one."""
REQUEST_ALL = "request all"
"""The same, but the answer is good only if none of the members objects."""
ANNOUNCE = "announce"
"""An event that isn't answered."""
GROUP = "group"
"""A message of Channels' own group_send."""
REPLIES = "replies"
"""Answers: pairs of the request's id and an outcome."""
CHANNEL = "channel"
"""A message of Channels' own send."""
PRESENT = "present"
"""A process is there, or it leaves. To all, its own copy included: if that doesn't come back, `number` is missed.
`clock` and `at` are as in requests."""

_REQUEST_FIELDS = {"inbox": bytes, "id": int, "clock": int, "at": float, "event": bytes}
_FIELDS: Mapping[str, Mapping[str, type]] = {
    REQUEST: _REQUEST_FIELDS,
    REQUEST_ALL: _REQUEST_FIELDS,
    ANNOUNCE: {"inbox": bytes, "event": bytes},
    GROUP: {"inbox": bytes, "message": dict},
    REPLIES: {"replies": list},
    CHANNEL: {"channel": str, "message": dict},
    PRESENT: {"inbox": bytes, "number": int, "clock": int, "at": float, "left": bool},
}


class BadEnvelope(ValueError):
    """Not a message of this cluster, or of a version that this process doesn't know."""


def pack(kind: str, **fields: Any) -> bytes:
    """A message for Redis; raises TypeError, ValueError for what msgpack has no form for."""
    return bytes(msgpack.packb({"v": VERSION, "kind": kind, **fields}))


def pack_event(event: Mapping[str, Any]) -> bytes:
    """An event as requests carry it: packed once for all groups that get it."""
    return bytes(msgpack.packb(event))


def unpack(payload: bytes) -> dict[str, Any]:
    """A message's fields; raises BadEnvelope."""
    envelope = _read(payload)
    if not isinstance(envelope, dict) or envelope.get("v") != VERSION:
        version = envelope.get("v") if isinstance(envelope, dict) else None
        raise BadEnvelope(f"expected a message of version {VERSION}, found {short(version):.40}")
    kind = envelope.get("kind")
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise BadEnvelope(f"expected one of {', '.join(_FIELDS)}, found {short(kind):.40}")
    for name, expected in fields.items():
        if not isinstance(envelope.get(name), expected):
            found = short(envelope.get(name))  # not the whole: what is nested deeply, repr() gives up on
            raise BadEnvelope(f"{kind}: expected {expected.__name__} as {name}, found {found:.40}")
    return envelope


def unpack_event(event: bytes) -> dict[str, Any]:
    """The event of a request; raises BadEnvelope."""
    found = _read(event)
    if not isinstance(found, dict):
        raise BadEnvelope(f"expected an event, found {short(found):.40}")
    return found


def replies(envelope: Mapping[str, Any]) -> Iterable[tuple[int, str]]:
    """The answers in an envelope of the kind REPLIES, less those that can't be read."""
    for reply in envelope["replies"]:
        if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[0], int) and isinstance(reply[1], str):
            yield reply[0], reply[1]


def _read(payload: bytes) -> Any:
    try:
        return msgpack.unpackb(payload)
    except (ValueError, msgpack.UnpackException) as error:  # bad UTF-8 and deep nesting are ValueErrors as well
        raise BadEnvelope(f"expected msgpack, found {len(payload)} bytes that aren't: {error}") from None
