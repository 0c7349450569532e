"""The channel layer of a cluster: events go to sessions in any process, and come back with what became of them.

An event for a group goes to the group's channel on Redis; each process that has members there answers to the sender's
inbox. PUBLISH says how many processes that are: none means that there is no such session, at once.
"""

import asyncio
from collections.abc import Callable, Iterable
from reprlib import repr as short
from time import monotonic
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import _wrap_close

from proxy import envelope, events
from proxy.envelope import BadEnvelope
from proxy.events import Event
from proxy.exceptions import ClusterLost, ClusterUnreachable, DeliveryError, SessionNotFound
from proxy.freshness import Freshness
from proxy.layers import LocalChannelLayer
from proxy.link import LOST
from proxy.outcomes import Outcome, decide, settle
from proxy.redis_connection import ignore
from proxy.redis_layer import RedisLayer
from proxy.requests import LATER, OK, STALE, Request, Requests, name_of
from proxy.shard import Shard
from proxy.stats import stats


class ClusterLayer(RedisLayer):
    """The layer of one event loop. `timeout` is also for another process's answer, `wait_limit` for one that was said
    to come later, in seconds. `join`: all connections of a key get what is sent to it, wherever they are."""

    def __init__(self, *, timeout: float, wait_limit: float, join: bool, **config: Any) -> None:
        self._join = join
        self._requests = Requests(timeout, wait_limit)
        self._freshness = Freshness(timeout)
        self._packed: tuple[Event, bytes] = ({}, b"")
        self._unpacked: tuple[bytes | None, Event] = (None, {})
        super().__init__(timeout=timeout, **config)

    async def enter(self, group: str, channel: str, settled: Callable[[bool], None]) -> None:
        if not self.started:
            await self.start()
        shard = self._shard(group)
        name = self._redis_group(group)
        counted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def on_count(reply: Any) -> None:
            # In this turn, so that no event that comes after it is met by a member that doesn't know yet.
            subscribed = reply is not LOST and reply[1] > 0
            if subscribed:
                settled(reply[1] == 1 and len(self._groups.get(group, ())) == 1)
            if not counted.done():
                counted.set_result(subscribed)

        if group not in self._groups:
            shard.subscribe(name)
        await LocalChannelLayer.group_add(self, group, channel)
        # Its answer says that the SUBSCRIBE before it was carried out.
        shard.call(on_count, b"PUBSUB", b"NUMSUB", name)
        if not await counted:
            raise ClusterLost

    def must_wait(self, group: str, size: int) -> bool:
        return self._requests.crowded and (self._join or group not in self._groups) and self._requests.full(size)

    async def room(self, size: int) -> None:
        await self._requests.room(size)

    def under_way(self) -> int:
        return len(self._requests)

    def request(self, group: str, message: Event) -> Outcome:
        if group not in self._groups:
            return self._ask(group, message, echo=False).future
        if self._join:
            return self._request_joined(group, message)
        try:
            return super().request(group, message)
        except SessionNotFound:
            # A connection here waits for the key; its claim may be heard before the event that we send now.
            return self._ask(group, message, echo=True).future

    def _request_joined(self, group: str, message: Event) -> Outcome:
        """To the members here, and to those elsewhere."""
        outcomes, errors = self._call_all(group, message)
        try:
            elsewhere = self._ask(group, message, echo=False, for_all=True)
        except DeliveryError as error:
            return settle(outcomes, [*errors, error])
        joined = asyncio.ensure_future(_join(outcomes, errors, elsewhere))
        joined.add_done_callback(_retrieve)
        return joined

    async def request_all(self, group: str, message: Event) -> list[DeliveryError]:
        request = self._ask(group, message, echo=True, for_all=True, objections=True)
        await asyncio.wait([request.future])
        return request.errors

    def announce(self, group: str, message: Event) -> None:
        payload = envelope.pack(envelope.ANNOUNCE, inbox=self._inbox, event=envelope.pack_event(message))
        self._shard(group).call(ignore, b"PUBLISH", self._redis_group(group), payload)

    async def missing(self, groups: Iterable[str]) -> set[str]:
        asked: dict[Shard, list[str]] = {}
        for group in await super().missing(groups):
            asked.setdefault(self._shard(group), []).append(group)
        answers = await asyncio.gather(*[shard.absent(map(self._redis_group, some)) for shard, some in asked.items()])
        absent = set().union(*answers)
        return {group for some in asked.values() for group in some if self._redis_group(group) in absent}

    def _ask(
        self, group: str, message: Event, *, echo: bool, for_all: bool = False, objections: bool = False
    ) -> Request:
        """Send a request to the other processes. Raises ClusterUnreachable.

        `echo`: it comes back to this process like to any other, and then our members are asked as well. `for_all`: wait
        for all processes. `objections`: one member that objects makes a process's answer an error.
        """
        if message is not self._packed[0]:  # the same event goes to many groups
            self._packed = message, envelope.pack_event(message)
        own = 0 if echo or group not in self._groups else 1
        request = self._requests.new(echo, for_all, len(self._packed[1]))
        kind = envelope.REQUEST_ALL if objections else envelope.REQUEST
        payload = envelope.pack(
            kind, inbox=self._inbox, id=request.number, clock=self.clock, at=monotonic(), event=self._packed[1]
        )
        try:
            self._shard(group).publish(self._requests.expect, request, self._redis_group(group), payload, own)
        except DeliveryError as error:
            self._requests.fail(request, error)
            raise
        return request

    # From Redis

    def _take(self, shard: Shard, channel: str, kind: str, found: dict[str, Any]) -> None:
        if kind == envelope.PRESENT:
            self._is_stale(found)  # so that something is known of each sender
            super()._take(shard, channel, kind, found)
        elif kind == envelope.REPLIES:
            for number, outcome in envelope.replies(found):
                if outcome == STALE and self._requests.get(number):
                    self.clock += 1  # it wasn't late, or we wouldn't wait for it any more: our clock has jumped
                self._requests.answer(number, outcome)
        elif kind in (envelope.REQUEST, envelope.REQUEST_ALL):
            self._take_request(shard, channel.removeprefix(self._group_prefix), found)
        elif kind == envelope.ANNOUNCE:
            self._call_all(channel.removeprefix(self._group_prefix), self._event(found))
        else:
            super()._take(shard, channel, kind, found)

    def _event(self, found: dict[str, Any]) -> Event:
        """The event that a message carries. Raises BadEnvelope."""
        if found["event"] != self._unpacked[0]:  # the same event comes for many groups
            event = envelope.unpack_event(found["event"])
            if not events.is_valid(event):
                expected = "expected an event for a session"
                raise BadEnvelope(f"{expected}, found {short(event.get('type')):.40} that can't be used")
            self._unpacked = found["event"], event
        return self._unpacked[1]

    def _is_stale(self, found: dict[str, Any]) -> bool:
        return self._freshness.is_stale(b"%s %d" % (found["inbox"], found["clock"]), found["at"])

    def _take_request(self, shard: Shard, group: str, found: dict[str, Any]) -> None:
        inbox, number = found["inbox"], found["id"]
        own = inbox == self._inbox
        if own:
            request = self._requests.get(number)
            if request is None or not request.echo:
                return
        elif self._is_stale(found):
            stats.stale_requests += 1
            if found["kind"] == envelope.REQUEST_ALL:
                self._call_all(group, events.late(self._event(found)))
            shard.reply(inbox, number, STALE)
            return
        elif group in self._returning and found["kind"] == envelope.REQUEST:
            shard.reply(inbox, number, name_of(ClusterUnreachable()))
            return

        def answer(outcome: str) -> None:
            if own:
                self._requests.answer(number, outcome)
            else:
                shard.reply(inbox, number, outcome)

        event = self._event(found)
        try:
            if found["kind"] == envelope.REQUEST_ALL:
                outcome = None
                if errors := self._call_all(group, event)[1]:
                    raise decide(errors)
            else:
                outcome = super().request(group, event)
        except DeliveryError as error:
            answer(name_of(error))
            return
        if outcome is None:
            answer(OK)
        else:
            answer(LATER)
            outcome.add_done_callback(lambda done: answer(_name_of_outcome(done)))


class RedisChannelLayer(RedisPubSubChannelLayer):
    """channels_redis' pub/sub layer, with a ClusterLayer for each event loop in the place of its own."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self._config = config

    def for_loop(self) -> ClusterLayer:
        """The layer of the running event loop."""
        loop = asyncio.get_running_loop()
        layer: ClusterLayer | None = self._layers.get(loop)
        if layer is None:
            layer = self._layers[loop] = ClusterLayer(**self._config)
            _wrap_close(self, loop)
        return layer

    _get_layer = for_loop


async def _join(outcomes: list[Outcome], errors: list[DeliveryError], elsewhere: Request) -> None:
    """Wait for those elsewhere in any case, so that what is sent next, from there, can't overtake this."""
    await asyncio.wait([elsewhere.future])
    if elsewhere.future.exception() and (here := settle(outcomes, [*errors, *elsewhere.errors])):
        await here


def _retrieve(done: asyncio.Future[None]) -> None:
    """It is no mistake if nobody waits for it any more."""
    if not done.cancelled():
        done.exception()


def _name_of_outcome(outcome: asyncio.Future[None]) -> str:
    error = None if outcome.cancelled() else outcome.exception()
    if error is None:
        return OK
    return name_of(error) if isinstance(error, DeliveryError) else "closed"
