"""The pure rules of the API: session keys, frames, close codes, answers. No Django, no asyncio.

Used by views (backend -> client) and, for keys and frames, by callbacks (client -> backend).
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxy.exceptions import BadRequest, SessionHeaderMissing

Headers = Sequence[tuple[bytes, bytes]]
"""Raw headers as ASGI gives them: lower-case names, repeated where they were repeated."""

Message = dict[str, Any]
"""An ASGI message."""

MAX_KEYS = 1000
"""Sessions that one request may name (contract: POST send)."""

KEY_PATTERN = re.compile(r"[!-+\--~]{1,256}")
"""A session key: 1-256 visible ASCII characters without comma (contract: GET connect)."""

_ONE_KEY = re.compile(KEY_PATTERN.pattern.encode())

BINARY_TYPE = "application/octet-stream"
MAX_CLOSE_REASON = 123  # bytes, RFC 6455 section 5.5

JSON = "application/json; charset=utf-8"
OK_BODY = b'{"result":"OK"}'


class Frame(NamedTuple):
    """One message for or from a client: text is `str`, binary is `bytes`."""

    payload: str | bytes
    size: int
    """Bytes on the wire, header not counted."""

    @property
    def binary(self) -> bool:
        return isinstance(self.payload, bytes)

    @property
    def content_type(self) -> str:
        """The Content-Type of the receive callback for this frame (contract: Callbacks)."""
        return BINARY_TYPE if self.binary else "text/plain"

    def message(self) -> Message:
        """The ASGI message that sends this frame; one for all sessions that get it."""
        return {"type": "websocket.send", "bytes" if isinstance(self.payload, bytes) else "text": self.payload}

    def encode(self) -> bytes:
        return self.payload if isinstance(self.payload, bytes) else self.payload.encode()


@dataclass(frozen=True, slots=True)
class Failure:
    """A session that didn't get its frame, and the contract's text for why."""

    session: str
    error: str


def is_session_key(key: str) -> bool:
    return KEY_PATTERN.fullmatch(key) is not None


def plain(text: str, limit: int) -> str:
    """What is kept of a text that others wrote: no control characters, nothing over the limit."""
    kept = text[:limit]
    return kept if kept.isprintable() else "".join(character for character in kept if character.isprintable())


def header_values(headers: Headers, name: bytes) -> list[bytes]:
    """All values of a header; `name` in lower case."""
    return [value for header, value in headers if header == name]


def session_keys(values: Iterable[bytes]) -> list[str]:
    """The session keys that a request names in its session headers' values, in order, repeated where they are repeated.

    Raises SessionHeaderMissing, or BadRequest for a malformed key or more than MAX_KEYS.
    """
    keys: list[str] = []
    checked = True
    for value in values:
        if _ONE_KEY.fullmatch(value):  # nearly always
            keys.append(value.decode())
        elif value.isascii():
            checked = False
            keys += [key for part in value.decode().split(",") if (key := part.strip(" \t"))]
        else:
            raise BadRequest("session key is malformed: expected visible ASCII characters, found others")
        if len(keys) > MAX_KEYS:
            raise BadRequest(f"too many session keys: expected at most {MAX_KEYS}")
    if not keys:
        raise SessionHeaderMissing
    if not checked:
        check_keys(keys)
    return keys


def check_keys(keys: Iterable[str]) -> None:
    """Raises BadRequest for a malformed session key."""
    for position, key in enumerate(keys, 1):
        if not is_session_key(key):
            raise BadRequest(
                f"session key {position} is malformed: expected 1-256 visible ASCII characters, "
                f"found {len(key)} characters" + ("" if len(key) > 256 else " with others among them")
            )


def is_binary(content_type: str) -> bool:
    """Does this Content-Type ask for a binary frame? Case and parameters don't count."""
    # Nearly all are shorter.
    return len(content_type) >= len(BINARY_TYPE) and content_type.partition(";")[0].strip().lower() == BINARY_TYPE


def make_frame(body: bytes, content_type: str) -> Frame:
    """The frame for a body; raises UnicodeDecodeError for text that isn't UTF-8."""
    return Frame(body if is_binary(content_type) else body.decode(), len(body))


def is_close_code(code: int) -> bool:
    """May a backend close with this code (RFC 6455 section 7.4.2)?"""
    return code == 1000 or 3000 <= code <= 4999


def close_code(headers: Headers) -> int:
    """The code that a close request asks for, 1000 if none; raises BadRequest."""
    values = header_values(headers, b"x-kuiperbelt-close-code")
    if not values:
        return 1000
    text = values[0].decode("latin-1")
    if len(values) == 1 and text.isascii() and text.isdigit() and len(text) == 4:
        code = int(text)
        if is_close_code(code):
            return code
    raise BadRequest(f"X-Kuiperbelt-Close-Code: expected 1000 or 3000-4999, found {text[:20]!r}")


def close_reason(headers: Headers) -> str:
    """The reason that a close request asks for, empty if none; raises BadRequest."""
    values = header_values(headers, b"x-kuiperbelt-close-reason")
    reason = values[0] if values else b""
    if len(reason) > MAX_CLOSE_REASON:
        raise BadRequest(f"X-Kuiperbelt-Close-Reason: expected at most {MAX_CLOSE_REASON} bytes, found {len(reason)}")
    try:
        return reason.decode()
    except UnicodeDecodeError:
        raise BadRequest("X-Kuiperbelt-Close-Reason: expected UTF-8, found other bytes") from None


def close_callback(headers: Headers) -> bool:
    """Does a close request ask for the close callback, because the backend doesn't know of it? Raises BadRequest."""
    values = header_values(headers, b"x-kuiperbelt-close-callback")
    if not values:
        return False
    if len(values) == 1 and values[0] in (b"true", b"false"):
        return values[0] == b"true"
    raise BadRequest(f"X-Kuiperbelt-Close-Callback: expected true or false, found {values[0].decode('latin-1')[:20]!r}")


def failures_body(failures: Iterable[Failure], result: str) -> bytes:
    """The answer when sessions failed, byte for byte as Go's JSON encoder writes it."""
    errors = [{"error": failure.error, "session": failure.session} for failure in failures]
    return json_body({"errors": errors, "result": result}) + b"\n"


def refusal_body(*messages: str) -> bytes:
    """The answer to a request that is refused as a whole."""
    return json_body({"errors": [{"error": message} for message in messages], "result": "NG"})


def json_body(value: object) -> bytes:
    """JSON as the API answers it."""
    text = json.dumps(value, separators=(",", ":"))
    # Go escapes these so that JSON inside HTML stays harmless; inside JSON strings it means the same.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()
