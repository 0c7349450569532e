"""Live sessions as the registry has them, less those that nobody holds any more; as the API shows them.

Blocking functions, called by `reconcile` in its thread. While the database can be read and not written, or a process
has much to write, the registry still has sessions that have ended long ago.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from django.db.models.functions import Left
from django.utils import timezone

from proxy.models import Node, Session

AT_ONCE = 1000  # keys in one query
SETTLED = timedelta(seconds=10)
"""A session that connected so long ago has its key, if it lives: its row comes first (contract: GET connect 4)."""

Entry = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Absent:
    """Keys that nobody has, as far as this process, which is `node`, can see; `everywhere`: it is to be believed about
    other processes' sessions as well."""

    keys: Set[str]
    node: UUID | None
    everywhere: bool

    def has_ended(self, row: Session) -> bool:
        """Is this session over, though that isn't written yet?"""
        known = self.everywhere or row.node_id == self.node
        return known and row.key in self.keys and timezone.now() - row.connected_at > SETTLED


def by_keys(keys: Iterable[str]) -> list[Session]:
    """The rows of all live connections of these."""
    left = iter(dict.fromkeys(keys))
    found: list[Session] = []
    while some := list(islice(left, AT_ONCE)):
        found += _live().filter(key__in=some)
    return found


def after(connection: UUID, size: int, prefix: str) -> list[Session]:
    """The next rows, of keys with this prefix: ordered by connection, so whoever stays is on exactly one page."""
    rows = _live().filter(connection__gt=connection)
    if prefix:  # not key__startswith, which on SQLite doesn't tell capital letters from small ones
        rows = rows.annotate(start=Left("key", len(prefix))).filter(start=prefix)
    return list(rows.order_by("connection")[:size])


def judgement(keys: Sequence[str], rows: Iterable[Session], absent: Absent) -> tuple[list[Entry], list[str]]:
    """Who of these is alive, and who is gone. One that somebody has is alive without a row as well."""
    alive: dict[str | None, list[Entry]] = {}
    for entry in entries(rows, absent):
        alive.setdefault(entry["session"], []).append(entry)
    found: list[Entry] = []
    gone: list[str] = []
    for key in dict.fromkeys(keys):
        if key in alive:
            found += alive[key]
        elif key in absent.keys:
            gone.append(key)
        else:
            found.append(_unregistered(key))
    return found, gone


def entries(rows: Iterable[Session], absent: Absent) -> list[Entry]:
    """What the API says of these, less those that have ended."""
    left = [row for row in rows if not absent.has_ended(row)]
    names = dict(Node.objects.filter(id__in={row.node_id for row in left}).values_list("id", "name"))
    return [
        {
            "session": row.key,
            "connection": str(row.connection),
            "node": names.get(row.node_id),
            "endpoint": row.endpoint,
            "since": _utc(row.connected_at),
        }
        for row in left
    ]


def _unregistered(key: str) -> Entry:
    """A session that is there, but not in the registry yet."""
    return {"session": key, "connection": None, "node": None, "endpoint": None, "since": None}


def _utc(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _live() -> Any:
    return Session.objects.filter(ended_at=None).only("key", "connection", "node_id", "endpoint", "connected_at")
