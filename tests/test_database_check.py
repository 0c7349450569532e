"""A real PostgreSQL of few connections and without tables; SQLite is looked at in test_doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg

from tests.operators import manage
from tests.postgres import PostgresServer
from tests.servers import free_port


async def stored(url: str) -> dict[str, dict[str, Any]]:
    """What `doctor` says of this database."""
    done = await manage("doctor", "--json", env={"EKBO_DATABASE_URL": url, "EKBO_PORT": str(free_port())})
    assert done.status == 1  # without callbacks
    found: dict[str, dict[str, Any]] = {}
    for each in map(json.loads, done.lines):
        if each["area"] == "database":
            found[each["name"]] = each  # the last of this name
    return found


async def test_postgresql() -> None:
    async with PostgresServer.running() as server:
        found = await stored(server.url)
        assert found["database"]["found"] == "PostgreSQL, 127.0.0.1"
        assert (found["tables"]["state"], found["tables"]["advice"]) == ("failed", "Run `manage.py migrate`, once.")
        assert (found["max_connections"]["state"], found["clock"]["state"]) == ("ok", "ok")
        with psycopg.connect(server.url) as other:
            other.execute("CREATE TABLE django_migrations (app text, name text)")  # as if it were the migrations' own
            other.commit()
            other.execute("LOCK TABLE django_migrations IN ACCESS EXCLUSIVE MODE")
            locked = await stored(server.url)
            other.rollback()
            other.execute("DROP TABLE django_migrations")
            other.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
        assert locked["database"]["found"].endswith("statement timeout")
        assert locked["database"]["advice"].startswith("Something holds a lock")
        assert (await stored(server.url))["server"]["found"] == "read-only transactions"
        await server.stop()
        gone = await stored(server.url)
    assert gone["database"]["state"] == "failed"
    assert "Connections and pushes go on without it" in gone["database"]["advice"]


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite3").write_text("this is text, and long enough to be looked at as a database" * 20)
    found = await stored(f"sqlite:///{tmp_path}/text.sqlite3")
    assert found["database"]["found"] == "file is not a database"
