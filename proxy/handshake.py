"""A connection before it is a session: what is checked first, what the backend is asked, how a refusal looks.

The consumer has a Handshake, calls `authenticate`, then goes on or refuses; see the contract's "GET connect" 1 to 3.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

from proxy import callbacks, delivery, forwarding, logs
from proxy.conf import Options
from proxy.drain import drain
from proxy.endpoint import endpoint_for
from proxy.exceptions import BackendBusy, CallbackError, ConnectRefused, DeliveryError, SessionTaken
from proxy.limits import Place
from proxy.origins import origin_allowed
from proxy.stats import Stats, stats
from proxy.taps import Tap
from proxy.transports import Transport

MAX_HEADERS = 100  # what prefork servers take
MAX_HEADER_BYTES = 32 * 1024  # of all headers together


class Handshake:
    """One client's; a context, at the end of which it has been counted once what became of it, whatever happened."""

    __slots__ = ("_connection", "_scope", "_transport", "is_decided")

    def __init__(self, scope: dict[str, Any], connection: str, transport: Transport) -> None:
        """`connection` is the UUID of this one."""
        stats.total_connections += 1
        self._scope = scope
        self._connection = connection
        self._transport = transport
        self.is_decided = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if not self.is_decided:  # the task was cancelled
            self.came_to("draining" if self._transport.is_shutting_down() else "client_gone")

    def came_to(self, result: str) -> None:
        """Count what became of it."""
        self.is_decided = True
        stats.add(Stats.connects[result])

    async def refuse(self, error: Exception, tap: Tap | None) -> None:
        """In an `except` block, before the 101: there will be none."""
        self.is_decided = True
        await refuse(self._scope, self._transport.send, error, self._connection, tap)


async def authenticate(scope: dict[str, Any], connection: str, place: Place, options: Options) -> callbacks.Accepted:
    """Everything up to the backend's yes; `connection` is the UUID of this one. Raises ConnectRefused.

    Takes `place`, which is the caller's to free. That it is a WebSocket handshake of the right version, with a key, the
    server has checked before.
    """
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise ConnectRefused.plain(431, f"expected at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes together")
    if not origin_allowed(headers, options.origin_policy.name, options.origin_policy.listed):
        raise ConnectRefused.plain(403, "Origin is not allowed (origin_policy)", cause="origin")
    if drain.begun:
        retry_after = (b"retry-after", b"1")
        raise ConnectRefused.plain(503, "this process ends, another one will take you", retry_after, cause="draining")
    client = (scope.get("client") or ("",))[0]
    peer = forwarding.peer(headers, client, scope.get("scheme", "ws"), options.trusted_proxies)
    place.take(peer.address(options.trusted_proxies), options)
    if (await delivery.start()).is_unreachable():  # so the backend needn't be asked
        raise _unreachable()
    offered = scope.get("subprotocols") or []
    sent = [
        *forwarding.client_headers(headers, options.session_header_name),
        *peer.headers(),
        ("X-Kuiperbelt-Endpoint", endpoint_for(scope, options)),
        ("X-Kuiperbelt-Connection", connection),
    ]
    if offered:
        sent.append(("X-Kuiperbelt-Subprotocols", ", ".join(offered)))
    try:
        return await callbacks.client().connect(sent, scope["query_string"], offered)
    except BackendBusy as error:
        busy_for = (b"retry-after", str(error.retry_after).encode())
        raise ConnectRefused.plain(503, "the backend is busy", busy_for, cause="backend_busy") from error
    except CallbackError as error:
        logs.callback_failed("connect", connection, error)
        raise ConnectRefused.plain(502, "Bad Gateway", cause="backend_failed") from error


def _refusal_for(error: Exception, connection: str) -> ConnectRefused:
    if isinstance(error, ConnectRefused):
        return error
    if isinstance(error, SessionTaken):
        text = "the session is connected already (duplicate_session)"
        return ConnectRefused.plain(409, text, cause="session_taken")
    if isinstance(error, DeliveryError):
        return _unreachable()
    logs.crashed(connection)
    return ConnectRefused.plain(500, "Internal Server Error", cause="error")


def _unreachable() -> ConnectRefused:
    retry_after = (b"retry-after", b"1")
    return ConnectRefused.plain(503, "the cluster's Redis can't be reached", retry_after, cause="cluster_unreachable")


async def refuse(
    scope: dict[str, Any], send: Any, error: Exception, connection: str = "", tap: Tap | None = None
) -> None:
    """In an `except` block: end a handshake without a session, because of this error.

    With the whole answer where the server can send it, else a bare 403.
    """
    refusal = _refusal_for(error, connection)
    if tap:
        tap.refused(refusal.__cause__ or refusal, refusal.status)
    count_refusal(scope, refusal, connection)
    with contextlib.suppress(OSError):  # a client that didn't wait for the answer
        if "websocket.http.response" in (scope.get("extensions") or {}):
            headers = [*refusal.headers]
            await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": refusal.body})
        else:
            await send({"type": "websocket.close"})


def count_refusal(scope: Mapping[str, Any], refusal: ConnectRefused, connection: str = "") -> None:
    """A handshake ends without a session: counters and access log."""
    if refusal.status != 403:
        stats.connect_errors += 1
    stats.add(Stats.connects[refusal.cause])
    logs.log_refusal(scope, refusal, connection)
