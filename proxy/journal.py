"""What is to be written about sessions, on its way to the database: group commit.

While one batch is being written the next one collects, and so it does while each turn of the event loop brings more;
there is no timer. Nothing waits for a database that doesn't work: then the news stay here, one row for each session,
and are written when it is back. Called by registry and close_events, on the event loop.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from enum import Enum
from itertools import islice
from time import monotonic
from uuid import UUID

from django.db import DataError, IntegrityError

from proxy import store
from proxy.changes import Attempt, Change, Ended, Facts
from proxy.database import DATABASE_ERRORS, Database
from proxy.exceptions import NodeGone, SessionsForgotten

BATCH = 500  # rows
TURNS = 20  # of the event loop, at most, that a batch collects for while others are ready to run
MAX_BACKLOG = 100_000  # rows that wait for the database; there is no room for more
FIRST_DELAY = 0.5  # seconds after a failure; doubles each time
MAX_DELAY = 5.0  # seconds

logger = logging.getLogger("proxy.registry")


class Stored(Enum):
    """Does the database have a row of this connection?"""

    NO = 0
    MAYBE = 1  # a write was tried, and nobody knows how it ended
    YES = 2


class Row:
    """A connection's row as it shall be.

    Facts and end stay when they are written, for a database may lose them; an attempt is set while it isn't written.
    """

    __slots__ = ("attempt", "connection", "done", "end_stored", "ended", "facts", "stored", "taken", "waiters")

    def __init__(self, connection: str, facts: Facts | None = None, stored: Stored = Stored.NO) -> None:
        self.connection = connection
        self.facts = facts
        self.ended: Ended | None = None
        self.attempt: Attempt | None = None
        self.done = False
        self.stored = stored
        self.end_stored = False
        self.taken = False
        """Another process tells the end of this session."""
        self.waiters: list[asyncio.Future[None]] | None = None

    def change(self) -> Change:
        facts = None if self.stored is Stored.YES else self.facts
        ended = None if self.end_stored else self.ended
        return Change(self.connection, facts, ended, self.attempt, self.done)

    def on_written(self, change: Change) -> None:
        self.stored = Stored.YES
        self.end_stored = self.end_stored or change.ended is not None
        if self.attempt is change.attempt:
            self.attempt = None

    def on_forgotten(self) -> None:
        """The database has lost it, or at least a part: all of it is to be written again."""
        if self.stored is Stored.YES:
            self.stored = Stored.MAYBE
        self.end_stored = False

    def release(self) -> None:
        """Nobody need wait any longer."""
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


class Journal:
    """The rows with news, in order."""

    def __init__(
        self,
        database: Database,
        node: Callable[[], UUID | None],
        on_gone: Callable[[UUID, NodeGone], Awaitable[None]],
        on_room: Callable[[UUID], Awaitable[None]],
    ) -> None:
        self._database = database
        self._node = node
        self._on_gone = on_gone
        self._on_room = on_room
        # Since when each waits, by the monotonic clock.
        self.rows: dict[Row, float] = {}
        self._batch: dict[Row, float] = {}
        self._limit = BATCH
        self._writer: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._full = False
        self._refused = False
        """Was there no room for something, and is that still to be made up for?"""

    async def commit(self, row: Row) -> bool:
        """Have a row written; False if that will only be when the database works again."""
        if not self.put(row) or self._database.problem or not self._node():
            return False
        waiter = asyncio.get_running_loop().create_future()
        row.waiters = [*(row.waiters or ()), waiter]
        await waiter
        return self.is_written(row)

    def is_written(self, row: Row) -> bool:
        """Does the database say what the row says?"""
        return row not in self.rows and row not in self._batch

    def backlog(self) -> int:
        """How many rows aren't written yet."""
        return len(self.rows) + len(self._batch)

    def lag(self) -> float:
        """Seconds for which the oldest of them has waited."""
        since = next(iter((self._batch or self.rows).values()), None)
        return 0.0 if since is None else monotonic() - since

    def put(self, row: Row) -> bool:
        """The same without waiting; False if there is no room."""
        if row.done and row.stored is Stored.NO and row not in self._batch:
            self.rows.pop(row, None)
            return True
        full = len(self.rows) >= MAX_BACKLOG and row not in self.rows
        if full != self._full:
            self._full = full
            logger.error("%d rows wait for the database%s", len(self.rows), ": there is no room for more" * full)
        if full:
            self._refused = True
            return False
        self.rows.setdefault(row, monotonic())
        self.go()
        return True

    def go(self) -> None:
        """Write, if there is anything to write and anybody to write as."""
        if (self.rows or self._refused) and self._node() and (self._writer is None or self._writer.done()):
            self._writer = asyncio.create_task(self._write_all())
        elif not self._database.problem:
            self._wake.set()  # something else was written meanwhile, so it works again

    def pending(self) -> list[Row]:
        """All that isn't written yet."""
        return [*self._batch, *self.rows]

    def release_all(self) -> None:
        """The database doesn't work: nobody waits for it."""
        for row in self.pending():
            row.release()

    def give_up_to(self, row: Row) -> None:
        """Another process has taken this row, with all that was still to be written about it."""
        row.taken = True
        if not row.done:
            self.rows.pop(row, None)
        row.release()

    async def drain(self) -> None:
        """Wait until all is written that can be."""
        while self._writer and not self._writer.done():
            await asyncio.wait({self._writer})

    async def _write_all(self) -> None:
        delay = 0.0
        while (await self._collect() or self._refused) and (node := self._node()):
            try:
                await (self._write(node) if self.rows else self._make_up(node))
            except NodeGone as error:
                await self._on_gone(node, error)
            except SessionsForgotten as error:
                logger.warning("the database has lost sessions, they are written again: %s", error)
            except (DataError, IntegrityError):
                self._limit = 1  # to find out which row it was
            except DATABASE_ERRORS:
                delay = min(max(2 * delay, FIRST_DELAY), MAX_DELAY)
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
            else:
                delay = 0.0

    async def _make_up(self, node: UUID) -> None:
        """There is room again for what was refused."""
        self._refused = False
        try:
            await self._on_room(node)
        except BaseException:
            self._refused = True
            raise

    async def _collect(self) -> int:
        """How many rows there are, once no more come without waiting: a batch costs as much as many a row of it."""
        for _ in range(TURNS):
            before = len(self.rows)
            await asyncio.sleep(0)
            if len(self.rows) == before:
                break
        return len(self.rows)

    async def _write(self, node: UUID) -> None:
        batch = dict(islice(self.rows.items(), self._limit))
        changes = [row.change() for row in batch]
        for row in batch:
            del self.rows[row]
            if row.facts and row.stored is Stored.NO:
                row.stored = Stored.MAYBE
        self._batch = batch
        try:
            await self._database.run(lambda: store.write(node, changes))
        except BaseException as error:
            self._batch = {}
            if isinstance(error, SessionsForgotten):
                for row in batch:
                    row.on_forgotten()
            if isinstance(error, DataError | IntegrityError) and len(batch) == 1:
                (row,) = batch
                what = {"event": "unexpected_error", "connection": row.connection}
                logger.exception("connection %(connection)s: its row can't be written", what)
                row.release()
            else:
                # Another process may have taken some of them meanwhile.
                batch = {row: since for row, since in batch.items() if row.done or not row.taken}
                self.rows = {**batch, **self.rows, **batch}
            raise
        self._batch = {}
        self._limit = BATCH
        for row, change in zip(batch, changes, strict=True):
            row.on_written(change)
            if row not in self.rows:
                row.release()
