"""What of a client's request goes on to the backend's connect callback (contract: GET connect 2). Pure rules."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, unquote_plus

from proxy.exceptions import ConnectRefused
from proxy.protocol import Headers, header_values

Network = IPv4Network | IPv6Network
TextHeaders = list[tuple[str, str]]

# RFC 9110 section 7.6.1, and what belongs to this hop's own upgrade or is set anew by the HTTP client.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade host content-length accept-encoding expect proxy".split()  # Proxy: CGI would make HTTP_PROXY of it
)
# What proxies and CDNs add beside X-Forwarded-*, Forwarded, X-Real-IP: RFC 9110 section 7.6.3, RFC 8586, and their own.
_OF_PROXIES = frozenset(
    b"via cdn-loop x-forwarded x-client-ip client-ip x-cluster-client-ip true-client-ip cf-connecting-ip "
    b"fastly-client-ip x-original-forwarded-for x-envoy-external-address".split()
)
MEMORABLE = 64  # characters; a cache keeps nothing longer of what others send, or they could fill it with megabytes
_CONTROL = frozenset([*range(0x09), *range(0x0A, 0x20), 0x7F])


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a request came from, as this hop and the trusted proxies before it saw it."""

    forwarded_for: str
    proto: str
    host: str

    def address(self, trusted: Sequence[Network]) -> str:
        """The client's: the last one that isn't a trusted proxy's; what stands before it is only the client's word."""
        parts = filter(None, map(str.strip, self.forwarded_for.split(",")))
        addresses = [_without_port(part) for part in parts] or [""]
        return next((address for address in reversed(addresses) if not is_in(address, trusted)), addresses[0])

    def headers(self) -> TextHeaders:
        named = (
            ("X-Forwarded-For", self.forwarded_for),
            ("X-Forwarded-Proto", self.proto),
            ("X-Forwarded-Host", self.host),
        )
        return [(name, value) for name, value in named if value]


def client_headers(headers: Headers, session_header: bytes) -> TextHeaders:
    """The client's headers that pass to the backend, in order, repeated where they were repeated.

    Left out: hop-by-hop headers and those that Connection names, the handshake's own, every session or
    X-Kuiperbelt-* header (a client could name an endpoint of its own), forwarding headers (see `peer`), and names
    with an underscore, which CGI-style backends can't tell from a hyphen. Raises ConnectRefused (400) for control
    characters and for bytes that aren't UTF-8.
    """
    dropped = set(_HOP_BY_HOP)
    dropped.add(session_header)
    for value in header_values(headers, b"connection"):
        dropped.update(token.strip().lower() for token in value.split(b","))
    passed: TextHeaders = []
    for name, value in headers:
        if name in dropped or b"_" in name or name.startswith((b"sec-websocket-", b"x-kuiperbelt-")):
            continue
        if is_forwarding(name):
            continue
        if not _CONTROL.isdisjoint(value):
            raise ConnectRefused.plain(400, f"header {name.decode('latin-1')!r} has a control character")
        try:
            passed.append((name.decode("ascii"), value.decode()))
        except UnicodeDecodeError:
            raise ConnectRefused.plain(400, "a header has bytes that are neither ASCII nor UTF-8") from None
    return passed


def is_forwarding(name: bytes) -> bool:
    """Does a header of this lower-case name say where a request came from, before its last hop?"""
    return name.startswith(b"x-forwarded-") or name in (b"forwarded", b"x-real-ip")


def tells_origin(name: bytes) -> bool:
    """Does a header of this lower-case name show that its sender is another one than the peer's address says?

    It came through a proxy, or, with Origin, from a web page in a browser that stands on the peer's host.
    """
    return _tells_origin(name) if len(name) <= MEMORABLE else is_forwarding(name)


@lru_cache(512)
def _tells_origin(name: bytes) -> bool:
    name = name.replace(b"_", b"-")
    return is_forwarding(name) or name in _OF_PROXIES or name == b"origin"


def set_headers(headers: TextHeaders, changes: Iterable[tuple[str, str]]) -> TextHeaders:
    """proxy_set_header: a value sets the header, an empty one removes it."""
    changed = {name.lower(): (name, value) for name, value in changes}
    kept = [(name, value) for name, value in headers if name.lower() not in changed] if changed else headers
    return kept + [(name, value) for name, value in changed.values() if value]


def callback_query(configured: str, query: bytes) -> str:
    """The connect callback's query: what is written in the configured URL, then the client's own parameters.

    A client's parameter that has the name of a configured one, or that some backend would take for it, is left out, as
    are empty ones then. Everything else stays as the client wrote it; only bytes that would break the request line are
    percent-encoded.
    """
    reserved = {name for part in configured.split("&") if part for name in _parameter_names(part)}
    text = quote(query, safe="!$%&'()*+,-./:;=?@_~[]|{}^`\\\"<>")
    if not reserved:
        return text
    parts = [
        # Perl's and older Ruby's and Python's libraries take ; for & as well.
        ";".join(piece for piece in part.split(";") if reserved.isdisjoint(_parameter_names(piece)))
        for part in text.split("&")
    ]
    return "&".join([configured, *filter(None, parts)])


def _parameter_names(part: str) -> set[str]:
    """Whom a parameter may be for, as the most generous backends read it.

    PHP drops spaces before a name and what follows a NUL, and writes _ for some characters; with name[] and name[key]
    it and Rack make a list or a map of the parameter.
    """
    name = unquote_plus(part.partition("=")[0]).partition("\0")[0].lstrip(" ")
    base = next(filter(None, re.split(r"[\[\]]", name)), "")
    return {re.sub("[ .]", "_", base), re.sub(r"[ .\[]", "_", name)}


def peer(headers: Headers, client: str, scheme: str, trusted: Sequence[Network]) -> Peer:
    """The X-Forwarded-* values for the backend.

    Forwarding headers are believed only when `client`, the address of the socket's other end, is in `trusted`
    (EKBO_TRUSTED_PROXIES); then our peer is added to the list. `client` is empty on UNIX sockets.
    """
    host = _text(headers, b"host")
    proto = "https" if scheme in ("https", "wss") else "http"
    if not is_in(client, trusted):
        return Peer(plain_address(client), proto, host)
    before = ", ".join(value.decode("latin-1") for value in header_values(headers, b"x-forwarded-for"))
    return Peer(
        ", ".join(part for part in (before, plain_address(client)) if part),
        _text(headers, b"x-forwarded-proto") or proto,
        _text(headers, b"x-forwarded-host") or host,
    )


def is_in(client: str, networks: Sequence[Network]) -> bool:
    """Is this address in one of the networks? A UNIX socket's peer (empty) is in none."""
    if not networks:
        return False
    try:
        address = ip_address(plain_address(client))
    except ValueError:
        return False
    return any(address in network for network in networks)


def plain_address(client: str) -> str:
    """The address without an IPv6 zone, and IPv4 as IPv4 where a dual-stack socket shows it as ::ffff:1.2.3.4."""
    return _plain_address(client) if len(client) <= MEMORABLE else client


@lru_cache(1024)
def _plain_address(client: str) -> str:
    try:
        address = ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address)


def _without_port(text: str) -> str:
    """Some proxies (Azure's, IIS) write each client's port as well, or IPv6 in brackets: not part of the address."""
    found = re.fullmatch(r"\[([^\]]+)\](?::\d+)?|([^:]+):\d+", text)
    return (found[1] or found[2]) if found else text


def _text(headers: Headers, name: bytes) -> str:
    values = header_values(headers, name)
    return values[0].decode("latin-1") if len(values) == 1 else ""
