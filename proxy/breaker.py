"""A circuit breaker: a backend that gives no answers isn't asked for a while, then by one callback at a time.

Used by `upstream`. Closed: all pass. Open, after `limit` callbacks in a row without an answer: none passes. Half-open,
after a pause: one passes as a probe. Its answer closes the breaker; without one the next pause is twice as long.
"""

import logging
import math
from time import monotonic

from proxy.exceptions import BackendBusy
from proxy.stats import stats

FIRST_PAUSE = 1.0  # seconds
MAX_PAUSE = 10.0  # seconds
PROBE_LIMIT = 10.0  # seconds without an answer, after which there is another probe: callback.timeout may be none

logger = logging.getLogger("proxy.backend")


class Breaker:
    """That of one backend, which `place` names in the log."""

    def __init__(self, place: str, limit: int) -> None:
        self._place = place
        self._limit = limit
        self._failures = 0
        self._pause = 0.0
        """Seconds; 0: it is closed."""
        self._until = 0.0
        self._probing = False
        self._probe_until = 0.0
        self._opened_at = 0.0
        self.refused = 0
        """Callbacks that weren't made since it opened."""

    @property
    def is_open(self) -> bool:
        return self._pause > 0

    def refusal(self) -> BackendBusy:
        """What they get who can't pass now."""
        seconds = max(1, math.ceil(self._until - monotonic()))
        return BackendBusy(f"{self._place} gives no answers and isn't asked for {seconds}s", seconds)

    def enter(self) -> bool:
        """Pass, or raise BackendBusy. True: as a probe, and `leave` must follow, whatever becomes of it."""
        if not self.is_open:
            return False
        now = monotonic()
        if now < self._until or (self._probing and now < self._probe_until):
            raise self.refusal()
        self._probing = True
        self._probe_until = now + PROBE_LIMIT
        return True

    def leave(self) -> None:
        """The probe is over. If it was cancelled before it was answered, the next callback is one."""
        self._probing = False

    def answered(self, probe: bool) -> None:
        """The backend lives. Late answers to what was asked before it failed don't count."""
        self._failures = 0
        if probe and self.is_open:  # there may be another probe, later than one that hung
            self._pause = 0.0
            stats.backends_failing -= 1
            logger.warning("backend %s: answers again; %d callbacks weren't made meanwhile", self._place, self.refused)

    def failed(self, probe: bool, asked: float = math.inf) -> bool:
        """No answer to what was `asked` then, by the monotonic clock. True when this opens the breaker.

        What was asked before it opened last says nothing about a backend that has answered since.
        """
        if probe:
            if self.is_open:
                self._open(min(2 * self._pause, MAX_PAUSE))
        elif not self.is_open and asked > self._opened_at:
            self._failures += 1
            if self._limit and self._failures >= self._limit:
                self._open(FIRST_PAUSE)
                self.refused = 0
                stats.backends_failing += 1
                stats.backend_failures += 1
                logger.error("backend %s: %d callbacks in a row without an answer", self._place, self._failures)
                return True
        return False

    def _open(self, pause: float) -> None:
        self._pause = pause
        self._opened_at = monotonic()
        self._until = self._opened_at + pause
