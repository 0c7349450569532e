"""One of two nodes is killed under load, again and again: each lost session is told once, in time, and no live one is.

`make kills` is the long form: KILL_ROUNDS, and KILL_NODE_TIMEOUT as EKBO_NODE_TIMEOUT takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass, field

import pytest
from websockets.exceptions import WebSocketException

from proxy.values import duration
from tests.at_once import at_once
from tests.backend import Backend, Request
from tests.clients import client, close, receive, send
from tests.databases import rows, using
from tests.evidence import Evidence, Figures
from tests.postgres import PostgresServer
from tests.redis_servers import eventually
from tests.servers import Server, Servers
from tests.test_registry import file

pytestmark = pytest.mark.usefixtures("clean_logs")

ROUNDS = int(os.environ.get("KILL_ROUNDS", "2"))
NODE_TIMEOUT = os.environ.get("KILL_NODE_TIMEOUT", "2s")

LIMIT = 60.0  # seconds from a kill to the last of its events (faults.md)
LONG = 20  # sessions that each node gets to keep when it starts
VISITORS = 6  # clients of each node that come and go
CALM = 0.5  # seconds of load before a kill

WAYS = ("leaves", "backend", "operator")
"""Who ends a visit: its client, the backend, which isn't told, or somebody else."""
BY_OPERATOR = ("X-Kuiperbelt-Close-Callback", "true")

BROKEN = (OSError, EOFError, WebSocketException, TimeoutError)
"""What a client of a killed node sees."""


@dataclass
class Crowd:
    """All clients of one life of a node: those that stay, and visitors who come, get a message and go again."""

    node: Server
    other: Server
    fresh: Callable[[str], str]
    long: list[str] = field(default_factory=list)
    left: set[str] = field(default_factory=set)
    """Sessions that their client, or an operator, ended in order."""
    closed: set[str] = field(default_factory=set)
    """Sessions that the backend ended by /close, and the client saw it."""
    cut: set[str] = field(default_factory=set)
    """Sessions that were there, with a 101, when their node or the other one was killed."""
    unsure: set[str] = field(default_factory=set)
    """Sessions whose /close was under way then: it was carried out or it wasn't."""
    over: bool = False
    _clients: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def come(self) -> None:
        self.long = [self.fresh("long") for _ in range(LONG)]
        for key in self.long:
            await self._clients.enter_async_context(client(self.node, key))
        self._tasks = [asyncio.create_task(self._visit(WAYS[number % 3])) for number in range(VISITORS)]

    async def _visit(self, way: str) -> None:
        while not self.over:
            key = self.fresh("visit")
            here = asked = False
            try:
                async with client(self.node, key) as connection:
                    here = True
                    await send(random.choice((self.node, self.other)), key, b"x")
                    assert await receive(connection) == "x"
                    if way != "leaves":
                        asked = way == "backend"
                        await close(self.node, key, b"", *([] if asked else [BY_OPERATOR]))
                        await connection.wait_closed()
                        assert connection.close_code == 1000
            except (*BROKEN, AssertionError):
                # Of the other node, whose end isn't this session's; or of this one, whose end is.
                if here:
                    (self.unsure if asked else self.cut).add(key)
                await asyncio.sleep(0.05)
            else:
                (self.closed if way == "backend" else self.left).add(key)

    async def go(self) -> None:
        """Everybody leaves who is still there."""
        self.over = True
        await asyncio.gather(*self._tasks)
        with contextlib.suppress(*BROKEN):
            await self._clients.aclose()


@dataclass
class Told:
    """The close callbacks that the backend got, by session."""

    backend: Backend
    found: dict[str, list[Request]] = field(default_factory=lambda: defaultdict(list))
    _read: int = 0

    def of(self, keys: Iterable[str]) -> list[list[Request]]:
        """Each session's own, in order."""
        new = self.backend.requests[self._read :]
        self._read += len(new)
        for request in new:
            if request.path == "/close":
                self.found[request.key].append(request)
        return [self.found[key] for key in keys]

    async def all(self, keys: Collection[str], what: str) -> list[list[Request]]:
        """The same, when there is one at least of each; each has one id, however often it was told."""
        with contextlib.suppress(AssertionError):
            await self.backend.until(lambda: all(self.of(keys)), what, LIMIT)
        missing = [key for key, events in zip(keys, self.of(keys), strict=True) if not events]
        assert not missing, f"waited {LIMIT} s in vain for {what}: {missing}"
        found = self.of(keys)
        assert all(len({request.one("x-kuiperbelt-event-id") for request in requests}) == 1 for requests in found)
        return found


@contextlib.asynccontextmanager
async def database(name: str) -> AsyncIterator[dict[str, str]]:
    """Empty for the embedded one, which the servers share."""
    if name == "sqlite":
        yield {}
        return
    async with PostgresServer.running() as postgres:

        def work() -> None:
            with using(postgres.url):
                pass

        await asyncio.to_thread(work)
        yield {"EKBO_DATABASE_URL": postgres.url}


@pytest.mark.timeout(ROUNDS * (LIMIT + 30) + 60)
@at_once(kind=["sqlite", "postgres"])
async def test_kills(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str], evidence: Evidence
) -> None:
    told, slowest, lost, repeated = Told(backend), 0.0, 0, 0
    async with database(kind) as env:
        server = await servers.start("cluster", env | {"EKBO_NODE_TIMEOUT": NODE_TIMEOUT})
        assert server.peer
        nodes = [server, server.peer]
        crowds = [Crowd(node, nodes[1 - number], fresh) for number, node in enumerate(nodes)]
        everyone = list(crowds)
        await asyncio.gather(*(crowd.come() for crowd in crowds))
        for number in range(ROUNDS):
            victim = number % 2
            dead, alive = crowds[victim], crowds[1 - victim]
            await asyncio.sleep(CALM * random.uniform(1, 2))
            killed = time.monotonic()
            await nodes[victim].kill()
            await dead.go()
            cut = await told.all(dead.cut, "the sessions of visitors")
            for events in await told.all(dead.long, "all lost sessions"):
                (event,) = events
                assert event.one("x-kuiperbelt-close-reason") == "node_lost"
                assert event.arrived - killed > duration(NODE_TIMEOUT) * 0.8, "before it could be known"
                slowest = max(slowest, event.arrived - killed)
            assert slowest < LIMIT
            # The others' visitors left in order, when a push to them by way of the dead node had failed.
            lost += len(dead.long) + sum(events[0].one("x-kuiperbelt-close-reason") == "node_lost" for events in cut)
            repeated += sum(len(events) - 1 for events in cut)
            assert not any(told.of(alive.long)), "an event of a live session"
            await nodes[victim].restart()
            crowds[victim] = Crowd(nodes[victim], nodes[1 - victim], fresh)
            everyone.append(crowds[victim])
            await crowds[victim].come()
        await asyncio.gather(*(crowd.go() for crowd in crowds))
        parting = {key for crowd in crowds for key in crowd.long} | {key for crowd in everyone for key in crowd.left}
        await told.all(parting, "those who left")
        # Of those that the backend closed, on nodes that lived on.
        assert not any(told.of({key for crowd in crowds for key in crowd.closed}))
        if kind == "sqlite":

            async def told_all() -> bool:
                return not rows(file(server), "SELECT 1 FROM proxy_session")

            await eventually(told_all, "all rows to go")
        await server.stop()
    evidence(Figures(ROUNDS, lost, duplicated=repeated, worst=slowest))
    print(
        f"\n{kind}, {ROUNDS} kills, EKBO_NODE_TIMEOUT={NODE_TIMEOUT}: {lost} sessions lost, all told within "
        f"{slowest:.1f} s; {repeated} told again under the same id; {len(parting)} left in order, each told"
    )
