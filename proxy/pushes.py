"""What POST /send and POST /close do with a request, whoever parsed it: the Django views, or the push lane."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from proxy import delivery, exceptions, protocol
from proxy.access import ADDRESSEE, admit_peer
from proxy.conf import Options
from proxy.delivery import Begun, Delivery
from proxy.exceptions import BadRequest, MethodNotAllowed
from proxy.forwarding import tells_origin
from proxy.protocol import Frame, Headers
from proxy.stats import Stats, stats


class Head:
    """What counts of a push's headers, found in one pass."""

    __slots__ = ("authorizations", "content_type", "forwarded", "framing", "headers", "session_values")

    def __init__(self, headers: Headers, session_header: bytes) -> None:
        self.headers = headers
        self.session_values: list[bytes] = []
        self.authorizations: list[bytes] = []
        self.framing: list[bytes] = []
        """The values of all headers that say how the body comes, what comes after it, and who is meant."""
        self.content_type = b""
        self.forwarded = False
        for name, value in headers:
            if name == session_header:
                self.session_values.append(value)
            elif name in _FRAMING:
                self.framing.append(value)
            elif name == b"content-type":
                self.content_type = self.content_type or value
            elif name == b"authorization":
                self.authorizations.append(value)
            elif tells_origin(name):
                self.forwarded = True

    def admitted_keys(self, scope: Mapping[str, Any], options: Options, push: "Push") -> list[str]:
        """The sessions that the request names, if whoever sent it may do that, `send` or `close`, to them.

        `scope` is ASGI's, of which `method`, `client` and `server` count. Raises ApiError.
        """
        grant = admit_peer(scope, self.forwarded, self.authorizations, options)
        if scope["method"] != "POST":
            raise MethodNotAllowed
        keys = protocol.session_keys(self.session_values)
        if grant:
            grant.check(_VERBS[push], keys)
        return keys


_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"upgrade", b"expect", ADDRESSEE))
"""The push lane takes requests with one of these only, so whoever names its addressee is the view's."""

Push = Callable[[Sequence[str], bytes, Head], Coroutine[Any, Any, Begun]]
"""Takes the session keys, the body and the head; raises BadRequest before anything is done."""


def send(keys: Sequence[str], body: bytes, head: Head) -> Coroutine[Any, Any, Begun]:
    """POST {path.send}: a frame for each session."""
    return delivery.begin_send(keys, frame(body, head.content_type.decode("latin-1")))


def close(keys: Sequence[str], body: bytes, head: Head) -> Coroutine[Any, Any, Begun]:
    """POST {path.close}: a last frame, if there is a body, then Close, for each session."""
    code, reason = protocol.close_code(head.headers), protocol.close_reason(head.headers)
    last = frame(body, head.content_type.decode("latin-1")) if body else None
    return delivery.begin_close(keys, last, code, reason, protocol.close_callback(head.headers))


_VERBS: dict[Push, str] = {send: "send", close: "close"}
_RESULTS: dict[str, str] = {
    exceptions.SessionNotFound.text: "not_found",
    exceptions.SessionClosed.text: "closed",
    exceptions.SendTimeout.text: "timeout",
    exceptions.ClusterUnreachable.text: "unreachable",
    exceptions.NoAnswer.text: "no_answer",
}
"""What `Stats.pushes` calls a failure of this text."""


def tallies(lane: str) -> "dict[Push, Tally]":
    """Who counts what comes in this way."""
    return {push: Tally(push, lane) for push in (send, close)}


class Tally:
    """Counts pushes of one verb that came in one way."""

    __slots__ = ("_is_close", "_ok", "_places")

    def __init__(self, push: Push, lane: str) -> None:
        verb = _VERBS[push]
        self._is_close = push is close
        self._places = {result: Stats.pushes[verb, lane, result] for result in (*_RESULTS.values(), "refused")}
        self._ok = Stats.pushes[verb, lane, "ok"]

    def answer(self, done: Delivery, keys: Sequence[str]) -> tuple[int, bytes]:
        """Count how a push for these sessions ended, and say it: `answer`."""
        asked = len(set(keys)) if self._is_close else len(keys)
        if done.failures:
            for failure in done.failures:
                stats.add(self._places[_RESULTS.get(failure.error, "closed")])  # another version may say more
            rest = self._places["refused"] if done.refused else self._ok
            stats.slot[rest] += asked - len(done.failures)
        else:
            stats.slot[self._ok] += asked
        return answer(done)


def answer(done: Delivery) -> tuple[int, bytes]:
    """The status and the body that say how it ended (contract: POST send, close)."""
    if not done.failures:
        return 200, protocol.OK_BODY
    result, status = ("NG", 503) if done.unreachable else ("NG", 400) if done.refused else ("OK", 200)
    return status, protocol.failures_body(done.failures, result)


def frame(body: bytes, content_type: str) -> Frame:
    """What a body is for a client (contract: POST send). Raises BadRequest."""
    try:
        return protocol.make_frame(body, content_type)
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"text body: expected UTF-8, found other bytes at {error.start}; "
            "for a binary frame send Content-Type: application/octet-stream"
        ) from None
