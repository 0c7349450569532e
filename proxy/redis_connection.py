"""A connection to Redis that is kept: connect, watch, back off, connect again; and what is wrong with it, in words.

`shard` says what is subscribed to and what goes over it; the socket itself is `link`.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import Any

from channels_redis.utils import create_pool
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError

from proxy.exceptions import ClusterLost, ClusterUnreachable
from proxy.link import HELLO, LOST, Link, OnReply, heed_cancellation, require_master
from proxy.redis_hosts import close_pool, in_words
from proxy.stats import Stats, stats

PROBE_PERIOD = 5.0  # seconds
RETRY_DELAYS = (0.05, 0.1, 0.2, 0.4)  # seconds between attempts to connect; the last one for all further ones
SUBSCRIBE_BATCH = 1000  # channels in one command
COUNT_BATCH = 500

_ROUND_TRIP = Stats.redis_round_trip[()]

logger = logging.getLogger("proxy.cluster")


class RedisConnection:
    """`host` is in the form of channels_redis' CONFIG, `name` is for messages; `timeout`, in seconds, for an answer.
    `client_name`: what Redis's CLIENT LIST shows, of this process alone."""

    def __init__(self, name: str, host: dict[str, Any], timeout: float, client_name: str) -> None:
        self._pool: ConnectionPool = create_pool({**host, "client_name": client_name})
        self._number = 0
        self._name = name
        sentinels = getattr(getattr(self._pool, "sentinel_manager", None), "sentinels", ())
        self._find_timeout = timeout * (1 + len(sentinels))  # which are asked one after the other
        # Each answer has `timeout`; a handful of them, far away, still come in time.
        self._connect_timeout = self._find_timeout + 2 * timeout
        self._timeout = timeout
        self._link: Link | None = None
        self._lost: asyncio.Future[str]
        self._doubted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._up = self._was_up = False
        self._since = monotonic()
        self._problem = "not connected yet"
        self.tried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done after the first attempt to connect, whatever came of it."""

    # What goes over it

    def channels(self) -> list[bytes]:
        """All that is subscribed to, in the order in which that is to be done."""
        raise NotImplementedError

    def on_message(self, channel: bytes, payload: bytes) -> None:
        """A message of a subscription."""

    def on_flush(self) -> None:
        """What was done in this turn is about to be written."""

    def on_subscribed(self, link: Link) -> None:
        """Subscribed to all channels. What is asked on `link` now is answered before it counts as connected."""

    def on_up(self) -> None:
        """Connected."""

    async def after_gap(self) -> None:
        """Find out what may have happened while it wasn't connected. Raises ClusterUnreachable, ClusterLost."""

    def probe(self) -> asyncio.Future[None]:
        """Publish something that has to come back."""
        raise NotImplementedError

    def on_leave(self) -> None:
        """This is the last moment to say something."""

    # Commands

    def call(self, on_reply: OnReply, *command: bytes) -> None:
        """A command with one answer. Raises ClusterUnreachable; a loss after that is LOST as answer."""
        if not self._up or self._link is None:
            raise ClusterUnreachable
        self._link.call(on_reply, *command)

    async def ask(self, *command: bytes) -> Any:
        """A command and its answer. Raises ClusterUnreachable, ClusterLost."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # The command has its place in the line of answers even when whoever waits for it is cancelled.
        self.call(partial(fill, answer), *command)
        reply = await answer
        if reply is LOST:
            raise ClusterLost
        return reply

    async def subscribers(self, channels: Iterable[bytes]) -> list[int]:
        """How many processes listen to each of some channels. Raises ClusterUnreachable, ClusterLost."""
        asked = list(channels)
        batches = [asked[start : start + COUNT_BATCH] for start in range(0, len(asked), COUNT_BATCH)]
        answers = await asyncio.gather(*[self.ask(b"PUBSUB", b"NUMSUB", *batch) for batch in batches])
        return [count for answer in answers for count in answer[1::2]]

    def subscribe(self, channel: bytes) -> None:
        self._write(b"SUBSCRIBE", channel)

    def unsubscribe(self, channel: bytes) -> None:
        self._write(b"UNSUBSCRIBE", channel)

    def _write(self, *command: bytes) -> None:
        if self._link:
            self._link.write(command)

    def problem(self) -> str | None:
        """Why it can't be used, in words, and for how long."""
        if self._up:
            return None
        return f"Redis {self._name}: {self._problem}, for {monotonic() - self._since:.0f} s"

    # Life

    async def run(self) -> None:
        """Stay connected until cancelled."""
        delays = iter(RETRY_DELAYS)
        try:
            while True:
                try:
                    await self._connect()
                    delays = iter(RETRY_DELAYS)
                    await self._watch()
                except (OSError, TimeoutError, RedisError, RuntimeError) as error:
                    # uvloop's RuntimeError: the socket closed as it was being set up. A bare TimeoutError has no text.
                    self._lose(str(error) or f"no answer within {self._timeout:g} s")
                except (ClusterLost, ClusterUnreachable):
                    self._lose("lost while subscribing")
                except Exception as error:
                    logger.exception("Redis %s: unexpected error", self._name)
                    self._lose(type(error).__name__)
                await asyncio.sleep(next(delays, RETRY_DELAYS[-1]) * random.uniform(0.8, 1.2))  # noqa: S311  # nosec B311
        finally:
            self._leave()
            await close_pool(self._pool)

    async def _connect(self) -> None:
        self._lost = asyncio.get_running_loop().create_future()
        link = Link(self.on_message, self.on_flush, self._on_lost, self._timeout)
        async with asyncio.timeout(self._connect_timeout):
            await link.open(self._pool, self._number)
        self._number = link.number
        # From here on every subscription that comes or goes is written to this link, in order.
        self._link = link
        channels = self.channels()
        for start in range(0, len(channels), SUBSCRIBE_BATCH):
            link.write((b"SUBSCRIBE", *channels[start : start + SUBSCRIBE_BATCH]))
        self.on_subscribed(link)
        subscribed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        link.call(partial(fill, subscribed), b"PING")
        if await subscribed is LOST:
            raise ConnectionError(self._lost.result() if self._lost.done() else "lost")
        gap = monotonic() - self._since
        if self._was_up:
            stats.link_gap_ms += round(gap * 1000)
            logger.warning("Redis %s: connected again after %.1f s", self._name, gap)
        self._up = self._was_up = True
        self.on_up()
        fill(self.tried, None)
        await self.after_gap()

    async def _watch(self) -> None:
        """Until the link is lost, or its subscription turns out to be dead, or the master another one."""
        while True:
            heed_cancellation()
            await asyncio.wait([self._lost, self._doubted], timeout=PROBE_PERIOD, return_when=asyncio.FIRST_COMPLETED)
            self._doubted = asyncio.get_running_loop().create_future()
            if self._lost.done():
                raise ConnectionError(self._lost.result())
            began = monotonic()
            back = self.probe()
            ends: list[asyncio.Future[Any]] = [back, self._lost]
            await asyncio.wait(ends, timeout=2 * self._timeout, return_when=asyncio.FIRST_COMPLETED)
            if not back.done() and not self._lost.done():
                raise ConnectionError("what is published doesn't come back")
            if back.done():
                stats.observe(_ROUND_TRIP, monotonic() - began)
            await self._check_master()

    def doubt(self) -> None:
        """Something is strange: look now whether all is well."""
        fill(self._doubted, "")

    async def _check_master(self) -> None:
        """Has it been replaced? With Sentinel it may not know, for it was cut off from the others."""
        find = getattr(self._pool, "get_master_address", None)
        if find is None:
            with contextlib.suppress(ClusterLost, ClusterUnreachable):
                require_master(await self.ask(*HELLO))
            return
        try:
            async with asyncio.timeout(self._find_timeout):
                master = await find()
        except (OSError, TimeoutError, RedisError):
            return
        if self._link and tuple(master) != self._link.address:
            raise ConnectionError(f"the master is {master[0]}:{master[1]} now")

    def _on_lost(self, why: str) -> None:
        fill(self._lost, why)
        self._down(why)

    def _lose(self, why: str) -> None:
        link, self._link = self._link, None
        self._down(why)
        if link:
            link.lose(why)

    def _down(self, why: str) -> None:
        why = in_words(why)
        if self._up:
            self._up = False
            self._since = monotonic()
            stats.link_losses += 1
            logger.warning("Redis %s: lost: %s", self._name, why)
        elif not self.tried.done():
            logger.warning("Redis %s can't be reached, will be tried again: %s", self._name, why)
        self._problem = why
        fill(self.tried, None)

    def _leave(self) -> None:
        if self._up:
            self.on_leave()
        link, self._link, self._up = self._link, None, False
        self._problem = "this process has left the cluster"
        fill(self.tried, None)
        if link:
            link.close()


def ignore(reply: object) -> None:
    """The answer to a command whose outcome nobody needs."""


def fill(future: asyncio.Future[Any], result: Any) -> None:
    """Set a future's result, unless it has one, or whoever waits for it was cancelled."""
    if not future.done():
        future.set_result(result)
