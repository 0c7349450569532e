"""How long, and how often, the backend is told. More of real backends that fail: test_registry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from django.test import override_settings
from django.utils import timezone

from proxy import callbacks, close_events
from proxy.changes import Facts
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


async def test_events_that_a_busy_backend_does_not_get_are_never_given_up(
    tmp_path: Path, backend: Backend, fresh: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time, and nobody may wait: the others aren't made, again and again, and all are heard in the end."""
    monkeypatch.setattr(close_events, "BUSY_DELAY", 0.05)
    await callbacks.shut_down()
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
    stack = contextlib.ExitStack()
    await asyncio.to_thread(stack.enter_context, databases.using(f"sqlite:///{path}"))
    with override_settings(KUIPERBELT=options):
        registry = Registry(options, "")
        await registry.begin()
        ended = []
        for key in keys:
            session = callbacks.Session(key, new_connection(), "")
            facts = Facts(key, "", "", "", "", "", "", timezone.now())
            entry = Entry(registry, session, facts, lambda: None)
            await entry.opened()
            ended.append(entry.closed(1000, "client", tell=True))
        await asyncio.gather(*ended)
        waiting = databases.rows(path, "SELECT attempts, gave_up FROM proxy_session WHERE last_error <> ''")
        assert waiting
        assert set(waiting) == {(0, 0)}
        async with asyncio.timeout(10):
            while databases.rows(path, "SELECT * FROM proxy_session"):  # noqa: ASYNC110  # nobody says when
                await asyncio.sleep(0.02)
        for key in keys:
            await backend.wait("/busy/close", key)
        await registry.stop()
        await callbacks.shut_down()
    await asyncio.to_thread(stack.close)
