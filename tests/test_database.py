"""The database thread, and what it says of a database that doesn't work."""

import asyncio
import time
from pathlib import Path
from threading import Event, current_thread

import pytest
from django.db import OperationalError, connection

from proxy import database
from proxy.database import Database, migrate_embedded
from proxy.models import Session
from tests import databases


async def test_jobs_are_done_in_order_on_one_thread() -> None:
    each = Database(lambda: None)
    assert each.problem == "not reached yet"
    threads = await asyncio.gather(*(each.run(current_thread) for _ in range(3)))
    assert [thread.name for thread in threads] == ["database"] * 3
    assert each.problem == ""
    await each.stop()
    assert not {thread for thread in threads if thread.is_alive()}  # else the process may crash as it ends


async def test_what_fails_is_said_without_names_of_hosts(caplog: pytest.LogCaptureFixture) -> None:
    told: list[None] = []
    each = Database(lambda: told.append(None))

    def fail(text: str) -> None:
        raise OperationalError(text)

    for text, problem in (
        ("no such table: proxy_node", "not migrated, run `manage.py migrate`"),
        ('relation "proxy_node" does not exist', "not migrated, run `manage.py migrate`"),
        ("database is locked", "locked"),
        ("connection to db.example failed", "fails with OperationalError, see the log"),
    ):
        with pytest.raises(OperationalError):
            await each.run(lambda text=text: fail(text))  # type: ignore[misc]
        assert each.problem == problem
    assert len(told) == 4
    assert caplog.messages[-1] == "fails with OperationalError: connection to db.example failed"
    await each.run(lambda: None)
    assert each.problem == ""
    await each.stop()


async def test_the_end_does_not_wait_for_a_database_that_hangs() -> None:
    each, gate = Database(lambda: None), Event()
    waiting = asyncio.create_task(each.run(gate.wait))
    await asyncio.sleep(0)
    began = time.monotonic()
    await each.stop(0.1)
    assert 0.1 <= time.monotonic() - began < 1
    gate.set()
    assert await waiting


async def test_a_slow_job_is_said_before_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    each = Database(lambda: told.append(each.problem))
    await each.run(lambda: time.sleep(0.3), 0.1)
    assert told == ["no answer within 0.1 s"]
    assert each.problem == ""
    await each.stop()


async def test_a_database_that_can_only_be_read_does_not_work() -> None:
    """As one that is locked: it isn't said to work again with each look for what is due."""
    each = Database(lambda: None)

    def fail() -> None:
        raise OperationalError("database is locked")

    with pytest.raises(OperationalError):
        await each.run(fail)
    assert await each.read(lambda: 7) == 7
    assert each.problem == "locked"
    await each.run(lambda: None)
    with pytest.raises(OperationalError):
        await each.read(fail)
    assert each.problem == "locked"
    await each.stop()


def test_the_embedded_database_gets_its_tables(tmp_path: Path) -> None:
    with databases.using(f"sqlite:///{tmp_path}/test.sqlite3"):
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE proxy_session")
            cursor.execute("DELETE FROM django_migrations WHERE app = 'proxy'")
            cursor.execute("DROP TABLE proxy_sample")
            cursor.execute("DROP TABLE proxy_node")
            cursor.execute("DROP TABLE proxy_token")
        migrate_embedded()
        assert not Session.objects.exists()
    assert database.SLOW < 1
