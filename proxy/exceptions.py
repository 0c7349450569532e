"""Every error this package raises.

KuiperbeltError
├── ApiError                     a whole API request is refused; carries its HTTP status
│   ├── MethodNotAllowed         405
│   ├── SessionHeaderMissing     400
│   ├── BadRequest               400: malformed key, too many keys, bad close code, text that isn't UTF-8
│   ├── BodyTooLarge             413
│   ├── BatchTooLarge            413: a batch has too many lines, or one of them too many bytes
│   ├── Unauthorized             401
│   ├── Forbidden                403
│   ├── Misdirected              421: another process was meant
│   └── Unavailable              503: the database can't be asked
├── DeliveryError                one session didn't get its frame; the text is the contract's
│   ├── SessionNotFound
│   ├── SessionClosed
│   ├── SendTimeout
│   ├── SessionTaken             a connection may not have a key that another has (duplicate_session: reject)
│   ├── ClusterUnreachable       Redis can't be asked; nothing was sent
│   └── NoAnswer                 the event was sent, but the process that has the session didn't answer in time
│       └── ClusterLost          the same, because Redis went away meanwhile
├── ConnectRefused               a handshake is refused; carries the answer for the client
├── CallbackError                the backend didn't answer a callback as it should
│   ├── NoBackendAnswer          not at all: unreachable, too slow, hung up
│   └── BackendBusy              it wasn't asked: too many callbacks at once, or it gives no answers
├── HttpError                    another HTTP server gave no whole answer
│   ├── Unreachable              there is no connection: nobody listens there, or no TLS
│   │   ├── HostUnknown
│   │   └── TlsFailed            what listens there speaks no TLS, or its certificate isn't believed
│   │       └── WrongCertificate not the one that was expected
│   ├── HungUp                   it closed the connection without a byte of an answer
│   ├── AnswerCut                it closed the connection in the middle of its answer
│   └── BadAnswer                it doesn't speak HTTP, or answered with more headers than are taken
├── NodeGone                     this process may not write to the database as the node that it was
│   ├── DeclaredDead             another process has taken over what this one had there
│   └── NodeForgotten            the database doesn't know it: an older copy is in its place
└── SessionsForgotten            the database knows the process, but not all of its sessions

Errors of the configuration aren't exceptions: they are collected as `conf.Problem` and reported together.
"""

from collections.abc import Sequence


class KuiperbeltError(Exception):
    """Base of every error of this package."""


class ApiError(KuiperbeltError):
    """An API request that is refused as a whole (contract: POST send, close)."""

    status = 400
    headers: Sequence[tuple[str, str]] = ()


class MethodNotAllowed(ApiError):
    status = 405

    def __init__(self, allowed: str = "POST") -> None:
        self.headers = (("Allow", allowed),)
        super().__init__(f"required {allowed} method")


class SessionHeaderMissing(ApiError):
    def __init__(self) -> None:
        super().__init__("session header is missing")


class BadRequest(ApiError):
    """What was sent can't be used; the text says what was expected and what was found."""


class BodyTooLarge(ApiError):
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"request body is too large: at most {limit} bytes are taken (EKBO_MAX_BODY_SIZE)")


class BatchTooLarge(ApiError):
    """What a batch has too much of; the text says how much is taken."""

    status = 413


class Unauthorized(ApiError):
    status = 401
    headers = (("WWW-Authenticate", "Bearer"),)


class Forbidden(ApiError):
    status = 403


class Misdirected(ApiError):
    """The request is for another process, which was expected here (RFC 9110 section 15.5.20)."""

    status = 421


class Unavailable(ApiError):
    """What is asked for can't be known now."""

    status = 503


class DeliveryError(KuiperbeltError):
    """One session could not be served; the other sessions of the request are not touched by it."""

    text = ""

    def __init__(self) -> None:
        super().__init__(self.text)


class SessionNotFound(DeliveryError):
    text = "kuiperbelt: session is not found"


class SessionClosed(DeliveryError):
    text = "kuiperbelt: session is closed"


class SendTimeout(DeliveryError):
    text = "context deadline exceeded"


class SessionTaken(DeliveryError):
    text = "kuiperbelt: session is taken"


class ClusterUnreachable(DeliveryError):
    text = "kuiperbelt: cluster is unreachable"


class NoAnswer(DeliveryError):
    text = "kuiperbelt: no answer, the message may have been delivered"


class ClusterLost(NoAnswer):
    """Redis didn't confirm what was sent to it."""


class ConnectRefused(KuiperbeltError):
    """A handshake that ends without a session.

    `headers` and `body` go to the client where the server can send a denial response. `cause` is what counts it
    (`Stats.connects`).
    """

    cause = "backend_refused"

    def __init__(
        self, status: int, body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = (), why: str = ""
    ) -> None:
        super().__init__(why or f"refused with {status}")
        self.status = status
        self.body = body
        self.headers = headers

    @classmethod
    def plain(
        cls, status: int, text: str, *headers: tuple[bytes, bytes], cause: str = "bad_request"
    ) -> "ConnectRefused":
        """A refusal of our own, with one line of text that says why."""
        head = ((b"content-type", b"text/plain; charset=utf-8"), *headers)
        refusal = cls(status, f"{text}\n".encode(), head, text)
        refusal.cause = cause
        return refusal


class CallbackError(KuiperbeltError):
    """The backend was unreachable, too slow, or answered what the contract doesn't allow."""


class NoBackendAnswer(CallbackError):
    """No answer came, not even a malformed one: what a circuit breaker counts."""


class BackendBusy(CallbackError):
    """The backend wasn't asked, so as not to be overrun; it may be in `retry_after` seconds."""

    def __init__(self, text: str, retry_after: int) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class HttpError(KuiperbeltError):
    """What became of a request; the text has no part of the request in it."""


class Unreachable(HttpError):
    """The request wasn't sent."""


class HostUnknown(Unreachable):
    pass


class TlsFailed(Unreachable):
    pass


class WrongCertificate(TlsFailed):
    pass


class HungUp(HttpError):
    """On a kept connection it most probably wasn't read either."""


class AnswerCut(HttpError):
    pass


class BadAnswer(HttpError):
    pass


class NodeGone(KuiperbeltError):
    """What is written from now on is written as another node."""


class DeclaredDead(NodeGone):
    """The process was silent for so long that its sessions count as lost, and their close events are another's."""


class NodeForgotten(NodeGone):
    """The database was restored or emptied, or a replica was behind: nobody holds the sessions for lost."""


class SessionsForgotten(KuiperbeltError):
    """The end of a session can't be written where its row isn't; nothing was written."""
