"""uvicorn's HTTP protocol with time-outs for all that a client may let the server wait for. Base of push_lane.py.

uvicorn's only one is for connections at rest, by a timer that starts after each answer and is cancelled at the next
request: a tenth of what a push costs. Here one timer looks at all connections, and that also starts the clocks of
heads and bodies, so a request pays for none.
"""

import asyncio
from functools import cache
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from proxy import conf, flow
from proxy.handlers import API
from proxy.http_reader import HttpReader
from proxy.stats import stats
from proxy.sweep import Sweeper

# Seconds between requests. Callers should be the ones who close: a push that meets our close is lost, and no client may
# repeat it by itself. nginx keeps a connection to us for 60 s, most HTTP libraries for less.
REST = 75
LOOKS = 10  # within the shortest time-out, so that none takes more than a fifth longer
SHORT_REST = 1.0  # seconds after an answer in which the next request is likely, and nobody closes the connection


class Patience(Sweeper["KeptAlive"]):
    """The HTTP connections of a listener; those that have become WebSockets aren't here any more."""

    def __init__(self, head: float, body: float, rest: float, most: int) -> None:
        self.head = head
        self.body = body
        self._most = most
        super().__init__(min(1.0, *(limit / LOOKS for limit in (head, body, rest) if limit)))

    def add(self, member: "KeptAlive") -> None:
        super().add(member)
        if self._most and len(self.members) > self._most:
            self._make_room()

    def _make_room(self) -> None:
        """Close the oldest that lets the server wait; the newest does. Who is served counts as new from then on."""
        now = asyncio.get_running_loop().time()
        while not (oldest := next(iter(self.members))).lets_wait(now):
            del self.members[oldest]
            self.members[oldest] = None
        del self.members[oldest]
        stats.http_connections_dropped += 1
        oldest.transport.close()

    def sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in tuple(self.members):
            connection.check(now)


@cache
def _patience(config: uvicorn.Config, state: ServerState, own_listener: bool) -> Patience:
    options = conf.options()
    most = 0 if own_listener else options.max_http_connections
    return Patience(options.header_timeout, options.body_timeout, config.timeout_keep_alive, most)


class KeptAlive(HttpReader):
    """Closes a connection whose client takes too long.

    `header_timeout` is for a whole head, from the beginning of the connection, or from the first byte after an answer;
    `body_timeout` for the body, or once the answer has begun, for each piece of it; uvicorn's `timeout_keep_alive` for
    silence after an answer. While the server takes its time, or doesn't read, no clock runs. Who takes nothing of an
    answer for `flow.STALLED` is dropped with what is unsent: TCP's own limit (`listeners`) isn't there on UNIX sockets.
    """

    reads_body = False
    """A head has come in whole, and its body hasn't yet."""
    _rests_since: float | None = None  # the loop's time; None: a request is here, in part or whole
    _waits_since: float | None = None  # for a head or a body, as the sweep has seen; None: it will
    _unsent = 0  # bytes of answers that the socket hasn't taken, as the sweep saw last
    _unsent_since = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.patience = _patience(self.config, self.server_state, API in self.app_state)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waits_since = self.loop.time()
        self.patience.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.patience.discard(self)
        super().connection_lost(exc)

    def _unset_keepalive_if_required(self) -> None:
        self._rests_since = None

    def on_headers_complete(self) -> None:
        self.reads_body = True
        self._waits_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        # Who answers while the body comes in, as a batch does, lets it come at its own pace.
        if (cycle := self.cycle) and cycle.response_started and not cycle.response_complete:
            self._waits_since = None

    def on_message_complete(self) -> None:
        self.reads_body = False
        self._waits_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._rests_since = self.loop.time()
        if not self.pipeline:
            self.flow.resume_reading()
            if self.flow.held:
                self.read_on()

    def lets_wait(self, now: float) -> bool:
        """Does the server wait for this client at `now` (the loop's time)? Not just after an answer."""
        if self._rests_since is not None:
            return now - self._rests_since >= SHORT_REST
        return self._waits_since is not None

    def check(self, now: float) -> None:
        """Close it if the client has taken too long at `now` (the loop's time)."""
        if self._is_stalled(now):
            stats.request_timeouts += 1
            self.transport.abort()
            return
        if self._rests_since is not None:
            if now - self._rests_since >= self.timeout_keep_alive:
                self.timeout_keep_alive_handler()
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or self.flow.write_paused or (answering and not self.reads_body):
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        else:
            limit = self.patience.body if self.reads_body else self.patience.head
            if limit and now - self._waits_since >= limit and not self.transport.is_closing():
                stats.request_timeouts += 1
                self.transport.close()

    def _is_stalled(self, now: float) -> bool:
        """Has the client taken nothing of what waits for it, for too long?"""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        return bool(unsent) and now - self._unsent_since >= flow.STALLED
