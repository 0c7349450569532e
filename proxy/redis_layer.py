"""Channels' own interface over Redis: the channel layer of one process, with the others behind it.

Every process subscribes to a channel of its own, its inbox, and to one for each group that has members in it; what is
published there is handed out by `_on_message`. `cluster` adds what `delivery` needs beyond Channels.
"""

import asyncio
import logging
import uuid
from collections.abc import Iterable, Iterator
from functools import partial
from reprlib import repr as short
from typing import Any

from channels.exceptions import ChannelFull
from channels_redis.utils import _consistent_hash

from proxy import envelope, events
from proxy.envelope import BadEnvelope
from proxy.events import Event
from proxy.layers import LocalChannelLayer
from proxy.redis_connection import ignore
from proxy.redis_hosts import Host
from proxy.shard import Shard
from proxy.stats import stats

MAX_UNREAD = 10_000  # channels that nobody waits for, over which another process's message begins no further one

logger = logging.getLogger("proxy.cluster")


class RedisLayer(LocalChannelLayer):
    """The layer of one event loop. `timeout`, in seconds, is for Redis."""

    started = False

    def __init__(self, hosts: list[Host], prefix: str, timeout: float, **config: Any) -> None:
        super().__init__(**config)
        self._process = uuid.uuid4().hex
        self._inbox_prefix = f"{prefix}__inbox__"
        self._group_prefix = f"{prefix}__group__"
        self._channel_prefix = f"{prefix}__channel__"
        self._any_inbox = self._inbox_prefix.encode()
        self._inbox = self._any_inbox + self._process.encode()
        self._common = f"{prefix}__processes".encode()
        self._timeout = timeout
        self._hosts = hosts
        # Groups of which it isn't known since the last gap whether another process has them as well by now.
        self._returning: set[str] = set()
        self.clock = 0
        """Which of this process's clocks its messages tell: the next one begins when the monotonic clock has jumped."""
        self._shards: list[Shard] = []
        self._tasks: list[asyncio.Task[None]] = []
        # Channels that no process owns, which this one receives from.
        self._general: set[str] = set()
        self._run()

    async def start(self) -> None:
        """Wait for the first attempt to reach each Redis, whatever comes of it."""
        self._run()
        await asyncio.wait([shard.tried for shard in self._shards])
        self.started = True

    def links(self) -> tuple[int, int]:
        missing = len(self.problems())
        return len(self._shards) - missing, missing

    def problems(self) -> list[str]:
        return [problem for shard in self._shards if (problem := shard.problem())]

    def is_unreachable(self) -> bool:
        return all(shard.problem() for shard in self._shards)

    # Channels' own interface

    async def new_channel(self, prefix: str = "specific") -> str:
        return await super().new_channel(f"{prefix}.{self._process}")

    async def send(self, channel: str, message: Event) -> None:
        """Raises ChannelFull for a full channel of this process, ClusterUnreachable."""
        self.require_valid_channel_name(channel)
        owner, specific, _ = channel.partition("!")
        process = owner.rpartition(".")[2]
        if specific and process == self._process:
            self._put(channel, message)
            return
        to = f"{self._inbox_prefix}{process}".encode() if specific else self._redis_channel(channel)
        await self._publish(channel, to, envelope.pack(envelope.CHANNEL, channel=channel, message=message))

    async def receive(self, channel: str) -> Event:
        self.require_valid_channel_name(channel)
        try:
            if "!" not in channel and channel not in self._general:
                await self.start()
                self._general.add(channel)
                await self._subscribed(channel, self._redis_channel(channel))
            return await super().receive(channel)
        except asyncio.CancelledError:
            # Nobody says that a general channel isn't needed any more, but this: its last consumer ends.
            if channel in self._general and not self._waiting[channel]:
                self._general.discard(channel)
                self._shard(channel).unsubscribe(self._redis_channel(channel))
            raise

    async def group_add(self, group: str, channel: str) -> None:
        """Acknowledged by Redis. Raises RuntimeError for another process's channel, ClusterUnreachable, ClusterLost."""
        owner, specific, _ = channel.partition("!")
        if specific and owner.rpartition(".")[2] != self._process:
            raise RuntimeError(f"expected a channel of this process, made by new_channel(), found {channel!r}")
        await self.start()
        await super().group_add(group, channel)
        await self._subscribed(group, self._redis_group(group))

    async def group_discard(self, group: str, channel: str) -> None:
        await super().group_discard(group, channel)
        self._unsubscribe([group])

    async def group_send(self, group: str, message: Event) -> None:
        """Raises ClusterUnreachable, when the members of this process have it already."""
        await super().group_send(group, message)
        payload = envelope.pack(envelope.GROUP, inbox=self._inbox, message=message)
        await self._publish(group, self._redis_group(group), payload)

    async def flush(self) -> None:
        """Forget everything and leave Redis. What is done afterwards connects anew."""
        await super().flush()
        self._general.clear()
        self._returning.clear()
        tasks, self._tasks, self._shards, self.started = self._tasks, [], [], False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def detach(self, channel: str) -> None:
        groups = tuple(self._memberships.get(channel, ()))
        super().detach(channel)
        self._unsubscribe(groups)

    # To Redis

    def _run(self) -> None:
        if self._shards:
            return
        for index, (name, host) in enumerate(self._hosts):
            shard = Shard(
                name,
                host,
                self._timeout,
                clock=lambda: self.clock,
                inbox=self._inbox,
                common=self._common,
                unused=self._redis_group(""),
                subscriptions=partial(self._subscriptions, index),
                on_message=self._on_message,
                on_back=self._on_back,
                on_checked=self._on_checked,
            )
            self._shards.append(shard)
            self._tasks.append(asyncio.create_task(shard.run()))

    def _shard(self, name: str) -> Shard:
        """The Redis that has this group or general channel."""
        self._run()
        index: int = _consistent_hash(name, len(self._shards))
        return self._shards[index]

    async def _publish(self, name: str, channel: bytes, payload: bytes) -> None:
        if not self.started:
            await self.start()
        self._shard(name).call(ignore, b"PUBLISH", channel, payload)

    async def _subscribed(self, name: str, channel: bytes) -> None:
        """Subscribe, acknowledged: the answer to what follows says that it was carried out."""
        shard = self._shard(name)
        shard.subscribe(channel)
        await shard.ask(b"PING")

    def _unsubscribe(self, groups: Iterable[str]) -> None:
        for group in groups:
            if group not in self._groups and self._shards:
                self._returning.discard(group)  # who has it next comes by a claim of its own
                self._shard(group).unsubscribe(self._redis_group(group))

    def _subscriptions(self, index: int) -> Iterator[bytes]:
        """All that this process should hear from one shard."""
        for names, redis_name in ((self._groups, self._redis_group), (self._general, self._redis_channel)):
            yield from (redis_name(name) for name in names if _consistent_hash(name, len(self._hosts)) == index)

    def _redis_group(self, group: str) -> bytes:
        return f"{self._group_prefix}{group}".encode()

    def _redis_channel(self, channel: str) -> bytes:
        return f"{self._channel_prefix}{channel}".encode()

    # From Redis

    def _on_message(self, shard: Shard, channel: bytes, payload: bytes) -> None:
        try:
            found = envelope.unpack(payload)
            inbox = found.get("inbox", self._inbox)
            known = isinstance(inbox, bytes) and len(inbox) == len(self._inbox)  # some kinds needn't have one
            if not known or not inbox.startswith(self._any_inbox):
                raise BadEnvelope(f"expected an inbox of this cluster, found {short(inbox):.40}")
            self._take(shard, channel.decode(), found["kind"], found)
        except (BadEnvelope, RecursionError) as error:  # the second when Channels' messages are nested too deeply
            stats.bad_envelopes += 1
            # The first, and then ever fewer: whoever writes such a thing writes many of them.
            if stats.bad_envelopes.bit_count() == 1:
                logger.warning("message on Redis dropped, number %d: %s", stats.bad_envelopes, error)
        except Exception:
            logger.exception("unexpected error with a message on Redis")

    def _take(self, shard: Shard, channel: str, kind: str, found: dict[str, Any]) -> None:
        """One message, whose fields are of the types that its kind has. Raises BadEnvelope."""
        if kind == envelope.PRESENT:
            shard.on_present(found["inbox"], found["number"], found["left"])
        elif kind == envelope.CHANNEL:
            name = found["channel"]
            if len(self._queues) - len(self._waiting) >= MAX_UNREAD and name not in self._queues:
                return
            try:
                self._put(name, found["message"])
            except ChannelFull:
                return  # Channels' specification: a message may be lost, and its sender can't be told any more
        elif kind == envelope.GROUP and found["inbox"] != self._inbox:
            self._hand_out(channel.removeprefix(self._group_prefix), found["message"])

    def _on_back(self, channels: list[bytes]) -> None:
        self._returning.update(channel.decode().removeprefix(self._group_prefix) for channel in channels)

    def _on_checked(self, channel: bytes, shared: bool) -> "asyncio.Future[Any] | None":
        group = channel.decode().removeprefix(self._group_prefix)
        outcomes = self._call_all(group, {"type": events.SHARED})[0] if shared else []
        contests = [outcome for outcome in outcomes if outcome]
        if not contests:
            self._returning.discard(group)
            return None
        done = asyncio.gather(*contests, return_exceptions=True)
        done.add_done_callback(lambda _: self._returning.discard(group))
        return done
