"""Keeps a backend of few workers from more callbacks at once than it can take. Used by `upstream`.

What is over the limit waits in line: establish first, then connect, receive, close. One turn in FAIR goes to whoever
has waited longest, so that a storm of connects doesn't stop everything else.
"""

import asyncio
import itertools
from collections.abc import Mapping

from proxy.exceptions import BackendBusy
from proxy.stats import stats

ORDER = ("establish", "connect", "receive", "close")
"""Who goes first. A session that is half open has a worker's answer already, so establish is before connect."""
FAIR = 4
RETRY_AFTER = 1  # seconds


class Shield:
    """The turns of one backend. `limit` is for all kinds together, `limits` and `waiting` for each of them."""

    def __init__(self, limit: int, limits: Mapping[str, int], waiting: Mapping[str, int]) -> None:
        self._limit = limit
        self._limits = limits
        self._waiting = waiting
        self._under_way = dict.fromkeys(ORDER, 0)
        self._total = 0
        # With the number that says who came first.
        self._lines: dict[str, dict[asyncio.Future[None], int]] = {kind: {} for kind in ORDER}
        self._numbers = itertools.count()
        self._turns = 0

    async def enter(self, kind: str, patience: float | None) -> None:
        """Wait for a turn, `patience` seconds at most; `leave` ends it. Raises BackendBusy when there is none."""
        if self._has_room(kind):
            self._take(kind)
            return
        line = self._lines[kind]
        if len(line) >= self._waiting[kind]:
            raise BackendBusy(f"{kind}: expected a place in line, found {len(line)} that wait", RETRY_AFTER)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line[turn] = next(self._numbers)
        stats.callbacks_waiting += 1
        try:
            async with asyncio.timeout(patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self.leave(kind)  # the turn came just when nobody wanted it any more
            if isinstance(error, TimeoutError):
                raise BackendBusy(f"{kind}: expected a turn within {patience:g}s, found none", RETRY_AFTER) from None
            raise
        finally:
            line.pop(turn, None)
            stats.callbacks_waiting -= 1

    def leave(self, kind: str) -> None:
        """A turn is over: the next ones' begin."""
        self._under_way[kind] -= 1
        self._total -= 1
        while following := self._next():
            turn = next(iter(self._lines[following]))
            del self._lines[following][turn]
            if not turn.done():  # else it was cancelled, and hasn't noticed yet
                self._take(following)
                turn.set_result(None)

    def clear(self, error: BackendBusy) -> None:
        """Nobody shall wait any longer."""
        for line in self._lines.values():
            for turn in line:
                if not turn.done():
                    turn.set_exception(error)
            line.clear()

    def _has_room(self, kind: str) -> bool:
        return self._total < self._limit and self._under_way[kind] < self._limits[kind]

    def _take(self, kind: str) -> None:
        self._under_way[kind] += 1
        self._total += 1

    def _next(self) -> str | None:
        able = [kind for kind in ORDER if self._lines[kind] and self._has_room(kind)]
        if not able:
            return None
        self._turns += 1
        if self._turns % FAIR == 0:
            return min(able, key=lambda kind: next(iter(self._lines[kind].values())))
        return able[0]
