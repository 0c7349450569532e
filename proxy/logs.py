"""What is logged of requests and connections: one line for each event, with ids by which lines are found again.

An event's fields are the arguments of its message, by name, so that one call gives a line for people and one in JSON
(`printable`, docs/logs.md). Nothing is made of an event whose level is off. All that serves calls this.
"""

import logging
import re
import secrets
from collections.abc import Mapping
from time import monotonic
from typing import Any

from proxy import conf, forwarding
from proxy.ends import End
from proxy.exceptions import CallbackError, ConnectRefused
from proxy.protocol import Headers, header_values, plain

MAX_ADDRESS = 64  # characters; what a trusted proxy names may be no address

_SANE_ID = re.compile(rb"[0-9A-Za-z._-]{1,64}")

access_logger = logging.getLogger("proxy.access")
session_logger = logging.getLogger("proxy.session")
callback_logger = logging.getLogger("proxy.callbacks")


def use_level() -> None:
    """Log from the configured level on; again at SIGHUP."""
    logging.getLogger("proxy").setLevel(conf.options().log_level.upper())


def request_id(headers: Headers) -> str:
    """What the sender calls a request, in X-Request-Id, if that is one sane value; else a new name for it."""
    given = header_values(headers, b"x-request-id")
    if len(given) == 1 and _SANE_ID.fullmatch(given[0]):
        return given[0].decode()
    return secrets.token_hex(8)


def log_request(method: str, path: str, status: int, seconds: float, headers: Headers) -> None:
    """The access log's line for a request to the API. `path` is one of ours, `method` the server has checked."""
    if access_logger.isEnabledFor(logging.INFO):
        access_logger.info(
            "%(method)s %(path)s %(status)d %(seconds).6f request %(request)s",
            {
                "event": "request",
                "method": method,
                "path": path,
                "status": status,
                "seconds": round(seconds, 6),
                "request": request_id(headers),
            },
        )


def log_refusal(scope: Mapping[str, Any], refusal: ConnectRefused, connection: str) -> None:
    """A handshake ended without a session; `connection` is empty if it never had a name."""
    if access_logger.isEnabledFor(logging.INFO):
        access_logger.info(
            "handshake refused: %(status)d, %(why)s, from %(address)s, request %(request)s",
            {
                "event": "refuse",
                "connection": connection,
                "status": refusal.status,
                "cause": refusal.cause,
                "why": str(refusal),
                **_sender(scope),
            },
        )


def callback_failed(kind: str, connection: str, error: CallbackError) -> None:
    """A callback wasn't answered as it should be."""
    callback_logger.warning(
        "connection %(connection)s: callback failed: %(error)s",
        {"event": "callback_failed", "connection": connection, "kind": kind, "error": str(error)},
    )


def crashed(connection: str) -> None:
    """In an `except` block: a fault of ours, with its traceback."""
    session_logger.exception(
        "connection %(connection)s: unexpected error", {"event": "unexpected_error", "connection": connection}
    )


class ConnectionLog:
    """The lines of one accepted connection."""

    __slots__ = ("_began", "_connection", "_sender")

    def __init__(self, scope: Mapping[str, Any], connection: str) -> None:
        self._began = monotonic()
        self._connection = connection
        self._sender = _sender(scope) if access_logger.isEnabledFor(logging.INFO) else None

    def seconds(self) -> float:
        """Since the backend accepted it."""
        return monotonic() - self._began

    def opened(self) -> None:
        if self._sender:
            access_logger.info(
                "connection %(connection)s: open, from %(address)s, request %(request)s",
                {"event": "connect", "connection": self._connection, **self._sender},
            )

    def closed(self, end: End) -> None:
        if self._sender:
            access_logger.info(
                "connection %(connection)s: closed, code %(code)d, %(reason)s, after %(seconds).1f s",
                {
                    "event": "close",
                    "connection": self._connection,
                    "code": end.code,
                    "reason": "by the backend" if end.by_backend else end.reason,
                    "seconds": round(self.seconds(), 3),
                    **self._sender,
                },
            )


def address_of(scope: Mapping[str, Any]) -> str:
    """Where a request, or a client, comes from, as far as trusted proxies say so."""
    client, trusted = (scope.get("client") or ("",))[0], conf.options().trusted_proxies
    address = forwarding.peer(scope["headers"], client, "", trusted).address(trusted)
    return plain(address, MAX_ADDRESS) or "unix"


def _sender(scope: Mapping[str, Any]) -> dict[str, str]:
    return {"address": address_of(scope), "request": request_id(scope["headers"])}
