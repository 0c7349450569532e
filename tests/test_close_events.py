"""How long, and how often, the backend is told. More of real backends that fail: test_registry."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

import pytest
from django.test import override_settings
from django.utils import timezone

from proxy import callbacks, close_events, journal, store
from proxy.changes import Change, Facts
from proxy.clock import new_connection
from proxy.close_events import BUSY_DELAY, JITTER, MAX_DELAY, after, delay_after, is_over
from proxy.conf import Options
from proxy.exceptions import BackendBusy, NoBackendAnswer
from proxy.registry import Entry, Registry
from tests import databases
from tests.backend import Answer, Backend


def test_delays_grow_to_a_limit() -> None:
    assert [delay_after(attempts) for attempts in range(1, 9)] == [1, 2, 4, 8, 16, 32, MAX_DELAY, MAX_DELAY]
    assert delay_after(10_000) == MAX_DELAY


def test_it_is_tried_for_as_long_as_the_option_says() -> None:
    for limit in (0.0, 1.0, 300.0, 3600.0):
        attempts = next(count for count in range(1, 1000) if is_over(count, limit))
        tried_for = sum(delay_after(attempt) for attempt in range(1, attempts))
        assert limit <= tried_for < limit + MAX_DELAY + 1


def test_what_was_not_asked_is_no_attempt() -> None:
    for before in (0, 1, 5):
        attempts, pause = after(before, NoBackendAnswer("x"))
        assert attempts == before + 1
        assert delay_after(attempts) <= pause <= delay_after(attempts) * (1 + JITTER)
        attempts, pause = after(before, BackendBusy("x", 1))
        assert attempts == before
        assert BUSY_DELAY <= pause <= 2 * BUSY_DELAY


@contextlib.asynccontextmanager
async def begun(path: Path, options: Options) -> AsyncIterator[Registry]:
    """A registry with an SQLite of its own."""
    await callbacks.shut_down()
    stack = contextlib.ExitStack()
    await asyncio.to_thread(stack.enter_context, databases.using(f"sqlite:///{path}"))
    with override_settings(KUIPERBELT=options):
        registry = Registry(options, "")
        await registry.begin()
        yield registry
        await registry.stop()
        await callbacks.shut_down()
    await asyncio.to_thread(stack.close)


async def connected(registry: Registry, key: str) -> Entry:
    facts = Facts(key, "", "", "", "", "", "", timezone.now())
    entry = Entry(registry, callbacks.Session(key, new_connection(), ""), facts, lambda: None)
    await entry.opened()
    return entry


async def until_rows(path: Path, question: str, expected: list[object]) -> None:
    async with asyncio.timeout(10):
        while databases.rows(path, question) != expected:  # noqa: ASYNC110  # nobody says when
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("heard", [True, False])
async def test_what_the_backlog_had_no_room_for(
    tmp_path: Path, backend: Backend, fresh: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """It is made up for: who lives is in the database again, and who has ended isn't, or is told if nobody was."""
    monkeypatch.setattr(journal, "MAX_BACKLOG", 3)
    monkeypatch.setattr(close_events, "MAX_WAITING", 0)
    path = tmp_path / "test.sqlite3"
    old, new = [fresh("old") for _ in range(3)], [fresh("new") for _ in range(6)]
    options = Options(close_callback=f"http://127.0.0.1:{backend.port}/full/close", node_timeout=1.0)
    async with begun(path, options) as registry:
        ending = [await connected(registry, key) for key in old]
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("ALTER TABLE proxy_session RENAME TO away")
            living = [await connected(registry, key) for key in new]
            if not heard:
                backend.on("/full/close", old[0], Answer(status=500))
            for entry in ending:
                await entry.closed(1000, "client", tell=True)
            backend.on("/full/close", old[0], Answer())
            other.execute("ALTER TABLE away RENAME TO proxy_session")
        await until_rows(path, "SELECT key FROM proxy_session ORDER BY key", [(key,) for key in sorted(new)])
        told = [event.one("x-kuiperbelt-close-reason") for event in backend.seen("/full/close", old[0])]
        assert told == (["client"] if heard else ["client", "node_lost"])
        for entry in living:
            await entry.closed(1000, "client", tell=True)
    for key in new if not heard else [*old, *new]:
        assert len(backend.seen("/full/close", key)) == 1


async def test_an_end_that_is_written_while_a_heartbeat_learns_of_our_death(
    tmp_path: Path, backend: Backend, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session was the sweeper's by then: it isn't told here too."""
    path = tmp_path / "test.sqlite3"
    beat, begins, gate = store.beat, Event(), Event()

    def slow_beat(*arguments: Any) -> Any:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("UPDATE proxy_node SET ended_at = '2026-01-01'")
            other.execute("UPDATE proxy_session SET ended_at = '2026-01-01', code = 1006, reason = 'node_lost'")
        begins.set()
        gate.wait(5)
        monkeypatch.undo()
        return beat(*arguments)

    options = Options(close_callback=f"http://127.0.0.1:{backend.port}/dead/close", node_timeout=1.0)
    async with begun(path, options) as registry:
        entry = await connected(registry, key)
        monkeypatch.setattr(store, "beat", slow_beat)
        assert await asyncio.to_thread(begins.wait, 5)
        end = asyncio.create_task(entry.closed(1000, "client", tell=True))
        # Not long: a database that is silent for half a second keeps no end from being told.
        while not registry.journal._batch:  # noqa: ASYNC110  # nobody says when
            await asyncio.sleep(0)
        gate.set()
        await end
        await until_rows(path, "SELECT * FROM proxy_session", [])
    events = backend.seen("/dead/close", key)
    assert [event.one("x-kuiperbelt-close-reason") for event in events] == ["node_lost"]


async def test_events_are_not_written_again_while_the_backend_is_not_asked(
    tmp_path: Path, backend: Backend, fresh: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its breaker is open: they stay due, and are told as soon as it answers."""
    monkeypatch.setattr(close_events, "BUSY_DELAY", 0.1)
    attempts: Counter[tuple[str, int]] = Counter()
    write = store.write

    def counted(node: UUID, changes: Sequence[Change]) -> None:
        attempts.update((change.connection, change.attempt.count) for change in changes if change.attempt)
        write(node, changes)

    monkeypatch.setattr(store, "write", counted)
    path = tmp_path / "test.sqlite3"
    keys = [fresh("open") for _ in range(20)]
    for key in keys:
        backend.on("/open/close", key, Answer(delay=5.0))
    url = f"http://127.0.0.1:{backend.port}/open/close"
    async with begun(path, Options(close_callback=url, callback_timeout=0.1, breaker_failures=1)) as registry:
        entries = [await connected(registry, key) for key in keys]
        await entries[0].closed(1000, "client", tell=True)
        await asyncio.gather(*(entry.closed(1000, "client", tell=True) for entry in entries[1:]))
        await asyncio.sleep(1.5)  # several of their delays, and a probe
        assert set(attempts.values()) == {1}
        assert len({connection for connection, _ in attempts}) == len(keys)
        for key in keys:
            backend.on("/open/close", key, Answer())
        await until_rows(path, "SELECT * FROM proxy_session", [])


async def test_events_that_a_busy_backend_does_not_get_are_never_given_up(
    tmp_path: Path, backend: Backend, fresh: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time, and nobody may wait: the others aren't made, again and again, and all are heard in the end."""
    monkeypatch.setattr(close_events, "BUSY_DELAY", 0.05)
    path = tmp_path / "test.sqlite3"
    keys = [fresh("busy") for _ in range(6)]
    for key in keys:
        backend.on("/busy/close", key, Answer(delay=0.2))
    options = Options(
        close_callback=f"http://127.0.0.1:{backend.port}/busy/close",
        close_limit=1,
        callback_queue_size=0,
        close_retry_for=0.0,  # the first attempt is the last
    )
    async with begun(path, options) as registry:
        entries = [await connected(registry, key) for key in keys]
        await asyncio.gather(*(entry.closed(1000, "client", tell=True) for entry in entries))
        waiting = databases.rows(path, "SELECT attempts, gave_up FROM proxy_session WHERE last_error <> ''")
        assert waiting
        assert set(waiting) == {(0, 0)}
        await until_rows(path, "SELECT * FROM proxy_session", [])
        for key in keys:
            await backend.wait("/busy/close", key)


async def test_a_callback_that_hangs_holds_up_no_others(
    tmp_path: Path, backend: Backend, fresh: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many events that a process left, each page has one of which the backend doesn't answer in time."""
    monkeypatch.setattr(close_events, "PAGE", 20)
    path, keys = tmp_path / "test.sqlite3", [fresh("left") for _ in range(100)]
    slow = keys[::20]
    options = Options(
        close_callback=f"http://127.0.0.1:{backend.port}/held/close", node_timeout=1.0, callback_timeout=2.0
    )
    for key in slow:
        backend.on("/held/close", key, Answer(delay=10))
    async with begun(path, options) as registry:
        await asyncio.gather(*(connected(registry, key) for key in keys))
    loop = asyncio.get_running_loop()

    def seen() -> Counter[str]:
        return Counter(request.key for request in backend.requests if request.path == "/held/close")

    async with begun(path, options):
        await backend.until(lambda: bool(seen()), "the first")
        began = loop.time()
        await backend.until(lambda: set(keys) == set(seen()), "all")
        assert loop.time() - began < 1.5
        assert {seen()[key] for key in keys if key not in slow} == {1}
