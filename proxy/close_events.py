"""Tells the backend of sessions' ends, until it has heard: the close callback, its retries, and when they stop.

Fresh ends are told as soon as they are in the database; what couldn't be told, and what other processes have left
behind, is taken from there. Only the process that an event belongs to (`Session.teller`) tells it.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from uuid import UUID

from django.utils import timezone

from proxy import callbacks, logs, store
from proxy.changes import Attempt, Ended, Facts
from proxy.clock import process_time
from proxy.conf import Options
from proxy.database import DATABASE_ERRORS, Database
from proxy.exceptions import BackendBusy, CallbackError
from proxy.http_client import MAX_CONNECTIONS
from proxy.journal import Journal, Row, Stored
from proxy.protocol import plain
from proxy.stats import stats
from proxy.store import Event

FIRST_DELAY = 1.0  # seconds until the second attempt; doubles each time
MAX_DELAY = 60.0  # seconds
BUSY_DELAY = 10.0  # seconds, and up to twice as long, when the backend wasn't even asked: that is no attempt
JITTER = 0.25  # of a delay, at most, on top of it: a backend that comes back isn't hit by all at once
PAGE = 200  # events that are read at once
LOOK = 60.0  # seconds until the database is looked at though nobody said that there is anything
MAX_WAITING = 10_000  # ends that are tried again from memory while the database doesn't work

logger = logging.getLogger("proxy.close_events")


def delay_after(attempts: int) -> float:
    """Seconds from the last of so many attempts to the next one, without jitter."""
    return float(min(FIRST_DELAY * 2 ** min(attempts - 1, 30), MAX_DELAY))


def after(attempts: int, error: CallbackError) -> tuple[int, float]:
    """How many attempts there were with the one that has just failed, and the seconds until the next."""
    spread = random.random()  # nothing secret  # noqa: S311  # nosec B311
    if isinstance(error, BackendBusy):
        return attempts, BUSY_DELAY * (1 + spread)
    return attempts + 1, delay_after(attempts + 1) * (1 + JITTER * spread)


def is_over(attempts: int, retry_for: float) -> bool:
    """Has it been tried for long enough? Counted in attempts, because clocks jump, and processes end."""
    tried_for = 0.0
    for attempt in range(1, attempts + 1):
        if tried_for >= retry_for:
            return True
        tried_for += delay_after(attempt)
    return False


async def tell(session: callbacks.Session, code: int, reason: str) -> CallbackError | None:
    """One attempt: nothing, or why the backend hasn't heard."""
    stats.closing_connections += 1
    try:
        await callbacks.client().close(session, code, reason)
    except CallbackError as error:
        if not isinstance(error, BackendBusy):  # a line for each session; `breaker` has said it once
            logs.callback_failed("close", session.connection, error)
        return error
    finally:
        stats.closing_connections -= 1
    return None


def _row_of(event: Event) -> Row:
    """The row that it was read from, or what can be known of it should the database lose it now."""
    now = timezone.now()
    row = Row(event.connection, Facts(event.key, "", "", "", "", "", event.endpoint, now), Stored.YES)
    row.ended, row.end_stored = Ended(now, event.code, event.reason, event.due), True
    return row


class Teller:
    """All close callbacks of one event loop.

    `make_sure` is called before each: does what was this process's still belong to it?
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        options: Options,
        node: Callable[[], UUID | None],
        make_sure: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._journal = journal
        self._options = options
        self._node = node
        self._make_sure = make_sure
        self.telling: dict[str, Row] = {}
        """By connection, what isn't to be taken from the database now, or was told and its row is still there."""
        self.untold = False
        """Did the backend not hear of an end that neither the database knows nor anybody here?"""
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._retries: set[asyncio.Task[None]] = set()
        self._stored: set[asyncio.Task[bool]] = set()
        """Attempts at what was read from the database, under way."""
        self._asked = self._refused = False
        """Since the last of them began: was the backend asked, or too busy to be?"""
        self._wake = asyncio.Event()

    def lease(self) -> float:
        """Seconds after which a fresh end is told from the database, should it be forgotten here."""
        return 2 * self._options.callback_timeout + LOOK

    def wake(self) -> None:
        """There is something in the database."""
        self._wake.set()

    async def tell_fresh(self, row: Row, event: Event) -> None:
        """The first attempt at an end of a session of this process; more follow by themselves."""
        self.telling[event.connection] = row
        error = await self._attempt(row, event)
        if error and len(self._retries) < MAX_WAITING:
            retry = asyncio.create_task(self._retry(row, event, error))
            self._retries.add(retry)
            retry.add_done_callback(self._retries.discard)
        else:
            self.untold |= error is not None and not row.end_stored and self._journal.is_written(row)
            self.telling.pop(event.connection, None)

    async def run(self) -> None:
        """Tell what is in the database when it is due, until cancelled."""
        while True:
            self._wake.clear()
            try:
                pause = await self._tell_due()
            except DATABASE_ERRORS:
                pause = FIRST_DELAY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def stop(self) -> None:
        """What waits for its next attempt in memory is left to the database."""
        attempts = [*self._retries, *self._stored]
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)

    async def _tell_due(self) -> float:
        """Begin what is due, if there is room; the seconds until there is something to do again.

        One that takes long holds up no others, as long as the backend isn't too busy for them.
        """
        node = self._node()
        if not node or len(self._stored) > PAGE or (self._refused and self._stored):
            return LOOK  # or when `_on_told` wakes us
        if self._refused and not self._asked:
            # Not by `return`: whatever else there may be to tell, the backend isn't asked.
            await asyncio.sleep(BUSY_DELAY * (1 + random.random()))  # nothing secret  # noqa: S311  # nosec B311
        self._asked = self._refused = False
        self.telling = {
            connection: row
            for connection, row in self.telling.items()
            if not (row.done and self._journal.is_written(row))
        }
        events = await self._database.read(lambda: store.pending(node, PAGE + len(self.telling)))
        now = process_time()
        free = [event for event in events if event.connection not in self.telling]
        due = [event for event in free if event.due <= now]
        for event in due:
            row = self.telling[event.connection] = _row_of(event)
            attempt = asyncio.create_task(self._tell_stored(row, event))
            self._stored.add(attempt)
            attempt.add_done_callback(self._on_told)
        if due:
            return 0.0
        return min(LOOK, (free[0].due - now).total_seconds()) if free else LOOK

    def _on_told(self, attempt: "asyncio.Task[bool]") -> None:
        self._stored.discard(attempt)
        if not attempt.cancelled():
            self._asked |= attempt.result()
            self._refused |= not attempt.result()
        if len(self._stored) == PAGE or not self._stored:
            self.wake()

    async def _tell_stored(self, row: Row, event: Event) -> bool:
        """False if the backend wasn't asked: nothing is written then, so the event stays due."""
        try:
            error = await self._attempt(row, event)
            if error and not isinstance(error, BackendBusy):
                await self._postpone(row, event.attempts, error)
        except Exception:
            logs.crashed(event.connection)
            return False
        finally:
            self._forget(row)
        return not isinstance(error, BackendBusy)

    async def _retry(self, row: Row, event: Event, failed: CallbackError) -> None:
        """Have the database keep it until the next attempt; while it doesn't work, try again from here."""
        attempts = 0
        error: CallbackError | None = failed
        try:
            while error and not await self._postpone(row, attempts, error):
                attempts, pause = after(attempts, error)
                await asyncio.sleep(pause)
                error = await self._attempt(row, event)
        finally:
            self._forget(row)
            self.wake()

    def _forget(self, row: Row) -> None:
        if not row.done:  # else it stays until the row has gone
            self.telling.pop(row.connection, None)

    async def _attempt(self, row: Row, event: Event) -> CallbackError | None:
        """Nothing, or why the backend hasn't heard."""
        async with self._slots:
            await self._make_sure()
            if row.taken:
                return None
            session = callbacks.Session(event.key, event.connection, event.endpoint)
            if error := await tell(session, event.code, event.reason):
                return error
        row.done = True
        self._journal.put(row)
        return None

    async def _postpone(self, row: Row, before: int, error: CallbackError) -> bool:
        """After `before` attempts and this error. False if it is not in the database yet."""
        attempts, pause = after(before, error)
        gave_up = attempts > before and is_over(attempts, self._options.close_retry_for)
        if gave_up:
            stats.close_events_given_up += 1
            logger.error(
                "connection %(connection)s: gave up after %(attempts)d attempts at its close callback",
                {"event": "close_event_given_up", "connection": row.connection, "attempts": attempts},
            )
        row.attempt = Attempt(attempts, process_time(pause), plain(str(error), 512), gave_up)
        return await self._journal.commit(row) or gave_up
