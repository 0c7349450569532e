"""What POST /send and POST /close do with a request, whoever parsed it: the Django views, or the push lane."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from proxy import delivery, protocol
from proxy.access import admit
from proxy.conf import Options
from proxy.delivery import Delivery
from proxy.exceptions import BadRequest, MethodNotAllowed
from proxy.protocol import Frame, Headers

Push = Callable[[Sequence[str], bytes, Headers], Coroutine[Any, Any, Delivery]]
"""Takes the session keys, the body and the headers; raises BadRequest before anything is done."""


def admitted_keys(scope: Mapping[str, Any], options: Options, push: Push) -> list[str]:
    """The sessions that a request names, if whoever sent it may do that, `send` or `close`, to them.

    `scope` is ASGI's, of which `method`, `headers`, `client` and `server` count. Raises ApiError.
    """
    grant = admit(scope, options)
    if scope["method"] != "POST":
        raise MethodNotAllowed
    keys = protocol.session_keys(scope["headers"], options.session_header_name)
    if grant:
        grant.check(_VERBS[push], keys)
    return keys


def send(keys: Sequence[str], body: bytes, headers: Headers) -> Coroutine[Any, Any, Delivery]:
    """POST {path.send}: a frame for each session."""
    return delivery.send(keys, _frame(body, headers))


def close(keys: Sequence[str], body: bytes, headers: Headers) -> Coroutine[Any, Any, Delivery]:
    """POST {path.close}: a last frame, if there is a body, then Close, for each session."""
    code, reason = protocol.close_code(headers), protocol.close_reason(headers)
    return delivery.close(keys, _frame(body, headers) if body else None, code, reason)


_VERBS: dict[Push, str] = {send: "send", close: "close"}


def answer(done: Delivery) -> tuple[int, bytes]:
    """The status and the body that say how it ended (contract: POST send, close)."""
    if not done.failures:
        return 200, protocol.OK_BODY
    result, status = ("NG", 503) if done.unreachable else ("NG", 400) if done.refused else ("OK", 200)
    return status, protocol.failures_body(done.failures, result)


def _frame(body: bytes, headers: Headers) -> Frame:
    content_type = next((value for name, value in headers if name == b"content-type"), b"")
    try:
        return protocol.make_frame(body, content_type.decode("latin-1"))
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"text body: expected UTF-8, found other bytes at {error.start}; "
            "for a binary frame send Content-Type: application/octet-stream"
        ) from None
