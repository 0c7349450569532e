"""One answer that goes on and on, handed on as it comes in: what `tailing` reads of a node's API."""

import asyncio
from collections.abc import Callable

from proxy.http_connection import Connection, Keeper


class Stream(Connection):
    """A connection whose answer isn't kept, if it is a 200: each piece of its body goes to `on_piece`.

    `silence` is how many seconds there may be without one.
    """

    __slots__ = ("_on_piece", "_silence")

    def __init__(
        self, keeper: Keeper, loop: asyncio.AbstractEventLoop, on_piece: Callable[[bytes], None], silence: float
    ) -> None:
        super().__init__(keeper, loop)
        self._on_piece = on_piece
        self._silence = silence

    def on_body(self, body: bytes) -> None:
        if self._status != 200:
            super().on_body(body)
            return
        self._unread = 0
        self._until = self._loop.time() + self._silence
        self._on_piece(body)
