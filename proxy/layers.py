"""The channel layer: which connections of this process belong to which group.

A normal Channels layer, of O(1) per operation, plus one extension: a channel may have a receiver attached, which is
then called directly, in the sender's turn, and answers. `delivery` is its only caller; consumers join and leave.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from copy import deepcopy
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

Event = dict[str, Any]
Outcome = Awaitable[None] | None
"""What became of an event: None is done; an awaitable ends when it is, or raises DeliveryError."""

Receiver = Callable[[Event], Outcome]


class LocalChannelLayer(BaseChannelLayer):
    """The embedded default: one process, no network."""

    extensions = ("groups", "flush")

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
        for channel, receiver in list(self._groups.get(group, {}).items()):
            if receiver:
                receiver(message)
                continue
            try:
                self._put(channel, message)
            except ChannelFull:
                continue  # Channels' specification: a full member misses the message, the others get it

    async def flush(self) -> None:
        self._queues.clear()
        self._receivers.clear()
        self._groups.clear()
        self._memberships.clear()

    # Direct receivers

    def attach(self, channel: str, receiver: Receiver) -> None:
        """Have the events of this channel's groups handed to `receiver`. Call before `group_add`."""
        self._receivers[channel] = receiver

    def detach(self, channel: str) -> None:
        """Take the channel out of all its groups, at once."""
        self._receivers.pop(channel, None)
        for group in self._memberships.pop(channel, ()):
            self._leave(group, channel)

    def has_receivers(self, group: str) -> bool:
        return group in self._groups

    def request(self, group: str, message: Event) -> list[Outcome]:
        """Hand an event to every receiver of the group; empty: there is none. Raises what a receiver raises."""
        members = self._groups.get(group)
        if members is None:
            return []
        # A receiver may leave its groups while it is called.
        return [receiver(message) for receiver in tuple(members.values()) if receiver]

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
