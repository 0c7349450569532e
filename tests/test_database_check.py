"""A real PostgreSQL of few connections and without tables; SQLite is looked at in test_doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.operators import manage
from tests.postgres import PostgresServer
from tests.servers import free_port


async def stored(url: str) -> dict[str, dict[str, Any]]:
    """What `doctor` says of this database."""
    done = await manage("doctor", "--json", env={"EKBO_DATABASE_URL": url, "EKBO_PORT": str(free_port())})
    assert done.status == 1  # without callbacks
    return {each["name"]: each for each in map(json.loads, done.lines) if each["area"] == "database"}


async def test_postgresql() -> None:
    async with PostgresServer.running() as server:
        found = await stored(server.url)
        assert found["database"]["found"] == "PostgreSQL, 127.0.0.1"
        assert (found["tables"]["state"], found["tables"]["advice"]) == ("failed", "Run `manage.py migrate`, once.")
        assert (found["max_connections"]["state"], found["clock"]["state"]) == ("ok", "ok")
        await server.stop()
        gone = await stored(server.url)
    assert gone["database"]["state"] == "failed"
    assert "Connections and pushes go on without it" in gone["database"]["advice"]


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite3").write_text("this is text, and long enough to be looked at as a database" * 20)
    found = await stored(f"sqlite:///{tmp_path}/text.sqlite3")
    assert found["database"]["found"] == "file is not a database"
