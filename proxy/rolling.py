"""Workers replaced one by one: a successor starts and is ready before its predecessor leaves. Part of the supervisor.

At SIGUSR2 all are replaced, by processes of the code now on disk; a worker that gets SIGTERM is replaced alone.
"""

import logging
import os
import signal
from collections import deque
from dataclasses import dataclass
from math import inf
from time import monotonic

from proxy import worker
from proxy.reload_workers import Audience

START_LIMIT = 30.0  # seconds that a successor has until it is ready
SETTLE = 0.2  # seconds: SIGTERM to a whole process group comes to workers before it comes to the supervisor

logger = logging.getLogger("proxy.rolling")


@dataclass
class Member:
    """What the supervisor knows of a worker's process."""

    number: int
    """From 0; a successor has its predecessor's."""
    slot: int
    """Of the counters (`stats`)."""
    fresh: bool = False
    """Does it run what was on disk when it began, not what the supervisor has loaded?"""
    pid: int = 0
    """0 while there is none."""
    started: float = 0.0
    due: float = 0.0
    """When the next one starts, if it dies; both by the monotonic clock."""
    delay: float = 0.0
    """Seconds from the last one's death until then."""

    @property
    def name(self) -> str:
        return worker.name(self.number, self.pid)


class Rolling:
    """Who is to be replaced, and how far that is. `members` is the supervisor's list: those that serve.

    Beside them there is never more than one process: a successor that starts, or a predecessor that leaves.
    """

    def __init__(self, members: list[Member], audience: Audience, leave_limit: float) -> None:
        self._members = members
        self._audience = audience
        self._leave_limit = leave_limit
        self._spare = len(members)
        self._queue: deque[Member] = deque()
        self._all = False
        self._again = False
        self._late = False
        self._settled = 0.0
        self._limit = inf
        self.successor: Member | None = None
        self.leaving: Member | None = None

    @property
    def deadline(self) -> float:
        """When `look` must be called, by the monotonic clock."""
        if self.others:
            return self._limit
        return self._settled if self._queue else inf

    @property
    def others(self) -> list[Member]:
        """The process beside the members, if there is one."""
        return [each for each in (self.successor, self.leaving) if each]

    def replace_all(self) -> None:
        """Now, or once more after those that are being replaced: what is on disk may have changed since they began."""
        busy = self.others or self._queue
        self._audience.gather("after those that are being replaced" if busy else "at once")
        self._again = True
        self._go_on()

    def replace(self, pid: int) -> None:
        """One that was asked to end, by one of the same code."""
        for member in self._members:
            if member.pid == pid and member not in self._queue and not self._is_replaced(member):
                self._queue.append(member)
                self._settled = monotonic() + SETTLE

    def _is_replaced(self, member: Member) -> bool:
        return self.successor is not None and self.successor.number == member.number

    def look(self) -> Member | None:
        """The successor that is to be started now, if one is; kills what took too long."""
        now = monotonic()
        if self.others:
            if now >= self._limit:
                self._kill()
            return None
        if not self._queue or now < self._settled:
            return None
        old = self._queue.popleft()
        self.successor = Member(old.number, self._spare, self._all or old.fresh, started=now)
        self._limit = now + START_LIMIT
        return self.successor

    def _kill(self) -> None:
        self._limit = inf
        self._late = True
        for member in self.others:
            logger.error(
                "%s took too long to %s: killed", member.name, "start" if member is self.successor else "leave"
            )
            os.kill(member.pid, signal.SIGKILL)

    def on_ready(self, pid: int) -> None:
        """A worker says that it can do all its work."""
        new = self.successor
        if new is None or new.pid != pid:
            return
        old, self._members[new.number] = self._members[new.number], new
        self.successor, self._spare = None, old.slot
        if old.pid:
            self.leaving = old
            self._limit = monotonic() + self._leave_limit
            os.kill(old.pid, worker.LEAVE)
            self._say("%s leaves, pid %d has taken over", old.name, pid)
        else:
            self._say("worker %d: pid %d has taken over", new.number + 1, pid)
        self._go_on()

    def on_death(self, member: Member, how: str) -> bool:
        """False if it was one of those that serve."""
        if member is self.successor:
            self.on_failure(f"{how} before it was ready")
        elif member is self.leaving:
            self.leaving, self._late = None, False
            logger.info(how)
            self._go_on()
        else:
            return False
        return True

    def on_failure(self, why: str) -> None:
        """The successor isn't to be had."""
        assert self.successor
        number = self.successor.number
        if self._late:
            why = f"it wasn't ready within {START_LIMIT:g} s"
        self.successor, self._late = None, False
        self._queue.clear()
        logger.error("worker %d goes on as it is, its successor failed: %s", number + 1, why)
        if self._all:
            self._all = False
            logger.error("replacing workers: stopped")
            self._audience.end(f"failed: worker {number + 1} goes on as it is, its successor failed: {why}")
        self._go_on()

    def end(self) -> None:
        """All workers end."""
        self._audience.end("failed: the proxy ends")

    def _go_on(self) -> None:
        if self.others or self._queue:
            return
        if self._all:
            self._all = False
            self._say("replacing workers: done")
            self._audience.end("done")
        if self._again:
            self._again, self._all = False, True
            self._queue.extend(self._members)
            self._audience.begin()
            self._say("replacing workers: %d, one by one", len(self._members))

    def _say(self, message: str, *values: object) -> None:
        logger.info(message, *values)
        self._audience.say(message % values)
