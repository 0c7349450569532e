"""Looks at all of a set, again and again, by one timer: one for each costs more. Base of idle and http_keepalive."""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Sweeper(Generic[T]):
    """Sweeps every `period` seconds, while there is something to look at."""

    def __init__(self, period: float) -> None:
        self._period = period
        self.members: dict[T, None] = {}
        """In the order in which they came."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, member: T) -> None:
        self.members[member] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._period, self._on_timer)

    def discard(self, member: T) -> None:
        self.members.pop(member, None)

    def sweep(self) -> None:
        """Look at the members; they may be discarded meanwhile, so go through a copy."""
        raise NotImplementedError

    def _on_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._period, self._on_timer) if self.members else None
        self.sweep()
