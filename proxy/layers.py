"""The channel layer of one process: which of its connections belong to which group.

A normal Channels layer, of O(1) per operation, plus what `delivery` and `ownership` need: a channel may have a receiver
attached, which is then called directly, in the sender's turn, and answers. `cluster` puts Redis behind it.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from proxy.events import Event, is_valid
from proxy.exceptions import DeliveryError, SessionNotFound
from proxy.outcomes import Outcome, settle

MIN_SWEEP = 1000  # channels with messages, from which on it is looked for expired ones

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
        self._waiting: Counter[str] = Counter()
        self._sweep_at = MIN_SWEEP
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
        queue = self._queue(channel)
        self._waiting[channel] += 1
        try:
            while True:
                expires, message = await queue.get()
                if expires > time.monotonic():
                    return message
        finally:
            self._waiting -= Counter([channel])
            if queue.empty() and not self._waiting[channel]:
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

    def must_wait(self, group: str, size: int) -> bool:
        """Should a request of so many bytes to this group wait for `room`, because too much is under way?"""
        return False

    async def room(self, size: int) -> None:
        """Wait until less is under way. Raises ClusterUnreachable if that takes too long."""

    def problems(self) -> list[str]:
        """What keeps it from doing all its work, now."""
        return []

    def links(self) -> tuple[int, int]:
        """How many connections to what it needs there are, and how many are missing."""
        return 0, 0

    def under_way(self) -> int:
        """How many requests to other processes wait for their answers."""
        return 0

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
        queue = self._queue(channel)
        try:
            queue.put_nowait((time.monotonic() + self.expiry, deepcopy(message)))
        except asyncio.QueueFull:
            raise ChannelFull(channel) from None

    def _queue(self, channel: str) -> asyncio.Queue[tuple[float, Event]]:
        queue = self._queues.get(channel)
        if queue is None:
            if len(self._queues) >= self._sweep_at:
                self._drop_expired()
            queue = self._queues[channel] = asyncio.Queue(self.get_capacity(channel))
        return queue

    def _drop_expired(self) -> None:
        """Messages for channels that nobody reads any more."""
        now = time.monotonic()
        for channel, queue in list(self._queues.items()):
            if not self._waiting[channel] and max((expires for expires, _ in queue._queue), default=0) < now:  # type: ignore[attr-defined]
                del self._queues[channel]
        self._sweep_at = max(MIN_SWEEP, 2 * len(self._queues))

    def _leave(self, group: str, channel: str) -> None:
        members = self._groups.get(group)
        if members is not None:
            members.pop(channel, None)
            if not members:
                del self._groups[group]
