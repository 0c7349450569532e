"""Tickets of the admin's console: by one, the process that takes a connection knows which page wants to follow it.

`console_page` gives one out, as a cookie for the connect path; `consumers` takes it from the handshake that brings it.
"""

import logging
from dataclasses import dataclass

from django.core import signing

from proxy.protocol import Headers, header_values

COOKIE = "kuiperbelt_console"
LIFE = 60  # seconds; the page connects as soon as it has the ticket

_SALT = "kuiperbelt.console.ticket"
_NAME = COOKIE.encode()

logger = logging.getLogger("proxy.admin")


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a page may follow a connection with."""

    channel: str
    """Where the page's stream gets reports, a name of the channel layer."""
    host: str
    """The page's own host and port: a connection that another page opens isn't meant."""


def sign(ticket: Ticket) -> str:
    """The cookie's value."""
    return signing.dumps([ticket.channel, ticket.host], salt=_SALT)


def is_brought(headers: Headers) -> bool:
    """Has a handshake a ticket with it, good or not?"""
    return any(_NAME in value for name, value in headers if name == b"cookie")


def take(headers: Headers) -> tuple[list[tuple[bytes, bytes]], Ticket | None]:
    """A handshake's headers without the cookie, which isn't for the backend, and the ticket, if it is good."""
    left: list[tuple[bytes, bytes]] = []
    found = []
    for name, value in headers:
        if name == b"cookie":
            cookies = [cookie.strip(b" ") for cookie in value.split(b";")]
            found += [cookie for cookie in cookies if _is_ours(cookie)]
            value = b"; ".join(cookie for cookie in cookies if not _is_ours(cookie))
            if not value:
                continue
        left.append((name, value))
    return left, _checked(found[0].partition(b"=")[2].decode("latin-1"), headers) if found else None


def _is_ours(cookie: bytes) -> bool:
    return cookie.partition(b"=")[0] == _NAME


def _checked(value: str, headers: Headers) -> Ticket | None:
    try:
        channel, host = signing.loads(value, salt=_SALT, max_age=LIFE)
    except signing.SignatureExpired:
        logger.warning("a ticket of the console is too old: expected one of the last %d s; it is ignored", LIFE)
        return None
    except signing.BadSignature:
        logger.warning("a ticket of the console isn't one of ours (EKBO_SECRET_KEY); it is ignored")
        return None
    origins = header_values(headers, b"origin")
    if len(origins) != 1 or origins[0].partition(b"://")[2] != host.encode():
        return None
    return Ticket(channel, host)
