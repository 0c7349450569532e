"""The channel layer of one process: which of its connections belong to which group.

A normal Channels layer, of O(1) per operation, plus what `delivery` and `ownership` need: a channel may have a receiver
attached, which is then called directly, in the sender's turn, and answers. `cluster` puts Redis behind it.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from proxy.events import Event, is_valid
from proxy.exceptions import DeliveryError, SessionNotFound

Outcome = asyncio.Future[None] | None
"""What became of an event: None is done; a future ends when it is, or with a DeliveryError."""

Receiver = Callable[[Event], Outcome]
"""Takes an event; raises DeliveryError."""


class LocalChannelLayer(BaseChannelLayer):
    """The embedded default: one process, no network."""

    extensions = ("groups", "flush")
    started = True
    """Has it tried to reach what it needs? If not, `start` does."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.channel_capacity: Any = self.compile_capacities(config.get("channel_capacity") or {})
        self._numbers = itertools.count()
        self._queues: dict[str, asyncio.Queue[tuple[float, Event]]] = {}
        self._receivers: dict[str, Receiver] = {}
        # Group -> its channels; channel -> its groups, so that a channel that goes away is gone from all of them.
        self._groups: dict[str, dict[str, Receiver | None]] = {}
        self._memberships: dict[str, set[str]] = {}

    # Channels' own interface

    async def new_channel(self, prefix: str = "specific") -> str:
        return f"{prefix}!{next(self._numbers):x}"

    async def send(self, channel: str, message: Event) -> None:
        """Raises ChannelFull when nobody takes the messages of this channel."""
        self.require_valid_channel_name(channel)
        self._put(channel, message)

    async def receive(self, channel: str) -> Event:
        self.require_valid_channel_name(channel)
        queue = self._queues.setdefault(channel, asyncio.Queue(self.get_capacity(channel)))
        try:
            while True:
                expires, message = await queue.get()
                if expires > time.monotonic():
                    return message
        finally:
            if queue.empty():
                self._queues.pop(channel, None)

    async def group_add(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self._groups.setdefault(group, {})[channel] = self._receivers.get(channel)
        self._memberships.setdefault(channel, set()).add(group)

    async def group_discard(self, group: str, channel: str) -> None:
        self._leave(group, channel)
        groups = self._memberships.get(channel)
        if groups is not None:
            groups.discard(group)
            if not groups:
                del self._memberships[channel]

    async def group_send(self, group: str, message: Event) -> None:
        self.require_valid_group_name(group)
        self._hand_out(group, message)

    async def flush(self) -> None:
        self._queues.clear()
        self._receivers.clear()
        self._groups.clear()
        self._memberships.clear()

    # Direct receivers

    @property
    def full(self) -> bool:
        """Do events wait for being written? Then senders should wait for `room`."""
        return False

    def for_loop(self) -> "LocalChannelLayer":
        """The layer of the running event loop."""
        return self

    def attach(self, channel: str, receiver: Receiver) -> None:
        """Have the events of this channel's groups handed to `receiver`. Call before `enter`."""
        self._receivers[channel] = receiver

    async def enter(self, group: str, channel: str, settled: Callable[[bool], None]) -> None:
        """Join a group. `settled` is called, with whether there is no other member anywhere, in the very moment from
        which on this channel gets the group's events. Raises ClusterUnreachable."""
        await self.group_add(group, channel)
        settled(len(self._groups[group]) == 1)

    def detach(self, channel: str) -> None:
        """Take the channel out of all its groups, at once."""
        self._receivers.pop(channel, None)
        for group in self._memberships.pop(channel, ()):
            self._leave(group, channel)

    def request(self, group: str, message: Event) -> Outcome:
        """Hand an event to the receivers of a group: done as soon as one has taken it.

        Raises SessionNotFound if there is none, or what the receivers raise, as does the outcome if none takes it.
        """
        members = self._groups.get(group)
        if members is None:
            raise SessionNotFound
        if len(members) == 1:
            (receiver,) = members.values()
            if receiver is None:
                raise SessionNotFound
            return receiver(message)
        return settle(*self._call_all(group, message))

    async def request_all(self, group: str, message: Event) -> list[DeliveryError]:
        """Hand an event to every receiver, in an order that is the same everywhere; what those said who didn't take it.

        Raises ClusterUnreachable.
        """
        return self._call_all(group, message)[1]

    def announce(self, group: str, message: Event) -> None:
        """Hand an event to every receiver, without waiting for anything."""
        self._call_all(group, message)

    async def missing(self, groups: Iterable[str]) -> set[str]:
        """Those that have no member anywhere. Raises ClusterUnreachable."""
        return {group for group in groups if group not in self._groups}

    async def start(self) -> None:
        """Reach what it needs, or try to."""

    async def room(self) -> None:
        """Wait until `full` is over."""

    def problems(self) -> list[str]:
        """What keeps it from doing all its work, now."""
        return []

    def is_unreachable(self) -> bool:
        """Is nobody to be reached, so that no session can begin?"""
        return False

    def _call_all(self, group: str, message: Event) -> tuple[list[Outcome], list[DeliveryError]]:
        outcomes: list[Outcome] = []
        errors: list[DeliveryError] = []
        # A receiver may leave its groups while it is called.
        for receiver in tuple(self._groups.get(group, {}).values()):
            if receiver:
                try:
                    outcomes.append(receiver(message))
                except DeliveryError as error:
                    errors.append(error)
        return outcomes, errors

    def _hand_out(self, group: str, message: Event) -> None:
        for channel, receiver in list(self._groups.get(group, {}).items()):
            # Channels' specification: a full member misses the message, the others get it.
            with contextlib.suppress(ChannelFull, DeliveryError):
                if receiver is None:
                    self._put(channel, message)
                elif is_valid(message):
                    receiver(message)

    def _put(self, channel: str, message: Event) -> None:
        queue = self._queues.setdefault(channel, asyncio.Queue(self.get_capacity(channel)))
        try:
            queue.put_nowait((time.monotonic() + self.expiry, deepcopy(message)))
        except asyncio.QueueFull:
            raise ChannelFull(channel) from None

    def _leave(self, group: str, channel: str) -> None:
        members = self._groups.get(group)
        if members is not None:
            members.pop(channel, None)
            if not members:
                del self._groups[group]


def decide(errors: list[DeliveryError]) -> DeliveryError:
    """The one error of an event that nobody took: the first that says more than that there is no session."""
    return next((error for error in errors if not isinstance(error, SessionNotFound)), SessionNotFound())


def settle(outcomes: list[Outcome], errors: list[DeliveryError]) -> Outcome:
    """What becomes of an event for several receivers: it is done as soon as one of them has taken it.

    Raises the one error that says most if none takes it.
    """
    if not outcomes:
        raise decide(errors)
    futures = [outcome for outcome in outcomes if outcome]
    if len(futures) < len(outcomes):
        return None
    if len(futures) == 1 and not errors:
        return futures[0]
    first: asyncio.Future[None] = futures[0].get_loop().create_future()
    failed = list(errors)

    def on_done(outcome: asyncio.Future[None]) -> None:
        error = None if outcome.cancelled() else outcome.exception()
        if isinstance(error, DeliveryError):
            failed.append(error)
        if first.done():
            return
        if error is None:
            first.set_result(None)
        elif len(failed) == len(futures) + len(errors):
            first.set_exception(decide(failed))
            first.exception()  # it is no mistake if nobody waits for it any more

    for future in futures:
        future.add_done_callback(on_done)
    return first
