"""Pings that find dead connections: one timer for all, each connection in turn. Used by websocket.py."""

import asyncio
from typing import Protocol

INTERVAL = 20.0  # seconds from one ping of a connection to the next; also how long it has to answer


class Pinged(Protocol):
    """A connection that can be pinged."""

    def on_ping_due(self) -> None:
        """Send a ping, or give up if nothing came since the last one."""


class KeepAlive:
    """Spreads connections over slots; every tick is one slot's turn, so that each one's comes once in INTERVAL."""

    SLOTS = 20

    def __init__(self) -> None:
        self._slots: list[set[Pinged]] = [set() for _ in range(self.SLOTS)]
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Pinged) -> set[Pinged]:
        """Put a connection into a slot and return that; discarding it there ends the pings."""
        if self._timer is None:
            self._schedule()
        slot = self._slots[self._turn]  # had its turn last, so that the first ping comes after a whole INTERVAL
        slot.add(connection)
        return slot

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL / self.SLOTS, self._tick)

    def _tick(self) -> None:
        self._schedule()
        self._turn = (self._turn + 1) % self.SLOTS
        for connection in tuple(self._slots[self._turn]):
            connection.on_ping_due()
