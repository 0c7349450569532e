"""A real PostgreSQL for tests, of Debian's packages: a cluster of its own on a free port of the loopback address."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.redis_servers import eventually
from tests.servers import free_port

START_LIMIT = 30.0  # seconds
USER = "postgres" if os.getuid() == 0 else None
"""Whom it runs as."""


def programs() -> Path:
    """Where its programs are, the newest version's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    assert found, "expected PostgreSQL in /usr/lib/postgresql, found none; run `sh tests/system-tools.sh`"
    return found[-1]


@dataclass
class PostgresServer:
    """One server. Its port stays the same over restarts, and so does what it keeps."""

    port: int = field(default_factory=free_port)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="kuiperbelt-postgres-")))
    process: asyncio.subprocess.Process | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncIterator[PostgresServer]:
        """A server that only this test uses."""
        server = cls()
        try:
            await asyncio.to_thread(server.set_up)
            await server.start()
            yield server
        finally:
            await server.stop()
            shutil.rmtree(server.directory, ignore_errors=True)

    @property
    def url(self) -> str:
        """What EKBO_DATABASE_URL takes."""
        return f"postgres://kuiperbelt@127.0.0.1:{self.port}/postgres"

    def set_up(self) -> None:
        """Make its files, which belong to whom it runs as: it refuses to run as root."""
        if os.getuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
        line = [
            str(programs() / "initdb"),
            "-D",
            str(self.directory / "data"),
            "-U",
            "kuiperbelt",
            "--auth=trust",
            "--no-sync",
        ]
        subprocess.run(line, check=True, capture_output=True, cwd=self.directory, user=USER, group=USER)

    async def start(self) -> None:
        """Start it and wait until it answers."""
        settings = ["listen_addresses=127.0.0.1", f"unix_socket_directories={self.directory}", "fsync=off"]
        line = [str(programs() / "postgres"), "-D", str(self.directory / "data"), "-p", str(self.port)]
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *line,
                *(word for setting in settings for word in ("-c", setting)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                user=USER,
                group=USER,
            )
        await eventually(self._answers, f"PostgreSQL on port {self.port}", START_LIMIT)

    async def _answers(self) -> bool:
        assert self.process
        assert self.process.returncode is None, (self.directory / "log").read_text()
        line = [str(programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return await (await asyncio.create_subprocess_exec(*line)).wait() == 0

    async def stop(self) -> None:
        """End it; it drops its connections."""
        process, self.process = self.process, None
        if process and process.returncode is None:
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGCONT)
            await process.wait()
