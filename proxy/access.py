"""Who may use the API: a key, an allowed network, or, without keys, this host only (faults: Attacks)."""

import hmac
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from proxy.conf import Options
from proxy.exceptions import Forbidden, Unauthorized
from proxy.forwarding import is_forwarding, is_in, plain_address
from proxy.protocol import header_values


def check_access(scope: Mapping[str, Any], options: Options) -> None:
    """Raises Unauthorized (401) where keys are configured and none was given, Forbidden (403) where none are.

    A request that came through a proxy is only let in with a key: its peer's address says nothing about its sender.
    """
    client = scope.get("client")
    address = client[0] if client else ""
    forwarded = any(is_forwarding(name) or name == b"via" for name, _ in scope["headers"])
    if not forwarded and is_in(address, options.api_allow):
        return
    if options.api_keys:
        if not _has_key(scope, options.api_keys):
            raise Unauthorized("not allowed: expected Authorization: Bearer with one of EKBO_API_KEYS")
        return
    if forwarded:
        raise Forbidden("not allowed: the request was forwarded, and no EKBO_API_KEYS are configured")
    if not (_is_loopback(address) if address else _is_unix(scope)):
        raise Forbidden("not allowed: not from this host; configure EKBO_API_KEYS or EKBO_API_ALLOW")


def _has_key(scope: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    values = header_values(scope["headers"], b"authorization")
    scheme, _, given = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    # Every key is compared, so that the time taken doesn't tell which one was close.
    matches = [hmac.compare_digest(given.strip(), key.encode()) for key in keys]
    return scheme.lower() == b"bearer" and any(matches)


@lru_cache
def _is_loopback(address: str) -> bool:
    try:
        return ip_address(plain_address(address)).is_loopback
    except ValueError:
        return False


def _is_unix(scope: Mapping[str, Any]) -> bool:
    """A UNIX socket has no port. No address isn't enough: a TCP peer that is gone has none either."""
    server = scope.get("server")
    return server is None or server[1] is None
