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
        self._probes = 0
        self._probes_before = 0
        """Those from before it opened last."""
        self._probe = 0
        """The number of the newest one, which the others have made way for; 0: it is over."""
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

    def enter(self) -> int:
        """Pass, or raise BackendBusy. Not 0: as the probe of this number; `leave` must follow, whatever comes of it."""
        if not self.is_open:
            return 0
        now = monotonic()
        if now < self._until or (self._probe and now < self._probe_until):
            raise self.refusal()
        self._probe = self._probes = self._probes + 1
        self._probe_until = now + PROBE_LIMIT
        return self._probe

    def leave(self, probe: int) -> None:
        """The probe is over. If it was cancelled before it was answered, the next callback is one."""
        if probe == self._probe:  # else it has made way for another, which goes on
            self._probe = 0

    def answered(self, probe: int) -> None:
        """The backend lives. Late answers to what was asked before it failed don't count."""
        self._failures = 0
        if probe > self._probes_before and self.is_open:  # there may be another probe, later than one that hung
            self._pause = 0.0
            stats.backends_failing -= 1
            logger.warning("backend %s: answers again; %d callbacks weren't made meanwhile", self._place, self.refused)

    def failed(self, probe: int, asked: float = math.inf) -> bool:
        """No answer to what was `asked` then, by the monotonic clock. True when this opens the breaker.

        What was asked before it opened last says nothing about a backend that has answered since, and a probe that has
        made way for another nothing about that one.
        """
        if probe:
            if self.is_open and probe == self._probe:
                self._open(min(2 * self._pause, MAX_PAUSE))
        elif not self.is_open and asked > self._opened_at:
            self._failures += 1
            if self._limit and self._failures >= self._limit:
                self._open(FIRST_PAUSE)
                self._probe, self._probes_before = 0, self._probes
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
