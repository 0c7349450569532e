"""Who may use the API: a key, an allowed network, or, without keys, this host only; with a token, part of it.

See docs/faults.md, Attacks.
"""

import hmac
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from proxy import registry, tokens
from proxy.conf import Options
from proxy.exceptions import Forbidden, Misdirected, Unauthorized
from proxy.forwarding import is_in, plain_address, tells_origin
from proxy.protocol import header_values
from proxy.tokens import Grant

ADDRESSEE = b"x-kuiperbelt-node"
"""The header that says which process is meant: its id in the registry."""


def check_access(scope: Mapping[str, Any], options: Options) -> None:
    """May this request use the whole API? Raises as `admit`, and Forbidden for a token, whatever it allows."""
    if admit(scope, options):
        raise Forbidden("not allowed: expected one of EKBO_API_KEYS, found a token")


def admit(scope: Mapping[str, Any], options: Options) -> Grant | None:
    """What a request may do: None means everything. Raises Unauthorized, Forbidden, Unavailable."""
    headers = scope["headers"]
    forwarded = any(tells_origin(name) for name, _ in headers)
    return admit_peer(scope, forwarded, header_values(headers, b"authorization"), options)


def check_addressee(scope: Mapping[str, Any]) -> None:
    """Is this the process that the request is for, if it says so? Commands do: at the address that they know of it
    another one may be by now, or that of another machine which has the same name. Raises Misdirected."""
    for named in header_values(scope["headers"], ADDRESSEE):
        process = registry.running()
        if not process or str(process.node) != named.decode("latin-1"):
            raise Misdirected("expected another process at this address (X-Kuiperbelt-Node), found this one")


def admit_peer(
    scope: Mapping[str, Any], forwarded: bool, authorizations: Sequence[bytes], options: Options
) -> Grant | None:
    """`admit` for a request whose headers are read already; of the scope `client` and `server` count.

    Raises Unauthorized (401) where keys are configured and none was given, Forbidden (403) where none are. A request
    that came through a proxy, or from a web page (`forwarded`), is only let in with a key or a token: its peer's
    address says nothing about its sender. A token counts wherever it comes from, so that trying one out on this host
    shows what it allows.
    """
    if authorizations and (given := _bearer(authorizations)):
        if _is_key(given, options.api_keys):
            return None
        if tokens.looks_like_one(given):
            return _granted(given, scope, options)
    client = scope.get("client")
    address = client[0] if client else ""
    if options.api_allow and not forwarded and is_in(address, options.api_allow):
        return None
    if options.api_keys:
        raise Unauthorized("not allowed: expected Authorization: Bearer with one of EKBO_API_KEYS")
    if forwarded:
        raise Forbidden("not allowed: forwarded, or from a web page, and no EKBO_API_KEYS are configured")
    if not (_is_loopback(address) if address else _is_unix(scope)):
        raise Forbidden("not allowed: not from this host; configure EKBO_API_KEYS or EKBO_API_ALLOW")
    return None


def _bearer(authorizations: Sequence[bytes]) -> bytes:
    if len(authorizations) != 1:
        return b""
    scheme, _, given = authorizations[0].partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else b""


def _is_key(given: bytes, keys: Sequence[str]) -> bool:
    # Every key is compared, so that the time taken doesn't tell which one was close.
    matches = [hmac.compare_digest(given, key.encode()) for key in keys]
    return any(matches)


def _granted(token: bytes, scope: Mapping[str, Any], options: Options) -> Grant:
    if not options.registry:
        raise Forbidden("not allowed: tokens need the registry (EKBO_REGISTRY), which knows which ones are revoked")
    if not tokens.knows_revoked():
        registry.current(scope)  # daphne's begins with the first that needs it
    return tokens.granted(token)


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
