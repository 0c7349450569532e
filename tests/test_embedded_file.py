"""Who may read the embedded database."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from proxy.embedded_file import OwnersConnection
from tests.clients import request
from tests.servers import Servers


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


async def test_all_that_a_server_keeps_is_its_owner_s(servers: Servers, tmp_path: Path) -> None:
    server = await servers.start("uvicorn", {"EKBO_DATABASE_URL": f"sqlite:///{tmp_path}/kept.sqlite3"})
    assert (await request(server, "GET", "/ready")).json() == {"result": "OK"}
    assert modes(tmp_path) == dict.fromkeys(("kept.key", "kept.sqlite3", "kept.sqlite3-shm", "kept.sqlite3-wal"), 0o600)
    await server.stop()


def test_a_database_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite3"
    for mode in (0o640, 0o600):
        path.touch()
        path.chmod(mode)
        connection = sqlite3.connect(str(path), factory=OwnersConnection)
        connection.execute(f"CREATE TABLE IF NOT EXISTS t{mode} (a)")
        connection.close()
        assert modes(tmp_path) == {"shared.sqlite3": mode}


def test_where_no_file_can_be_made_sqlite_says_so(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open database file"):
        sqlite3.connect(os.path.join(tmp_path, "missing", "x.sqlite3"), factory=OwnersConnection)
