"""One Redis of the cluster: the subscriptions and answers of this process, and who else is connected there.

`cluster` has one for each Redis, which has a part of the groups.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from proxy import envelope
from proxy.exceptions import ClusterUnreachable
from proxy.link import LOST, Link, OnReply
from proxy.presence import Presence
from proxy.redis_connection import RedisConnection, fill, ignore

SETTLE_TIME = 0.8  # seconds from a process's first connection on; over the longest delay of a reconnect

UNSURE = object()
"""Nobody has a channel, but a process that may have it is cut off from Redis right now."""

logger = logging.getLogger("proxy.cluster")

OnCount = Callable[[Any, Any], None]
"""Called with what a publication is about, and what became of it."""


class _Publication:
    """A PUBLISH on its way. One object, not closures: hundreds leave in a turn, and the collector looks at each."""

    __slots__ = ("_about", "_on_count", "_own", "_shard", "channel", "payload")

    def __init__(self, shard: "Shard", on_count: OnCount, about: Any, channel: bytes, payload: bytes, own: int) -> None:
        self._shard = shard
        self._on_count = on_count
        self._about = about
        self.channel = channel
        self.payload = payload
        self._own = own

    def __call__(self, count: Any) -> None:
        """Redis's answer to the first try."""
        if count is LOST or count > self._own:
            self.tell(count if count is LOST else count - self._own)
        else:
            self._shard.ask_again(self)

    def on_numsub(self, reply: Any) -> None:
        """The same, when PUBLISH also counts others."""
        self(reply if reply is LOST else reply[1])

    def on_look(self, reply: Any) -> None:
        """Does somebody have the channel by now?"""
        if reply is not LOST and reply[1] > self._own:
            self._shard.publish_again(self)
        else:
            self.tell(UNSURE if reply is LOST else self._shard.surely(0))

    def on_second(self, count: Any) -> None:
        """Redis's answer to the second try."""
        self.tell(count if count is LOST else self._shard.surely(max(0, count - self._own)))

    def tell(self, count: Any) -> None:
        """This became of it."""
        self._on_count(self._about, count)


class Shard(RedisConnection):
    """`clock` says which of its clocks the process uses; `inbox` is its own channel, `common` that of all processes,
    `unused` one that none of them has, `subscriptions` gives the others. After a gap `on_back` is called with those,
    and then `on_checked` for each with whether other processes have it as well; what that returns is waited for."""

    def __init__(
        self,
        name: str,
        host: dict[str, Any],
        timeout: float,
        clock: Callable[[], int],
        inbox: bytes,
        common: bytes,
        unused: bytes,
        subscriptions: Callable[[], Iterable[bytes]],
        on_message: Callable[["Shard", bytes, bytes], None],
        on_back: Callable[[list[bytes]], None],
        on_checked: Callable[[bytes, bool], "asyncio.Future[Any] | None"],
    ) -> None:
        super().__init__(name, host, timeout, inbox.decode())
        self._clock = clock
        self._inbox = inbox
        self._common = common
        self._unused = unused
        self._subscriptions = subscriptions
        self._on_message = on_message
        self._on_back = on_back
        self._on_checked = on_checked
        self._replies: dict[bytes, list[tuple[int, str]]] = {}
        self._presence = Presence(inbox)
        self._complete = True
        self._settled_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._asked_presence = False
        self._listeners = 0
        self._probes = itertools.count()
        self._probe: tuple[int, asyncio.Future[None]] | None = None

    def publish(self, on_count: OnCount, about: Any, channel: bytes, payload: bytes, own: int = 0) -> None:
        """PUBLISH; `on_count` gets `about`, and to how many processes it went, less `own`, or UNSURE, LOST.

        Raises ClusterUnreachable.
        """
        publication = _Publication(self, on_count, about, channel, payload, own)
        # PUBLISH also counts those who listen by a pattern, and they never answer.
        self.call(ignore if self._listeners else publication, b"PUBLISH", channel, payload)
        if self._listeners:
            self.call(publication.on_numsub, b"PUBSUB", b"NUMSUB", channel)

    def ask_again(self, publication: "_Publication") -> None:
        """Nobody had it. Somebody may, who is cut off from Redis now or was a moment ago."""
        if early := self._early():
            self._loop.call_later(early, self._look_again, publication)
        elif self._presence.others():
            self._look_again(publication)
        else:
            publication.tell(0)

    def _look_again(self, publication: "_Publication") -> None:
        if self._link is None or not self._up:
            publication.tell(UNSURE)
            return
        # Who comes back in between has all its channels again before its inbox, so it is seen here.
        self._ask_presence(self._link)
        self._link.call(publication.on_look, b"PUBSUB", b"NUMSUB", publication.channel)

    def publish_again(self, publication: "_Publication") -> None:
        """For somebody who is there now. Only then: a process at a replica gets all that its master is given, though
        the master doesn't count it, and would get it twice."""
        assert self._link  # its answer comes just now
        self._link.call(publication.on_second, b"PUBLISH", publication.channel, publication.payload)

    def surely(self, count: int) -> Any:
        """The number of processes that had it in the second try; UNSURE for none when one isn't there that might."""
        return count if count or self._complete else UNSURE

    async def absent(self, channels: Iterable[bytes]) -> set[bytes]:
        """Those that nobody has. Raises ClusterUnreachable, also when that can't be said for sure; ClusterLost."""
        asked = list(channels)
        absent = [channel for channel, count in zip(asked, await self.subscribers(asked), strict=True) if not count]
        if absent:
            await asyncio.sleep(self._early())
        if absent and self._presence.others() and self._link:
            self._ask_presence(self._link)
            counts = await self.subscribers(absent)
            absent = [channel for channel, count in zip(absent, counts, strict=True) if not count]
            if absent and not self._complete:
                raise ClusterUnreachable
        return set(absent)

    def reply(self, inbox: bytes, number: int, outcome: str) -> None:
        """Answer a request; all answers of a turn to the same process leave together."""
        if self._link and self._up:
            self._replies.setdefault(inbox, []).append((number, outcome))
            self._link.schedule()

    def on_present(self, inbox: bytes, number: int, left: bool) -> None:
        """A process said that it is there, or that it leaves; maybe this one."""
        if self._presence.hear(inbox, left):
            self._say_present(inbox)  # it has just come, and hasn't heard of us
        elif inbox == self._inbox and self._probe and self._probe[0] == number:
            fill(self._probe[1], None)

    def _on_answered(self, count: Any) -> None:
        if count == 0:
            self.doubt()  # who asks us isn't here: he is at the master, whose replica this one is by now, or just died

    def _say_present(self, to: bytes, number: int = -1, left: bool = False, on_count: OnReply = ignore) -> None:
        if self._link:
            payload = envelope.pack(
                envelope.PRESENT, inbox=self._inbox, number=number, clock=self._clock(), at=monotonic(), left=left
            )
            self._link.call(on_count, b"PUBLISH", to, payload)

    def _on_listeners(self, count: Any) -> None:
        """So many got what was said to nobody: they listen by a pattern (PSUBSCRIBE)."""
        count = 0 if count is LOST else count
        if count and not self._listeners:
            logger.warning("Redis %s: %d others listen to all that is sent (PSUBSCRIBE)", self._name, count)
        self._listeners = count

    def _early(self) -> float:
        """Seconds until others that lost Redis at the same time should be back, and this process has heard of them."""
        return max(0.0, self._settled_at - monotonic())

    def _ask_presence(self, link: Link) -> None:
        """Once a turn: are all processes connected that were heard of? `_complete` says so to later answers."""
        if not self._asked_presence:
            self._asked_presence = True
            others = self._presence.others() or [self._inbox]
            link.call(self._on_presence, b"PUBSUB", b"NUMSUB", *others)

    def _on_presence(self, reply: Any) -> None:
        self._complete = reply is not LOST and all(reply[1::2])

    # RedisConnection

    def channels(self) -> list[bytes]:
        # The inbox comes last: whoever sees it knows that all others are there.
        channels = list(self._subscriptions())
        self._on_back(channels)
        return [*channels, self._common, self._inbox]

    def on_message(self, channel: bytes, payload: bytes) -> None:
        self._on_message(self, channel, payload)

    def on_flush(self) -> None:
        self._asked_presence = False
        if self._replies and self._link:
            for inbox, replies in self._replies.items():
                self._link.call(self._on_answered, b"PUBLISH", inbox, envelope.pack(envelope.REPLIES, replies=replies))
            self._replies.clear()

    def on_subscribed(self, link: Link) -> None:
        self._ask_presence(link)
        self._say_present(self._common)
        self._say_present(self._unused, on_count=self._on_listeners)

    def on_up(self) -> None:
        self._replies.clear()
        self._presence.connected()
        if not self._settled_at:
            self._settled_at = monotonic() + min(SETTLE_TIME, 0.8 * self._timeout)

    async def after_gap(self) -> None:
        channels = list(self._subscriptions())
        counts = zip(channels, await self.subscribers(channels), strict=True)
        contests = [contest for channel, count in counts if (contest := self._on_checked(channel, count > 1))]
        if contests:
            await asyncio.wait(contests)

    def probe(self) -> asyncio.Future[None]:
        number, back = next(self._probes), asyncio.get_running_loop().create_future()
        self._probe = number, back
        self._say_present(self._common, number)
        self._say_present(self._unused, on_count=self._on_listeners)
        return back

    def on_leave(self) -> None:
        self._say_present(self._common, left=True)
