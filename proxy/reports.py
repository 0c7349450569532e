"""What a watcher is told of a session: JSON objects, as the API's lines and the admin's events have them. Pure rules.

`taps` makes those that come from a session, numbered by `n`, `watching` the others; docs/api.md has all of them.
"""

import base64
import math
from datetime import UTC, datetime
from typing import Any

from proxy.printable import shown

Report = dict[str, Any]

SESSION, SENT, RECEIVED, CALLBACK = "session", "sent", "received", "callback"
REFUSED, CLOSED, BUSY = "refused", "closed", "busy"
"""A handshake got no session; a session is over; so many watch that this one gets nothing."""
_FROM_SESSIONS = (SESSION, SENT, RECEIVED, CALLBACK, REFUSED, CLOSED, BUSY)

ABSENT, MISSED, LOST, REGAINED, ENDED = "absent", "missed", "lost", "regained", "ended"
"""Of the watcher: nobody has the key; some were dropped; sessions can't be asked; they can again; nothing follows."""

MAX_CONTENT = 4096  # characters of text, bytes of binary frames, that are shown
_MAX_TEXT = 2 * MAX_CONTENT  # base64 takes a third more
_MAX_FIELDS = 20
_MAX_WORDS = 500


def moment() -> str:
    """Now."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def content(payload: str | bytes, room: int = MAX_CONTENT) -> Report:
    """What is shown of a frame or a body, at most `room` characters or bytes of it."""
    room = max(0, min(room, MAX_CONTENT))
    kept = payload[:room]
    shown_part: Report = (
        {"content": kept}
        if isinstance(kept, str)
        else {"content": base64.b64encode(kept).decode(), "encoding": "base64"}
    )
    return shown_part | ({"cut": True} if len(payload) > room else {})


def body(found: bytes) -> str | bytes:
    """A body as text, if it is UTF-8."""
    try:
        return found.decode()
    except UnicodeDecodeError:
        return found


def words(error: object) -> str:
    """The text of an error, in printable characters."""
    return shown(str(error)[:_MAX_WORDS])


def is_from_session(found: object) -> bool:
    """Is this a report as `taps` makes them? It may have come from anybody on Redis."""
    if not isinstance(found, dict) or len(found) > _MAX_FIELDS or found.get("what") not in _FROM_SESSIONS:
        return False
    number = found.get("n")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        return False
    texts = all(isinstance(found.get(name), str) for name in ("at", "connection"))
    return texts and all(isinstance(name, str) and _is_plain(value) for name, value in found.items())


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, int) or (isinstance(value, str) and len(value) <= _MAX_TEXT)
