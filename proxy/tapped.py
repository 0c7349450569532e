"""Puts a tap on a connection when a watcher asks for it, and takes it off when the last one has gone.

Called by the consumer: for a watch event, and for a handshake that is to be watched from its first moment. Nothing is
changed in a connection that isn't watched: what it sends goes through a TappedOutbound only while there is a tap.
"""

import asyncio
import socket
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from proxy import logs, reports, taps, tickets
from proxy.callbacks import Session
from proxy.conf import Options
from proxy.events import Event
from proxy.outbound import Outbound
from proxy.protocol import Message, plain
from proxy.taps import LEASE, MAX_TAPS, Tap


class Tapped(Protocol):
    """What has a tap: a consumer."""

    connection: str
    scope: dict[str, Any]
    options: Options
    tap: Tap | None
    session: Session
    outbound: Outbound


def attach(consumer: Tapped, channel: str, contents: bool, lease: float = LEASE) -> None:
    """Tell the channel of a watcher what goes on from now on, or for longer; no lease: not any more.

    May be called before there is a session: then `begin` follows when there is one.
    """
    if consumer.tap is None:
        if lease <= 0:
            return
        if len(taps.live) >= MAX_TAPS:
            taps.refuse(channel, consumer.connection, f"{MAX_TAPS} others are watched in its process")
            return
        consumer.tap = Tap(consumer.connection, partial(_take_off, consumer))
    consumer.tap.renew(channel, contents, lease)


def by_ticket(consumer: Tapped) -> None:
    """A handshake that brings a ticket of the admin's console: the page is told all that comes of it.

    Contents too, whatever the option says: it is the page's own connection. Others pay for a look at their headers.
    """
    if not tickets.is_brought(consumer.scope["headers"]):
        return
    consumer.scope["headers"], ticket = tickets.take(consumer.scope["headers"])
    if ticket:
        attach(consumer, ticket.channel, True, tickets.LIFE)


def watch(consumer: Tapped, event: Event) -> None:
    """A watch event came for the session. Contents are told only if they may be (EKBO_WATCH_CONTENTS)."""
    contents = event["contents"] and consumer.options.watch_contents
    attach(consumer, event["channel"], contents, event["lease"])
    begin(consumer)


def begin(consumer: Tapped) -> None:
    """The connection has a key by now: what it is, its watchers are told once, and what it sends from here on."""
    if not consumer.tap or consumer.tap.facts:
        return
    consumer.outbound = TappedOutbound(consumer.outbound, consumer.tap)
    milliseconds = UUID(consumer.connection).int >> 80  # RFC 9562 section 5.7
    since = datetime.fromtimestamp(milliseconds / 1000, UTC)
    consumer.tap.begin(
        {
            "key": consumer.session.key,
            "node": socket.gethostname(),
            "since": since.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "remote": logs.address_of(consumer.scope),
            "path": plain(consumer.scope["path"], 255),
        }
    )


def _take_off(consumer: Tapped) -> None:
    consumer.tap = None
    outbound = getattr(consumer, "outbound", None)  # there is none before there is a session
    if isinstance(outbound, TappedOutbound):
        consumer.outbound = outbound.inner


class TappedOutbound(Outbound):
    """In the place of a connection's Outbound, which it hands everything to."""

    __slots__ = ("_tap", "inner")

    def __init__(self, inner: Outbound, tap: Tap) -> None:
        self.inner = inner
        self._tap = tap

    def open(self) -> None:
        self.inner.open()

    def push(self, message: Message, size: int, timeout: float = 0.0) -> asyncio.Future[None] | None:
        waiting = self.inner.push(message, size, timeout)
        if waiting is None:
            self._tell(message, size)
        else:
            waiting.add_done_callback(partial(self._on_room, message, size))
        return waiting

    def finish(self, last: Message | None, close: Message) -> None:
        self.inner.finish(last, close)
        if last:
            payload = _payload(last)
            self._tell(last, len(payload.encode() if isinstance(payload, str) else payload))

    def drop(self, close: Message | None) -> None:
        self.inner.drop(close)

    def _on_room(self, message: Message, size: int, room: "asyncio.Future[None]") -> None:
        if not room.cancelled() and not room.exception():
            self._tell(message, size)

    def _tell(self, message: Message, size: int) -> None:
        self._tap.frame(reports.SENT, _payload(message), size)


def _payload(message: Message) -> str | bytes:
    found: str | bytes | None = message.get("text")
    return message["bytes"] if found is None else found
