"""Which sessions, or close events, a command means: its arguments, and the rows that they select."""

import uuid
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import Q, QuerySet
from django.utils.timezone import now

from proxy import protocol, values
from proxy.forwarding import plain_address
from proxy.models import Node, Session

BATCH = 1000  # keys, as many as a request may name

Rows = QuerySet[Session, Session]


def add_keys(parser: CommandParser, what: str) -> None:
    parser.add_argument("keys", nargs="*", metavar="KEY", help=f"session keys of the {what}")


def add_filters(parser: CommandParser, since: str) -> None:
    """The filters; `since` says when a row's age begins."""
    parser.add_argument("--node", type=_text, metavar="NAME", help="only of this node: its host's name, or its id")
    parser.add_argument("--transport", type=_text, help="only of this transport, like websocket")
    parser.add_argument("--address", type=_address, metavar="IP", help="only of clients at this address")
    parser.add_argument("--older-than", type=duration, metavar="TIME", help=f"only if {since} that long ago, as 1h30m")


def add_asking(parser: CommandParser) -> None:
    """What commands have that change many sessions at once."""
    parser.add_argument("--dry-run", action="store_true", help="only say which ones it would be")
    parser.add_argument("--no-input", action="store_true", help="don't ask")


def has_filter(options: dict[str, Any]) -> bool:
    return any(options[name] is not None for name in ("node", "transport", "address", "older_than"))


def wanted(options: dict[str, Any], since: str) -> Q:
    """What keys and filters select; `since` is the field that a row's age begins with."""
    chosen = Q()
    if options["keys"]:
        chosen &= Q(key__in=check_keys(options["keys"]))
    if options["node"] is not None:
        chosen &= Q(node_id__in=_node_ids(options["node"]))
    for name in ("transport", "address"):
        if options[name] is not None:
            chosen &= Q(**{name: options[name]})
    if options["older_than"] is not None:
        chosen &= Q(**{f"{since}__lte": now() - timedelta(seconds=options["older_than"])})
    return chosen


def live(options: dict[str, Any]) -> Rows:
    """The live sessions that keys and filters select."""
    return Session.objects.filter(wanted(options, "connected_at"), ended_at=None)


def check_keys(keys: Iterable[str]) -> list[str]:
    """The keys, each once; raises CommandError for one that can't be a session's."""
    checked = list(dict.fromkeys(keys))
    for key in checked:
        if not protocol.is_session_key(key):
            raise CommandError(f"KEY: expected 1-256 visible ASCII characters without comma, found {key!r}")
    return checked


def batches(keys: Iterable[str]) -> Iterator[list[str]]:
    """The keys in order, as many at a time as a request may name."""
    left = iter(keys)
    while some := list(islice(left, BATCH)):
        yield some


def in_parts(rows: Rows) -> Iterator[list[Session]]:
    """All rows, a part at a time, in the order of their connections.

    Each part is a query of its own: what is done with one part may remove its rows, and no transaction stays open.
    """
    ordered = rows.order_by("connection")
    part = list(ordered[:BATCH])
    while part:
        yield part
        part = list(ordered.filter(connection__gt=part[-1].connection)[:BATCH])


def _node_ids(name: str) -> list[uuid.UUID]:
    named = Q(name=name)
    with suppress(ValueError):
        named |= Q(id=uuid.UUID(name))
    ids = list(Node.objects.filter(named).values_list("id", flat=True))
    if not ids:
        raise CommandError(f"--node: expected the name or id of a node (listnodes --all), found {name!r}")
    return ids


def _text(text: str) -> str:
    if not text.isprintable():  # nor is what isn't UTF-8
        raise ArgumentTypeError(f"expected printable text, found {text!r}")
    return text


def _address(text: str) -> str:
    return plain_address(_text(text))


def duration(text: str) -> float:
    """An argument that is a time in Go's notation, in seconds."""
    try:
        return values.duration(text)
    except ValueError as error:
        raise ArgumentTypeError(f"expected {error}, found {text!r}") from None
