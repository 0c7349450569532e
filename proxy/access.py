"""Who may use the API: a key, an allowed network, or, without keys, this host only (faults: Attacks)."""

import hmac
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from proxy.conf import Options
from proxy.exceptions import Forbidden, Unauthorized
from proxy.forwarding import is_in, plain_address
from proxy.protocol import header_values

# Any of these says that the request came through a proxy, so that its peer's address says nothing about its sender.
_FORWARDING = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)


def check_access(scope: Mapping[str, Any], options: Options) -> None:
    """Raises Unauthorized (401) where keys are configured and none was given, Forbidden (403) where none are."""
    client = scope.get("client")
    address = client[0] if client else ""
    if options.api_allow and is_in(address, options.api_allow):
        return
    if options.api_keys:
        if not _has_key(scope, options.api_keys):
            raise Unauthorized("not allowed: expected Authorization: Bearer with one of EKBO_API_KEYS")
        return
    if any(name in _FORWARDING for name, _ in scope["headers"]):
        raise Forbidden("not allowed: the request was forwarded, and no EKBO_API_KEYS are configured")
    if not _is_local(address):
        raise Forbidden("not allowed: not from this host; configure EKBO_API_KEYS or EKBO_API_ALLOW")


def _has_key(scope: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    values = header_values(scope["headers"], b"authorization")
    scheme, _, given = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    # Every key is compared, so that the time taken doesn't tell which one was close.
    matches = [hmac.compare_digest(given.strip(), key.encode()) for key in keys]
    return scheme.lower() == b"bearer" and any(matches)


@lru_cache
def _is_local(address: str) -> bool:
    """Loopback, or a UNIX socket, which has no address."""
    try:
        return not address or ip_address(plain_address(address)).is_loopback
    except ValueError:
        return False
