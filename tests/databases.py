"""Real databases for tests: this process's Django on another one, and what a server has in its own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dj_database_url
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from tests.servers import ROOT


@contextlib.contextmanager
def using(url: str) -> Iterator[None]:
    """Django in this thread, and in threads that begin meanwhile, uses this database, migrated."""
    before = connections.settings["default"]
    changed = dict(before) | dict(dj_database_url.parse(url))
    changed["OPTIONS"] = settings.DATABASES["default"]["OPTIONS"] if "sqlite" in changed["ENGINE"] else {}
    _use(changed)
    try:
        call_command("migrate", verbosity=0)
        yield
    finally:
        _use(before)


def _use(database: Mapping[str, Any]) -> None:
    connections["default"].close()
    connections.settings["default"] = dict(database)
    del connections["default"]


@functools.cache
def migrated_file() -> Path:
    """An embedded database with the proxy's tables, made once, to be copied."""
    directory = Path(tempfile.mkdtemp(prefix="kuiperbelt-tests-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    file = directory / "migrated.sqlite3"
    env = {**os.environ, "EKBO_DATABASE_URL": f"sqlite:///{file}"}
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0", "--skip-checks"], cwd=ROOT, env=env, check=True)
    return file


def rows(path: Path, question: str) -> list[Any]:
    """What an SQLite file answers."""
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as database:
        return database.execute(question).fetchall()
