"""Group commit, and what waits while the database doesn't work; with a real SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from proxy import store
from proxy.changes import Change, Facts
from proxy.clock import new_connection
from proxy.database import Database
from proxy.exceptions import NodeGone
from proxy.journal import MAX_BACKLOG, TURNS, Journal, Row, Stored
from proxy.models import Node
from tests import databases


@dataclass
class Setting:
    database: Database
    journal: Journal
    path: Path
    node: UUID | None
    rooms: int = 0

    def keys(self) -> list[str]:
        return sorted(key for (key,) in databases.rows(self.path, "SELECT key FROM proxy_session"))


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    path = tmp_path / "test.sqlite3"

    def prepare() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(databases.using(f"sqlite:///{path}"))
        return stack

    node = Node(id=uuid4(), name="here", pid=1, endpoint="", version="0")
    stack = await asyncio.to_thread(prepare)
    database = Database(lambda: journal.release_all())

    async def on_gone(gone: UUID, error: NodeGone) -> None:
        raise AssertionError("nobody is dead here")

    async def on_room(node: UUID) -> None:
        setting.rooms += 1

    journal = Journal(database, lambda: setting.node, on_gone, on_room)
    setting = Setting(database, journal, path, node.id)
    await database.run(lambda: store.register(node))
    yield setting
    await journal.drain()
    await database.stop()
    await asyncio.to_thread(stack.close)


def row(key: str) -> Row:
    return Row(new_connection(), Facts(key, "", "", "", "", "", "", timezone.now()))


async def test_what_comes_together_is_written_together(setting: Setting) -> None:
    rows = [row(f"k{number}") for number in range(20)]
    assert await asyncio.gather(*map(setting.journal.commit, rows)) == [True] * 20
    assert {each.stored for each in rows} == {Stored.YES}
    assert len(setting.keys()) == 20


@pytest.mark.parametrize(("rows", "batches"), [(10, 1), (3 * TURNS, 3)])
async def test_what_comes_turn_by_turn_is_written_together(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, rows: int, batches: int
) -> None:
    """Each turn of the event loop brings another row; but a batch doesn't collect for ever."""
    sizes: list[int] = []
    write = store.write

    def counted(node: UUID, changes: Sequence[Change]) -> None:
        sizes.append(len(changes))
        write(node, changes)

    monkeypatch.setattr(store, "write", counted)

    async def come(turns: int) -> bool:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await setting.journal.commit(row(f"k{turns}"))

    assert await asyncio.gather(*map(come, range(rows))) == [True] * rows
    assert sum(sizes) == len(setting.keys()) == rows
    assert len(sizes) == 1 if batches == 1 else 1 < len(sizes) <= batches


async def test_a_locked_database_is_not_waited_for_and_catches_up(setting: Setting) -> None:
    with contextlib.closing(sqlite3.connect(setting.path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        first, second, gone = row("first"), row("second"), row("gone")
        async with asyncio.timeout(1.5):
            assert await setting.journal.commit(first) is False
            assert await setting.journal.commit(second) is False
            assert await setting.journal.commit(gone) is False
        gone.done = True
        setting.journal.put(gone)  # never written, so there is nothing to write any more
        assert list(setting.journal.rows) == [second]
        assert setting.journal.backlog() == 2
        await asyncio.sleep(0.1)
        assert 0.1 <= setting.journal.lag() < 5
        lock.execute("ROLLBACK")
    await setting.journal.drain()
    assert (setting.journal.backlog(), setting.journal.lag()) == (0, 0.0)
    assert setting.keys() == ["first", "second"]


async def test_nobody_waits_for_a_database_that_works_again(setting: Setting) -> None:
    """Writes that fail at once are tried again after growing delays; a heartbeat that succeeds ends such a delay."""
    with contextlib.closing(sqlite3.connect(setting.path, isolation_level=None)) as other:
        other.execute("ALTER TABLE proxy_session RENAME TO away")
        assert await setting.journal.commit(row("first")) is False
        await asyncio.sleep(1.7)  # failed twice more, and now waits for 2 s
        other.execute("ALTER TABLE away RENAME TO proxy_session")
    assert await setting.journal.commit(row("second")) is False
    await setting.database.run(lambda: None)
    async with asyncio.timeout(1):
        assert await setting.journal.commit(row("third"))
    assert setting.keys() == ["first", "second", "third"]


async def test_nobody_waits_until_the_process_is_registered_again(setting: Setting) -> None:
    node, setting.node = setting.node, None
    async with asyncio.timeout(0.5):
        assert await setting.journal.commit(row("bob")) is False
    setting.node = node
    setting.journal.go()
    await setting.journal.drain()
    assert setting.keys() == ["bob"]


async def test_there_is_an_end_to_what_waits(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    """More than there is room for, while the database is locked: memory stays, and what is kept is written."""
    journal = setting.journal
    with contextlib.closing(sqlite3.connect(setting.path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        assert await journal.commit(row("first")) is False
        assert setting.database.problem == "no answer within 0.5 s"  # what /ready says
        tracemalloc.start()
        try:
            taken = [journal.put(row(f"k{number}")) for number in range(MAX_BACKLOG + 100)]
            full, _ = tracemalloc.get_traced_memory()
            kept = taken.index(False)
            assert MAX_BACKLOG - 1 <= kept <= MAX_BACKLOG
            assert not any(taken[kept:])
            assert not any(journal.put(row("late")) for _ in range(20_000))
            assert tracemalloc.get_traced_memory()[0] - full < 100_000
        finally:
            tracemalloc.stop()
        assert full < MAX_BACKLOG * 2_000
        assert caplog.text.count("there is no room for more") == 1
        lock.execute("ROLLBACK")
    await journal.drain()
    assert setting.rooms == 1
    assert len(setting.keys()) == kept + 1
    assert setting.database.problem == ""
    assert await journal.commit(row("new"))


async def test_a_row_that_cannot_be_written_keeps_no_other_back(setting: Setting) -> None:
    bad, good = row("bad"), row("good")
    assert bad.facts
    bad.facts = Facts(None, "", "", "", "", "", "", timezone.now())  # type: ignore[arg-type]
    await asyncio.gather(*map(setting.journal.commit, (bad, good)))
    await setting.journal.drain()
    assert setting.keys() == ["good"]
