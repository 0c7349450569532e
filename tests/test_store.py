"""What is written, and who may write, in SQLite and in PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import IntegrityError
from django.db.models import Q
from django.utils import timezone

from proxy import store
from proxy.changes import Attempt, Change, Ended, Facts
from proxy.clock import new_connection, process_time
from proxy.exceptions import DeclaredDead, NodeForgotten, SessionsForgotten
from proxy.models import Node, Sample, Session
from proxy.store import Counters
from tests import databases
from tests.postgres import PostgresServer

pytestmark = pytest.mark.usefixtures("database")

COUNTERS = Counters(3, 10, 20, 1, 2)


@pytest.fixture(scope="module")
async def postgres() -> AsyncIterator[PostgresServer]:
    async with PostgresServer.running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path, postgres: PostgresServer) -> Iterator[None]:
    with databases.using(postgres.url if request.param == "postgres" else f"sqlite:///{tmp_path}/test.sqlite3"):
        yield
        for model in (Session, Sample, Node):
            model.objects.all().delete()


def node() -> uuid.UUID:
    made = Node(id=uuid.uuid4(), name="here", pid=1, endpoint="here:1", version="0")
    store.register(made)
    return made.id


def opened(key: str = "bob") -> Change:
    facts = Facts(key, "192.0.2.1", "a browser", "/connect", "", "chat", "here:1", timezone.now())
    return Change(new_connection(), facts)


def ended(connection: str, due: float = 0.0) -> Change:
    return Change(connection, ended=Ended(timezone.now(), 4001, "replaced", process_time(due)))


def test_a_session_s_life() -> None:
    me, change = node(), opened()
    store.write(me, [change])
    session = Session.objects.get()
    assert (str(session.connection), session.key, session.node_id) == (change.connection, "bob", me)
    assert (session.transport, session.ended_at, session.reason, session.attempts) == ("websocket", None, "", 0)
    assert change.facts
    assert session.connected_at == change.facts.connected_at
    store.write(me, [ended(change.connection)])
    (event,) = store.pending(me, 10)
    assert (event.connection, event.key, event.endpoint) == (change.connection, "bob", "here:1")
    assert (event.code, event.reason, event.attempts) == (4001, "replaced", 0)
    due = process_time(5)
    store.write(me, [Change(change.connection, attempt=Attempt(1, due, "no answer", False))])
    (event,) = store.pending(me, 10)
    assert (event.attempts, event.due) == (1, due)
    assert Session.objects.get().last_error == "no answer"
    store.write(me, [Change(change.connection, done=True)])
    assert not Session.objects.exists()


def test_a_write_that_is_repeated_changes_nothing() -> None:
    me, change = node(), opened()
    store.write(me, [change, ended(change.connection)])
    store.write(me, [change])
    assert Session.objects.get().ended_at


def test_all_of_a_write_or_nothing() -> None:
    me, good, bad = node(), opened("good"), opened("bad")
    assert bad.facts
    bad = replace(bad, facts=replace(bad.facts, key=None))  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        store.write(me, [good, bad])
    assert not Session.objects.exists()
    store.write(me, [good])
    assert Session.objects.get().key == "good"


def test_beats_are_counted_and_others_seen() -> None:
    me, other = node(), node()
    assert store.beat(me, COUNTERS, True, process_time()) == ({other: 0}, 0)
    assert store.beat(other, COUNTERS, False, process_time()) == ({me: 1}, 0)
    assert Node.objects.get(pk=me).total_messages == 20
    sample = Sample.objects.get()
    assert (sample.node_id, sample.connections, sample.errors) == (me, 3, 3)


def test_a_dead_node_is_swept_once_and_may_not_write_any_more() -> None:
    dead, me, late = node(), node(), node()
    lives, over = opened("lives"), opened("over")
    store.write(dead, [lives, over, ended(over.connection, due=1000)])
    assert store.sweep(me, dead, 1, process_time(), True) is None  # it has had another heartbeat since
    assert store.sweep(me, dead, 0, process_time(), True) == 1
    assert store.sweep(late, dead, 0, process_time(), True) is None
    told = {event.key: (event.code, event.reason) for event in store.pending(me, 10) if event.due <= process_time()}
    assert told == {"lives": (1006, "node_lost"), "over": (4001, "replaced")}
    for write in (
        lambda: store.write(dead, [opened()]),
        lambda: store.beat(dead, COUNTERS, False, process_time()),
        lambda: store.sweep(dead, me, 0, process_time(), True),
        lambda: store.leave(dead, True),
    ):
        with pytest.raises(DeclaredDead):
            write()
    assert Node.objects.get(pk=dead).declared_dead


def test_a_node_that_the_database_has_lost_is_not_declared_dead() -> None:
    me, other = node(), node()
    change = opened()
    store.write(me, [change])
    Node.objects.filter(pk=me).delete()
    for write in (
        lambda: store.write(me, [opened()]),
        lambda: store.beat(me, COUNTERS, False, process_time()),
        lambda: store.sweep(me, other, 0, process_time(), True),
        lambda: store.leave(me, True),
    ):
        with pytest.raises(NodeForgotten):
            write()
    again = node()
    store.write(again, [change])
    assert Session.objects.get().node_id == again  # or no sweep would find it


def test_a_database_that_knows_fewer_heartbeats_is_an_older_copy() -> None:
    me = node()
    for beats in range(2):
        store.beat(me, COUNTERS, False, process_time(), beats)
    store.beat(me, COUNTERS, False, process_time(), 1)  # nobody knew whether the last one was written
    with pytest.raises(NodeForgotten):
        store.beat(me, COUNTERS, False, process_time(), 4)


def test_an_end_is_written_though_the_session_s_row_was_lost() -> None:
    me, lost, there = node(), opened("lost"), opened("there")
    store.write(me, [lost, there])
    Session.objects.filter(key="lost").delete()
    attempt = Attempt(1, process_time(), "no answer", False)
    ends = [ended(lost.connection), ended(there.connection)]
    for changes in (ends, [Change(lost.connection, attempt=attempt)]):
        with pytest.raises(SessionsForgotten):
            store.write(me, changes)
    assert store.pending(me, 10) == []
    whole = [replace(end, facts=change.facts) for end, change in zip(ends, (lost, there), strict=True)]
    for _ in range(2):  # also when nobody knows whether it was done
        store.write(me, whole)
    store.write(me, [Change(lost.connection, attempt=attempt)])
    assert {(event.key, event.reason, event.attempts) for event in store.pending(me, 10)} == {
        ("lost", "replaced", 1),
        ("there", "replaced", 0),
    }


def test_without_a_close_callback_a_dead_node_s_rows_just_go() -> None:
    dead, me = node(), node()
    store.write(dead, [opened()])
    assert store.sweep(me, dead, 0, process_time(), False) == 1
    assert not Session.objects.exists()


@pytest.mark.parametrize("tell", [False, True])
def test_who_forgot_how_sessions_ended_says_which_ones_live(tell: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "AT_ONCE", 2)
    me, other, pending = node(), node(), opened("pending")
    alive, foreign, gone = opened("alive"), opened("foreign"), [opened(f"gone{number}") for number in range(5)]
    store.write(me, [alive, pending, *gone, ended(pending.connection)])
    store.write(other, [foreign])
    store.drop_others(me, {alive.connection}, tell, process_time())
    assert set(Session.objects.filter(ended_at=None).values_list("key", flat=True)) == {"alive", "foreign"}
    told = {(event.key, event.reason) for event in store.pending(me, 10)}
    assert told == {("pending", "replaced"), *((f"gone{number}", "node_lost") for number in range(5) if tell)}


def test_who_leaves_leaves_its_events_to_the_next() -> None:
    me, next_one = node(), node()
    lives, over = opened("lives"), opened("over")
    store.write(me, [lives, over, ended(over.connection, due=1000)])
    store.leave(me, True)
    assert store.beat(next_one, COUNTERS, False, process_time()) == ({}, 2)
    assert {event.reason for event in store.pending(next_one, 10)} == {"shutdown", "replaced"}


def test_replay_takes_up_what_was_given_up() -> None:
    me, change = node(), opened()
    store.write(me, [change, ended(change.connection)])
    assert store.replay(Q()) == 0
    store.write(me, [Change(change.connection, attempt=Attempt(9, process_time(), "no", True))])
    assert store.pending(me, 10) == []
    assert store.replay(Q(key="eve")) == 0
    assert store.replay(Q(key="bob")) == 1
    assert store.beat(me, COUNTERS, False, process_time())[1] == 1
    assert store.pending(me, 10)[0].attempts == 0


def test_old_nodes_and_samples_go_unless_something_is_left_to_tell() -> None:
    gone, kept, me = node(), node(), node()
    store.write(kept, [opened()])
    store.beat(me, COUNTERS, True, process_time())
    Sample.objects.update(at=timezone.now() - store.KEEP_SAMPLES)
    Node.objects.filter(pk__in=[gone, kept]).update(ended_at=timezone.now() - store.KEEP_NODES - timedelta(hours=1))
    store.prune()
    assert set(Node.objects.values_list("pk", flat=True)) == {kept, me}
    assert not Sample.objects.exists()
