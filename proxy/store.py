"""The database side of the registry: plain, blocking functions, called on the database thread, and by commands.

The only writer of nodes and sessions. Every process writes as a node; as soon as another one has declared it dead,
each of its writes raises DeclaredDead, because its sessions are the other's business from then on. In a database that
was replaced by an older copy it is NodeForgotten, and all that the process knows is to be written again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from proxy.changes import Change
from proxy.exceptions import DeclaredDead, NodeForgotten, SessionsForgotten
from proxy.models import Node, Sample, Session

AT_ONCE = 500  # rows of which a statement names each
KEEP_SAMPLES = timedelta(hours=3)
KEEP_NODES = timedelta(days=1)  # after their end

NODE_LOST = (1006, "node_lost")
SHUTDOWN = (1012, "shutdown")

# Written past the ORM, which takes four times as long, and past Django's cursors and `atomic`, which take as long again
# as SQLite does. A batch is often a single row.
_BEGIN = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}
_INSERT = """
    INSERT INTO proxy_session (connection, "key", node_id, transport, address, user_agent, path, query, subprotocol,
        endpoint, connected_at, reason, attempts, last_error, gave_up)
    VALUES (%s, %s, %s, 'websocket', %s, %s, %s, %s, %s, %s, %s, '', 0, '', false)
    ON CONFLICT (connection) DO UPDATE SET node_id = excluded.node_id WHERE proxy_session.ended_at IS NULL
"""
_END = """
    UPDATE proxy_session SET ended_at = %s, code = %s, reason = %s, teller = %s, next_attempt_at = %s
    WHERE connection = %s AND ended_at IS NULL
"""
_ATTEMPT = """
    UPDATE proxy_session SET attempts = %s, next_attempt_at = %s, last_error = %s, gave_up = %s
    WHERE connection = %s AND ended_at IS NOT NULL
"""
_NODE = "SELECT ended_at FROM proxy_node WHERE id = %s"
_DELETE = "DELETE FROM proxy_session WHERE connection = %s"


@dataclass(frozen=True, slots=True)
class Event:
    """A close event that is to be told."""

    connection: str
    key: str
    endpoint: str
    code: int
    reason: str
    attempts: int
    due: datetime


@dataclass(frozen=True, slots=True)
class Counters:
    """A process's counters at a heartbeat."""

    connections: int
    total_connections: int
    total_messages: int
    connect_errors: int
    message_errors: int


def register(node: Node) -> None:
    """Begin: this process writes as `node`."""
    node.started_at = node.heartbeat_at = timezone.now()
    node.save(force_insert=True)


def write(node: UUID, changes: Sequence[Change]) -> None:
    """All of it or nothing. Can be repeated if nobody knows whether it was done. Raises NodeGone, SessionsForgotten.

    Where a change of a session has its facts, the session's row is made if the database doesn't have it.
    """
    inserts, ends, attempts, deletes = [], [], [], []
    may_lack = False
    stamp = connection.ops.adapt_datetimefield_value
    for change in changes:
        row = change.connection.replace("-", "")  # both databases take UUIDs like this
        if change.done:
            deletes.append((row,))
            continue
        if facts := change.facts:
            texts = facts.address, facts.user_agent, facts.path, facts.query, facts.subprotocol, facts.endpoint
            inserts.append((row, facts.key, node.hex, *texts, stamp(facts.connected_at)))
        may_lack = may_lack or not change.facts
        if ended := change.ended:
            ends.append((stamp(ended.at), ended.code, ended.reason, node.hex, stamp(ended.due), row))
        if attempt := change.attempt:
            attempts.append((attempt.count, stamp(attempt.due), attempt.error, attempt.gave_up, row))
    with _driver_transaction() as cursor:
        _check_alive(node, cursor, _native)
        for statement, rows in ((_INSERT, inserts), (_END, ends), (_ATTEMPT, attempts), (_DELETE, deletes)):
            if not rows:
                continue
            cursor.executemany(_native(statement), rows)
            if may_lack and statement in (_END, _ATTEMPT) and cursor.rowcount < len(rows):
                raise SessionsForgotten(f"expected rows of {len(rows)} sessions, found {cursor.rowcount}")


@contextmanager
def _driver_transaction() -> Iterator[Any]:
    """A transaction, and the database driver's own cursor, which takes `_native` statements only."""
    connection.ensure_connection()
    with connection.wrap_database_errors, closing(connection.connection.cursor()) as cursor:
        cursor.execute(_BEGIN[connection.vendor])
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            with suppress(Exception):  # it may be the connection that is broken
                cursor.execute("ROLLBACK")
            raise


def _native(statement: str) -> str:
    return statement.replace("%s", "?") if connection.vendor == "sqlite" else statement


@contextmanager
def _transaction(node: UUID) -> Iterator[None]:
    """One for the ORM. Raises NodeGone."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            _check_alive(node, cursor)
        yield


def _check_alive(node: UUID, cursor: Any, spelling: Callable[[str], str] = str) -> None:
    # The lock keeps a sweep out until we have committed, so that it finds what we write. SQLite has one for all.
    lock = " FOR UPDATE" if connection.features.has_select_for_update else ""
    cursor.execute(spelling(_NODE + lock), [node.hex])
    found = cursor.fetchone()
    if not found:
        raise NodeForgotten(f"node {node}: expected its row in the database, found none")
    if found[0]:
        raise DeclaredDead(f"node {node}: expected to be alive, found that another process declared it dead")


def beat(node: UUID, counters: Counters, sample: bool, due: datetime, beats: int = 0) -> tuple[dict[UUID, int], int]:
    """A heartbeat, after so many. The others', and how many close events that nobody had to tell are this node's now.

    Raises NodeGone.
    """
    now = timezone.now()
    counts = asdict(counters)
    with _transaction(node):
        beaten = Node.objects.filter(pk=node, heartbeats__gte=beats)
        if not beaten.update(heartbeats=F("heartbeats") + 1, heartbeat_at=now, **counts):
            raise NodeForgotten(f"node {node}: expected at least {beats} heartbeats in the database, found fewer")
        if sample:
            errors = counters.connect_errors + counters.message_errors
            kept = {name: counts[name] for name in ("connections", "total_connections", "total_messages")}
            Sample.objects.create(node_id=node, at=now, errors=errors, **kept)
        adopted = _pending().filter(teller=None).update(teller=node, next_attempt_at=due)
    others = Node.objects.filter(ended_at=None).exclude(pk=node).values_list("pk", "heartbeats")
    return dict(others), adopted


def sweep(node: UUID, dead: UUID, heartbeats: int, due: datetime, tell: bool) -> int | None:
    """Declare a node dead that had so many heartbeats: its sessions and events are this node's to tell.

    How many sessions it had; None if it lives, or somebody else was first. Raises NodeGone. Without `tell` there
    is no close callback, so its rows just go.
    """
    with _transaction(node):
        candidate = Node.objects.filter(pk=dead, ended_at=None, heartbeats=heartbeats)
        if not candidate.update(ended_at=timezone.now(), declared_dead=True, connections=0):
            return None
        _pending().filter(teller=dead).update(teller=node, next_attempt_at=due)
        return _end(_live(dead), NODE_LOST, node, due, tell)


def leave(node: UUID, tell: bool) -> None:
    """End: what this process hasn't told is left to the next one."""
    with _transaction(node):
        Node.objects.filter(pk=node).update(ended_at=timezone.now(), connections=0)
        _pending().filter(teller=node).update(teller=None)
        _end(_live(node), SHUTDOWN, None, None, tell)


def drop_others(node: UUID, known: Set[str], tell: bool, due: datetime) -> None:
    """Delete this node's live sessions but for the known ones, which alone live. Raises NodeGone.

    With `tell` they become events, because nobody knows which of them the backend has heard of.
    """
    with _transaction(node):
        live = _live(node)
        others = [row for row in live.values_list("connection", flat=True).iterator() if str(row) not in known]
        for start in range(0, len(others), AT_ONCE):
            _end(live.filter(connection__in=others[start : start + AT_ONCE]), NODE_LOST, node, due, tell)


def _live(node: UUID) -> "QuerySet[Session]":
    return Session.objects.filter(node=node, ended_at=None)


def _end(live: "QuerySet[Session]", end: tuple[int, str], teller: UUID | None, due: datetime | None, tell: bool) -> int:
    if not tell:
        return live.delete()[0]
    code, reason = end
    return live.update(ended_at=timezone.now(), code=code, reason=reason, teller=teller, next_attempt_at=due)


def pending(node: UUID, limit: int) -> list[Event]:
    """This node's close events, the ones that are due first."""
    rows = _pending().filter(teller=node).order_by("next_attempt_at")[:limit]
    fields = ("connection", "key", "endpoint", "code", "reason", "attempts", "next_attempt_at")
    values: Iterable[tuple[Any, ...]] = rows.values_list(*fields)
    return [Event(str(identity), *rest) for identity, *rest in values]


def _pending() -> "QuerySet[Session]":
    return Session.objects.filter(ended_at__isnull=False, gave_up=False)


def replay(which: Q) -> int:
    """Have close events that were given up told again, as if it were the first time.

    How many there were. Whichever process looks first tells them.
    """
    failed = Session.objects.filter(which, ended_at__isnull=False, gave_up=True)
    return failed.update(gave_up=False, attempts=0, teller=None, next_attempt_at=None)


def prune() -> None:
    """Delete old samples, and nodes that ended long ago and have nothing left to be told."""
    now = timezone.now()
    Sample.objects.filter(at__lt=now - KEEP_SAMPLES).delete()
    mentioned = Session.objects.filter(node=OuterRef("pk"))
    Node.objects.filter(~Exists(mentioned), ended_at__lt=now - KEEP_NODES).delete()
