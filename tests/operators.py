"""Management commands run as operators run them, and a registry of a test's own for them to read."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pty
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import dj_database_url
from django.db import connections
from django.db.models import QuerySet
from django.utils.timezone import now

from proxy.models import Node, Session
from tests.clients import request
from tests.databases import migrated_file
from tests.servers import ROOT, Server

COMMAND_LIMIT = 30.0  # seconds

T = TypeVar("T")
_numbers = itertools.count()


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int | None
    output: str
    errors: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """What a command runs with: nothing of the caller's options, and no callback URL unless it is in `env`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("EKBO_", "DJANGO_"))}
    return inherited | dict(env)


async def manage(*arguments: str | bytes, env: Mapping[str, str], stdin: bytes = b"") -> Done:
    """`manage.py` with these arguments, without a terminal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "manage.py",
        *arguments,
        cwd=ROOT,
        env=environment(env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(COMMAND_LIMIT):
            output, errors = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert b"Traceback" not in errors, errors.decode()
    return Done(process.returncode, output.decode(), errors.decode())


async def at_terminal(*arguments: str, env: Mapping[str, str], typed: str = "") -> Done:
    """The same at a terminal, where somebody types something; all that is on the screen."""
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "manage.py", *arguments, cwd=ROOT, env=environment(env),
            stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        os.write(ours, typed.encode())
        screen = await asyncio.to_thread(_read_all, ours)
        return Done(await asyncio.wait_for(process.wait(), COMMAND_LIMIT), screen, "")
    finally:
        os.close(ours)


def _read_all(terminal: int) -> str:
    read = b""
    with suppress(OSError):  # the terminal's way to say that nobody has it open any more
        while part := os.read(terminal, 65536):
            read += part
    return read.decode()


@dataclass
class Registry:
    """A database that only this test uses, with the proxy's tables."""

    url: str
    alias: str = field(default_factory=lambda: f"test{next(_numbers)}")

    @classmethod
    async def at(cls, url: str, migrated: bool = False) -> Registry:
        """The database there, which is migrated first unless it was already."""
        registry = cls(url)
        if not migrated:
            done = await manage("migrate", "-v0", "--skip-checks", env=registry.env)
            assert done.status == 0, done.errors
        connections.settings[registry.alias] = connections.configure_settings(
            {"default": {}, registry.alias: dict(dj_database_url.parse(url))}
        )[registry.alias]
        return registry

    @classmethod
    async def embedded(cls, directory: Path) -> Registry:
        await asyncio.to_thread(shutil.copyfile, migrated_file(), directory / "registry.sqlite3")
        return await cls.at(f"sqlite:///{directory}/registry.sqlite3", migrated=True)

    @property
    def env(self) -> dict[str, str]:
        """What a command, or a server, needs to use it."""
        return {"EKBO_DATABASE_URL": self.url}

    async def run(self, job: Callable[[], T]) -> T:
        """What a job with the models does, in a thread."""

        def in_thread() -> T:
            try:
                return job()
            finally:
                connections[self.alias].close()

        return await asyncio.to_thread(in_thread)

    async def node(self, name: str = "web1", endpoint: str = "web1:9180", **fields: Any) -> Node:
        """A node that lives, or what the fields say."""
        times = {"started_at": now() - timedelta(hours=2), "heartbeat_at": now()}
        node = Node(name=name, endpoint=endpoint, **{"pid": 7, "version": "1", **times, **fields})
        await self.run(lambda: node.save(using=self.alias))
        return node

    async def session(self, key: str, node: Node, age: float = 60.0, **fields: Any) -> Session:
        """A live session, connected `age` seconds ago."""
        (row,) = await self.sessions([key], node, age, **fields)
        return row

    async def sessions(self, keys: list[str], node: Node, age: float = 60.0, **fields: Any) -> list[Session]:
        """Many of them."""
        texts = {"address": "192.0.2.1", "user_agent": "a browser", "path": "/connect", "endpoint": node.endpoint}
        facts = {"node": node, "connected_at": now() - timedelta(seconds=age), **texts, **fields}
        rows = [Session(connection=uuid.uuid4(), key=key, **facts) for key in keys]
        await self.run(lambda: self.objects().bulk_create(rows, batch_size=500))
        return rows

    def objects(self) -> QuerySet[Session]:
        """For jobs."""
        return Session.objects.using(self.alias)

    async def rows(self, **wanted: Any) -> list[Session]:
        """The sessions and close events that there are."""
        return await self.run(lambda: list(self.objects().filter(**wanted).order_by("key")))


async def registered(server: Server, *keys: str) -> None:
    """Wait until the registry knows these sessions."""
    missing: list[str] = []
    for _ in range(100):
        response = await request(server, "POST", "/sessions", (), json.dumps(keys).encode())
        if response.status == 200:  # daphne makes the tables while it serves already
            missing = [entry["session"] for entry in response.json()["alive"] if entry["connection"] is None]
            if not missing and not response.json()["gone"]:
                return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not in the registry: {missing}, {response}")
