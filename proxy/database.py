"""The database thread: runs the functions of `store` one after the other, off the event loop, on its own connection.

It also knows whether the database works (`problem`), and sets up the embedded one.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, TypeVar

from django.core.management import call_command
from django.db import DatabaseError, InterfaceError, connection, connections

SLOW = 0.5  # seconds that a job may take until nobody waits for the database any more

NOT_REACHED = "not reached yet"
NEWLINE = "\n"
SEE_LOG = ", see the log"  # in which it isn't said

DATABASE_ERRORS = (DatabaseError, InterfaceError, OSError)

T = TypeVar("T")
Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]

logger = logging.getLogger("proxy.database")


class Database:
    """One event loop's way to the database. `on_problem` is called when it stops working."""

    def __init__(self, on_problem: Callable[[], None]) -> None:
        self.problem = NOT_REACHED
        """Why it doesn't work now, or nothing."""
        self._on_problem = on_problem
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # A daemon, because the process must be able to end though the database hangs.
        self._thread = Thread(target=_work, args=(self._jobs,), name="database", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[], T], slow_after: float = SLOW) -> T:
        """What the job returns or raises; it is done even if the caller doesn't wait any more.

        The database works if the job does, so this is for what writes: see `read`.
        """
        result = await self._run(job, slow_after)
        if self.problem:
            if self.problem != NOT_REACHED:
                logger.info("works again")
            self.problem = ""
        return result

    async def read(self, job: Callable[[], T]) -> T:
        """The same for a job that only reads, which a database that is locked, or full, lets it do."""
        return await self._run(job, None)

    async def _run(self, job: Callable[[], T], slow_after: float | None) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put((loop, done, job))
        slow = slow_after and loop.call_later(slow_after, self._fail, f"no answer within {slow_after:g} s")
        try:
            return await done
        except DATABASE_ERRORS as error:
            self._fail(_summary(error), f": {str(error).partition(NEWLINE)[0][:200]}")
            raise
        finally:
            if slow:
                slow.cancel()

    async def stop(self, limit: float = 1.0) -> None:
        """Close the connection and end the thread, after the jobs that wait; but wait no longer than this (seconds).

        A process that ends while SQLite closes crashes: its functions are given back to an interpreter that is gone.
        """
        self._jobs.put(None)
        deadline = monotonic() + limit
        while self._thread.is_alive() and monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def _fail(self, problem: str, details: str = "") -> None:
        if problem != self.problem:
            logger.warning("%s%s", problem.removesuffix(SEE_LOG), details)
        self.problem = problem
        self._on_problem()


def _work(jobs: "SimpleQueue[Job | None]") -> None:
    while item := jobs.get():
        loop, done, job = item
        try:
            outcome, failure = job(), None
        except Exception as error:
            outcome, failure = None, error
            # It may be broken; the next job gets a new one.
            connections.close_all()
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(_finish, done, outcome, failure)
        del item, done, job, outcome, failure  # or they would stay while it waits
    connections.close_all()


def _finish(done: "asyncio.Future[Any]", outcome: Any, failure: Exception | None) -> None:
    if done.done():  # cancelled
        return
    if failure is None:
        done.set_result(outcome)
    else:
        done.set_exception(failure)


def _summary(error: Exception) -> str:
    """What everybody may read, who asks for /ready: no names of hosts and users."""
    said = str(error)
    if any(words in said for words in ("no such table", "no such column", "relation", "column")):
        return "not migrated, run `manage.py migrate`"
    return "locked" if "locked" in said else f"fails with {type(error).__name__}{SEE_LOG}"


def migrate_embedded() -> None:
    """Bring SQLite's tables up to date; any other database is migrated by its operator."""
    if connection.vendor == "sqlite":
        with _alone(os.path.dirname(os.path.abspath(connection.settings_dict["NAME"]))):
            call_command("migrate", verbosity=0, interactive=False)


@contextlib.contextmanager
def _alone(directory: str) -> Iterator[None]:
    """No other process that asks is in here at the same time."""
    file = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
