"""Which connection has a session key: a connection's membership in its key's group, and its claim to the key.

One connection at a time gets what is sent to a key, in the whole cluster. A connection that comes says so in a claim,
to all members of the group, its own included. Redis brings the claims to everybody in one order, and that decides,
without any clock: the last claim wins (`replace`), or the first (`reject`). While a connection's own claim hasn't come
back to it, it gets nothing and gives nothing up. Contract: GET connect 5.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from enum import Enum

from proxy.events import CLAIM, SHARED, Event, claim_event
from proxy.exceptions import ClusterLost, DeliveryError, SessionNotFound, SessionTaken
from proxy.layers import LocalChannelLayer, Receiver
from proxy.outcomes import Outcome


class _State(Enum):
    WAITING = "its claim isn't out yet"
    CLAIMED = "its claim was heard, so others have to reckon with it; it doesn't own the key yet"
    OWNER = "it gets what is sent to the key"
    REPLACED = "another one owns the key"


_OWNER = _State.OWNER  # Python 3.11 looks an enum's members up slowly


class Membership:
    """`receive` gets the key's events while the connection owns it; `on_replaced` is called when another one does.

    `policy` is the option duplicate_session.
    """

    __slots__ = ("_channel", "_connection", "_group", "_layer", "_on_replaced", "_policy", "_receive", "_since",
                 "_state")  # fmt: skip

    def __init__(
        self,
        layer: LocalChannelLayer,
        group: str,
        connection: str,
        policy: str,
        receive: Receiver,
        on_replaced: Callable[[], None],
    ) -> None:
        self._layer = layer
        self._group = group
        self._connection = connection
        self._policy = policy
        self._receive = receive
        self._on_replaced = on_replaced
        self._since = time.time()
        self._channel = ""
        self._state = _State.WAITING

    async def join(self) -> None:
        """From here on the key's events come here. Raises SessionTaken, ClusterUnreachable; ClusterLost."""
        layer = self._layer
        self._channel = await layer.new_channel()
        layer.attach(self._channel, self.on_event)
        try:
            await layer.enter(self._group, self._channel, self._settle)
            if self._state is _State.WAITING:
                await self._claim()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """No event comes here any more."""
        self._layer.detach(self._channel)

    def on_event(self, event: Event) -> Outcome:
        """The layer's receiver. Raises SessionNotFound, SessionTaken, and what `receive` raises."""
        kind = event["type"]
        if kind == CLAIM:
            self._on_claim(event)
            return None
        if kind == SHARED:
            return asyncio.ensure_future(self._claim_late())
        if self._state is not _OWNER:
            raise SessionNotFound
        return self._receive(event)

    def _settle(self, alone: bool) -> None:
        if alone or self._policy == "join":
            self._state = _State.OWNER

    async def _claim(self) -> None:
        errors = await self._layer.request_all(self._group, claim_event(self._connection, self._since, fresh=True))
        for error in errors:
            if isinstance(error, SessionTaken | ClusterLost):
                raise error
        # Others that didn't answer are dead, or stand still, and take the claim as a late one when they go on.
        if self._state is _State.CLAIMED:
            self._state = _State.OWNER
        elif self._state is _State.WAITING:
            raise ClusterLost

    def _on_claim(self, event: Event) -> None:
        if event["connection"] == self._connection:
            if self._state is _State.WAITING:
                # Who may be rejected waits for all answers before it gets anything.
                self._state = _State.CLAIMED if self._policy == "reject" else _State.OWNER
        elif self._state not in (_State.CLAIMED, _State.OWNER) or self._policy == "join":
            return
        elif event["fresh"]:
            if self._policy == "reject":
                raise SessionTaken
            self._give_up()
        elif (event["since"], event["connection"]) > (self._since, self._connection):
            self._give_up()
        else:  # whoever claimed that has to know better
            self._layer.announce(self._group, claim_event(self._connection, self._since, fresh=False))

    def _give_up(self) -> None:
        self._state = _State.REPLACED
        self._on_replaced()

    async def _claim_late(self) -> None:
        """After a gap in the connection to Redis somebody else may have the key as well: the newer one wins."""
        if self._state is _State.OWNER and self._policy != "join":
            with contextlib.suppress(DeliveryError):
                await self._layer.request_all(self._group, claim_event(self._connection, self._since, fresh=False))
