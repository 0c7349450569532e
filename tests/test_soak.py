"""Two nodes under a steady load while clients come and go: what they hold returns to where it was.

`make soak` is the long form: SOAK_SECONDS (two hours), SOAK_CONNECTIONS. One client in a hundred is replaced every
second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.backend import Answer, Backend
from tests.clients import client, send
from tests.databases import rows
from tests.redis_servers import RedisServer, eventually
from tests.servers import Server, Servers
from tests.test_registry import file
from tests.vectors_api import OK

SECONDS = float(os.environ.get("SOAK_SECONDS", "4"))
CONNECTIONS = int(os.environ.get("SOAK_CONNECTIONS", "100"))
WARM = max(1.0, min(SECONDS / 20, 120.0))  # seconds of the same load before the first look
PUSHES = 50  # a second, from the node that hasn't the session
FRAMES = 20  # a second, from clients
LINE = max(10.0, SECONDS / 60)  # seconds from one line of progress to the next
SETTLE = 20.0  # seconds within which what is under way must be over
MEMORY = 1.05 if SECONDS > 1000 else 1.3  # of what it was; a short run is still filling caches


@dataclass
class Crowd:
    """The clients, what they were sent, and whose end the backend was told of."""

    nodes: tuple[Server, Server]
    backend: Backend
    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    said: int = 0
    heard: int = 0
    left: set[str] = field(default_factory=set)
    told: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    """Answers to pushes that weren't OK."""
    _made: int = 0
    _here: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _gates: dict[str, asyncio.Event] = field(default_factory=dict)
    _sockets: dict[str, Any] = field(default_factory=dict)

    async def come(self) -> None:
        """One client more, at one node or the other."""
        self._made += 1
        key = f"soak{self._made}"
        self._gates[key] = asyncio.Event()
        ready = asyncio.Event()
        self._here[key] = asyncio.create_task(self._live(key, self.nodes[self._made % 2], ready))
        await asyncio.wait_for(ready.wait(), 15)

    async def _live(self, key: str, node: Server, ready: asyncio.Event) -> None:
        async with client(node, key) as connection:
            self._sockets[key] = connection
            ready.set()
            with contextlib.suppress(ConnectionClosed):
                async for _ in connection:
                    self.received[key] += 1

    async def go(self, key: str) -> None:
        """It leaves, once all has come that it was sent."""
        socket = self._sockets.pop(key)
        for _ in range(500):
            if self.received[key] >= self.sent[key]:
                break
            await asyncio.sleep(0.01)
        self.left.add(key)
        await socket.close()
        await self._here.pop(key)

    async def churn(self, seconds: float) -> None:
        """Replace one in a hundred each second, push and say things; a line of progress now and then."""
        async with asyncio.TaskGroup() as group:
            for work in (self._replace(), self._push(), self._say(), self._progress()):
                group.create_task(self._for(seconds, work))

    async def _for(self, seconds: float, work: AsyncIterator[float]) -> None:
        """Work whenever it is due."""
        began = due = time.monotonic()
        async for pause in work:
            due += pause
            if due - began > seconds:
                return
            await asyncio.sleep(due - time.monotonic())

    async def _replace(self) -> AsyncIterator[float]:
        while True:
            yield 100 / CONNECTIONS
            await self.go(next(iter(self._sockets)))  # the one that has been here longest
            await self.come()

    async def _push(self) -> AsyncIterator[float]:
        while True:
            yield 1 / PUSHES
            key = random.choice(list(self._sockets))
            self.sent[key] += 1
            far = self.nodes[(int(key.removeprefix("soak")) + 1) % 2]
            answer = await send(far, key, b"x" * 200)
            if answer.body != OK:
                self.failed[answer.body.decode()] += 1
                self.sent[key] -= 1

    async def _say(self) -> AsyncIterator[float]:
        while True:
            yield 1 / FRAMES
            await self._sockets[random.choice(list(self._sockets))].send("y" * 200)
            self.said += 1

    async def _progress(self) -> AsyncIterator[float]:
        began = time.monotonic()
        while True:
            self.take_note()
            memory = ", ".join(f"{resident(node) / 1024:.1f}" for node in self.nodes)
            print(
                f"{time.monotonic() - began:8.0f} s: {len(self._here)} connected, {len(self.left)} left, "
                f"{self.sent.total()} pushes, {self.heard} frames heard, {memory} MiB resident",
                flush=True,
            )
            yield LINE

    def take_note(self) -> None:
        """Of what the backend was asked, which is then forgotten."""
        found, self.backend.requests[:] = list(self.backend.requests), []
        self.heard += sum(one.path == "/receive" for one in found)
        self.told.update(one.key for one in found if one.path == "/close")

    async def all_go(self) -> None:
        for key in list(self._sockets):
            await self.go(key)


def resident(node: Server) -> int:
    """KiB of the process's memory."""
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def looks(directory: Path, number: int) -> list[str]:
    """The whole lines that a node has written about itself."""
    path = directory / f"look-{number}"
    return path.read_text().split("\n")[:-1] if path.exists() else []


async def look(nodes: tuple[Server, Server], redis: RedisServer, directory: Path) -> dict[str, int]:
    """How much is held now, by its name."""
    found: dict[str, int] = {}
    for number, node in enumerate(nodes, 1):
        before = looks(directory, number)
        node.signal(signal.SIGRTMIN)

        async def looked(number: int = number, before: list[str] = before) -> bool:
            return len(looks(directory, number)) > len(before)

        await eventually(looked, "a look inside", 10)
        inside = json.loads(looks(directory, number)[-1])
        found[f"descriptors of node {number}"] = inside["descriptors"]
        found[f"tasks of node {number}"] = inside["tasks"]
    found["keys in Redis"] = await redis.execute("DBSIZE")
    found["channels in Redis"] = len(await redis.execute("PUBSUB", "CHANNELS"))
    for table in ("session", "node"):
        ((found[f"rows of {table}s"],),) = rows(file(nodes[0]), f"SELECT count(*) FROM proxy_{table}")
    return found


async def settled(
    nodes: tuple[Server, Server], redis: RedisServer, directory: Path, as_before: dict[str, int] | None = None
) -> dict[str, int]:
    """The same once nothing is under way any more: as it was before, or twice the same."""
    last = await look(nodes, redis, directory)
    deadline = time.monotonic() + SETTLE
    while last != as_before and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        now = await look(nodes, redis, directory)
        if as_before is None and now == last:
            break
        last = now
    return last


@pytest.mark.timeout(SECONDS * 1.2 + WARM + 180)
async def test_soak(tmp_path: Path) -> None:
    """Empty, full, and again after the soak: the same; nothing that was sent is lost, each end is told once."""
    backend = Backend()
    await backend.start()
    for path in ("/establish", "/receive", "/close"):
        backend.on(path, "*", Answer(close=True))  # so that no kept-alive connections count
    async with RedisServer.running() as redis:
        servers = Servers(backend, tmp_path, redis.url)
        env = servers.cluster_env() | {"EKBO_SUPPRESS_ACCESS_LOG": "true"}
        first, second = [
            await servers.start("instrumented", env | {"LOOK_FILE": str(tmp_path / f"look-{number}")})
            for number in (1, 2)
        ]
        nodes, where = (first, second), (redis, tmp_path)
        crowd = Crowd(nodes, backend)
        try:
            await crowd.come()  # makes what is made once
            await crowd.come()
            await crowd.all_go()
            empty = await settled(nodes, *where)
            for _ in range(CONNECTIONS):
                await crowd.come()
            await crowd.churn(WARM)
            full, memory = await settled(nodes, *where), [resident(node) for node in nodes]
            await crowd.churn(SECONDS)
            full_after, memory_after = await settled(nodes, *where, full), [resident(node) for node in nodes]
            await crowd.all_go()
            empty_after = await settled(nodes, *where, empty)
            crowd.take_note()
        finally:
            await servers.stop()
            await backend.stop()
        assert not servers.complaints()
    failures = []

    def verdict(name: str, before: Any, after: Any, well: bool) -> None:
        print(f"{name:<28}{before:>22} -> {after:<22}{'ok' if well else 'FAILED'}")
        if not well:
            failures.append(name)

    print(f"\nafter {SECONDS:g} s, {len(crowd.left)} clients came and went; with none, and with {CONNECTIONS}:")
    for name in empty:
        held, holds = f"{empty[name]} .. {full[name]}", f"{empty_after[name]} .. {full_after[name]}"
        verdict(name, held, holds, held == holds)
    for number, (before, after) in enumerate(zip(memory, memory_after, strict=True), 1):
        verdict(f"KiB resident of node {number}", before, after, after <= before * MEMORY)
    missing = sum((crowd.sent - crowd.received).values())
    verdict("pushes lost", 0, missing, missing == 0)
    verdict("pushes refused", 0, crowd.failed.total(), not crowd.failed)
    verdict("frames lost", 0, crowd.said - crowd.heard, crowd.said == crowd.heard)
    verdict("close callbacks missing", 0, len(crowd.left - set(crowd.told)), crowd.left <= set(crowd.told))
    verdict("close callbacks too many", 0, crowd.told.total() - len(crowd.told), crowd.told.total() == len(crowd.told))
    assert not failures, (failures, crowd.failed)
