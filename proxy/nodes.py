"""This process in the database: its registration, its heartbeat and samples, and the watch over the others.

A process whose heartbeats don't grow while we look on for node_timeout is dead, and its sessions' ends are told from
here. No clock of another machine, and none that can be set, plays a part. Called by registry.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import fields
from time import monotonic
from uuid import UUID, uuid4

import proxy
from proxy import database, store, token_records, tokens
from proxy.clock import process_time
from proxy.conf import Options
from proxy.database import DATABASE_ERRORS, Database
from proxy.exceptions import NodeForgotten, NodeGone
from proxy.models import Node
from proxy.stats import stats

BEATS = 6  # heartbeats within node_timeout
RETRY = 1.0  # seconds until the database is tried again, at most
SET_UP_LIMIT = 10.0  # seconds for the embedded database's tables
SAMPLE_PERIOD = 10.0  # seconds
PRUNE_PERIOD = 600.0  # seconds

logger = logging.getLogger("proxy.nodes")


class Watch:
    """Which of the other processes are dead: `look` is called with their heartbeats, again and again."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._seen: dict[UUID, tuple[int, float]] = {}
        self._last = 0.0

    def look(self, heartbeats: dict[UUID, int], now: float) -> list[tuple[UUID, int]]:
        """The dead ones, and how many heartbeats they had; `now` is a clock that only goes forward."""
        if now - self._last > 2 * self._timeout / BEATS:
            # We have been stopped, or the database has: nobody was seen, so nobody is known to be silent.
            self._seen.clear()
        self._last = now
        self._seen = {
            node: seen if (seen := self._seen.get(node)) and seen[0] == count else (count, now)
            for node, count in heartbeats.items()
        }
        return [(node, count) for node, (count, since) in self._seen.items() if now - since >= self._timeout]


class Process:
    """This process as a node. It is nobody (`id` is None) until the database has taken its registration.

    `on_begin` is called when it may write, `on_events` when it got close events of others to tell, `on_dead` when it
    finds that others have declared it dead, `on_forgotten` when the database has lost it; then it becomes a new node.
    """

    def __init__(
        self,
        db: Database,
        options: Options,
        endpoint: str,
        on_begin: Callable[[], None],
        on_events: Callable[[], None],
        on_dead: Callable[[], None],
        on_forgotten: Callable[[], None],
    ) -> None:
        self._database = db
        self._options = options
        self._endpoint = endpoint
        self._on_begin = on_begin
        self._on_events = on_events
        self._on_dead = on_dead
        self._on_forgotten = on_forgotten
        self.id: UUID | None = None
        self._period = options.node_timeout / BEATS
        self._watch = Watch(options.node_timeout)
        self._beaten = self._sampled = self._pruned = 0.0
        self._beats = 0
        """Heartbeats that the database has confirmed: one that knows fewer is an older copy."""
        self._turns = asyncio.Lock()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            well = await self.turn()
            await asyncio.sleep(self._period if well else min(RETRY, self._period))

    async def turn(self) -> bool:
        """Register, or beat; False if the database doesn't work."""
        async with self._turns:
            try:
                if self.id is None:
                    await self._register()
                else:
                    await self._beat(self.id)
            except DATABASE_ERRORS:
                return False
            return True

    async def make_sure(self) -> None:
        """After a pause in which others may have declared this process dead: find out before going on."""
        if monotonic() - self._beaten > self._options.node_timeout / 2 and self.id and not self._database.problem:
            await self.turn()

    async def on_gone(self, node: UUID, error: NodeGone) -> None:
        """A write failed because nobody may write as `node`, which is or was this process."""
        self._leave(node, error)
        if self.id is None:
            await self.turn()

    def _leave(self, node: UUID, error: NodeGone) -> None:
        if self.id != node:
            return
        self.id = None
        # A node that was declared dead is forgotten too, but late.
        if isinstance(error, NodeForgotten) and monotonic() - self._beaten < store.KEEP_NODES.total_seconds():
            logger.error("the database has lost this process: its sessions are written again")
            self._on_forgotten()
        else:
            logger.error("this process was silent for %g s and declared dead", self._options.node_timeout)
            self._on_dead()

    async def _register(self) -> None:
        node = Node(
            id=uuid4(),
            name=socket.gethostname()[:255],
            pid=os.getpid(),
            worker=stats.worker,
            endpoint=self._endpoint[:255],
            version=proxy.__version__,
        )

        def register() -> list[str]:
            database.migrate_embedded()
            revoked = token_records.revoked()
            store.register(node)
            return revoked

        tokens.set_revoked(await self._database.run(register, SET_UP_LIMIT))
        self._beaten = monotonic()
        self._beats = 0
        self.id = node.id
        self._on_begin()

    async def _beat(self, node: UUID) -> None:
        began = monotonic()
        sample = began - self._sampled >= SAMPLE_PERIOD
        counters = store.Counters(**{field.name: getattr(stats, field.name) for field in fields(store.Counters)})
        try:
            beats = self._beats
            others, adopted = await self._database.run(
                lambda: store.beat(node, counters, sample, process_time(), beats)
            )
            self._beaten = began
            self._beats += 1
            if sample:
                self._sampled = began
            if adopted:
                self._on_events()
            tokens.set_revoked(await self._database.run(token_records.revoked))
            for dead, heartbeats in self._watch.look(others, monotonic()):
                await self._sweep(node, dead, heartbeats)
        except NodeGone as error:
            self._leave(node, error)
            await self._register()
        if began - self._pruned >= PRUNE_PERIOD:
            self._pruned = began
            await self._database.run(store.prune)
            await self._database.run(token_records.prune)

    async def _sweep(self, node: UUID, dead: UUID, heartbeats: int) -> None:
        tell = bool(self._options.close_callback)
        lost = await self._database.run(lambda: store.sweep(node, dead, heartbeats, process_time(), tell))
        if lost is not None:
            logger.error("node %s is dead: %d sessions lost", dead, lost)
            self._on_events()
