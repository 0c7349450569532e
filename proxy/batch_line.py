"""One line of a batch: what it may say, what that does, and the line that answers it. Used by `batch`."""

from collections.abc import Coroutine, Sequence
from typing import Annotated, Any

import msgspec

from proxy import delivery, protocol, pushes
from proxy.delivery import Begun
from proxy.exceptions import BadRequest, BodyTooLarge
from proxy.protocol import MAX_CLOSE_REASON, MAX_KEYS, Frame

Id = Annotated[str, msgspec.Meta(max_length=256)] | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""The caller's own name for a line."""


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A push as JSON. Types are checked when it is decoded, what else must hold when it is asked for."""

    session: str | None = None
    sessions: list[str] | None = None
    body: str | None = None
    base64: bytes | None = None
    content_type: str | None = None
    close: bool = False
    code: int | None = None
    reason: str | None = None
    callback: bool = False
    id: Id | None = None

    def keys(self) -> list[str]:
        """The sessions that it is for; raises BadRequest."""
        if self.session is not None and self.sessions is None:
            keys = [self.session]
            if protocol.is_session_key(self.session):  # nearly always
                return keys
        elif self.sessions and self.session is None:
            keys = self.sessions
        else:
            raise BadRequest('expected "session" with a key, or "sessions" with a list of keys')
        if len(keys) > MAX_KEYS:
            raise BadRequest(f"too many session keys: expected at most {MAX_KEYS}")
        protocol.check_keys(keys)
        return keys

    def frame(self, limit: int) -> Frame | None:
        """The frame for a client, None without a body: text, but for `base64` without a content type, and where the
        content type asks for binary. Raises BadRequest, or BodyTooLarge for one over `limit` bytes."""
        body, encoded, content_type = self.body, self.base64, self.content_type
        if body is not None and encoded is not None:
            raise BadRequest('expected "body" or "base64", found both')
        if encoded is not None:
            frame = pushes.frame(encoded, protocol.BINARY_TYPE if content_type is None else content_type)
        elif body is None:
            return None
        elif content_type is not None and protocol.is_binary(content_type):
            frame = pushes.frame(body.encode(), content_type)
        else:
            frame = Frame(body, len(body) if body.isascii() else len(body.encode()))
        if frame.size > limit:
            raise BodyTooLarge(limit)
        return frame

    def begin(self, keys: Sequence[str], limit: int) -> Coroutine[Any, Any, Begun]:
        """Send or close, as `delivery` does; raises BadRequest or BodyTooLarge before anything is done."""
        frame = self.frame(limit)
        if not self.close:
            if self.code is not None or self.reason is not None or self.callback:
                raise BadRequest('"code", "reason", "callback": expected with "close":true only')
            if frame is None:
                raise BadRequest('expected "body" or "base64"')
            return delivery.begin_send(keys, frame)
        code = 1000 if self.code is None else self.code
        if not protocol.is_close_code(code):
            raise BadRequest(f'"code": expected 1000 or 3000-4999, found {code}')
        reason = self.reason or ""
        if (size := len(reason.encode())) > MAX_CLOSE_REASON:
            raise BadRequest(f'"reason": expected at most {MAX_CLOSE_REASON} bytes, found {size}')
        return delivery.begin_close(keys, frame if frame and frame.size else None, code, reason, self.callback)


_decode = msgspec.json.Decoder(Line).decode


def read(line: bytes) -> Line:
    """What a line says; raises BadRequest for what is no JSON object of this kind."""
    try:
        return _decode(line)
    except UnicodeDecodeError:
        raise BadRequest("line: expected UTF-8, found other bytes") from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(f'line: expected JSON like {{"session":"bob","body":"hello"}}; {str(error)[:200]}') from None


def answer(number: int, identity: Id | None, status: int, body: bytes) -> bytes:
    """The line that answers line `number`: what /send or /close would have answered, and which line it is for."""
    name = b"" if identity is None else b'"id":%b,' % msgspec.json.encode(identity)
    if body is protocol.OK_BODY:
        return b'{"line":%d,%b"result":"OK"}\n' % (number, name)
    return b'{"line":%d,%b"status":%d,%b\n' % (number, name, status, body[1:].rstrip())
